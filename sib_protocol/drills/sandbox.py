"""Does one act in a throw-away root and says how it ended. Needs root; for a process with one
thread.

Three processes: the caller; a monitor, which belongs to nobody (so that the rules see no
administrator's shell above the act) and ends whatever is left after the time is up; and the first
process of the act, in its own mount, network, UTS and IPC namespaces (and PID namespace, where it
shall look like a container). If any step of the isolation is refused, nothing is run.
"""

from __future__ import annotations

import os
import platform
import resource
import select
import shutil
import signal
import socket
import struct
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from sib_protocol.drills import linux, root
from sib_protocol.drills.confinement import (
    CAPABILITIES,
    CONTAINED_CAPABILITIES,
    system_call_filter,
)
from sib_protocol.drills.marks import VARIABLE, Mark
from sib_protocol.drills.standin import standin_program
from sib_protocol.errors import UNDECODABLE, ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_protocol.drills.model import Act, Endpoint

_NAME: Final = "sib-drill"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_PROCESSES: Final = 64
_MAX_FILE: Final = 16 * 1024 * 1024
_MAX_SAID: Final = 2000
_STEP_S: Final = 0.01
_NICE: Final = 5
"""Below the monitor, which has to be quicker than a fork bomb."""
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _SIOCSIFADDR, _UP = 0x8913, 0x8914, 0x8916, 1


class IsolationError(SibError):
    """The throw-away root cannot be had here, so nothing was run."""

    exit_code = ExitCode.REFUSED

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"drills cannot be isolated from this host, so none is run: {reason}",
            "run it as root, on a kernel with namespaces and overlayfs",
        )
        self.reason = reason


class Outcome(msgspec.Struct, frozen=True):
    """How an act ended.

    Attributes:
        code: the shell's exit status; negative for a signal; ``None`` where it was ended.
        said: the end of what it wrote to stderr.
        ended_by: why it was ended, else ``None``.
        refused: why it could not be isolated, else ``None``.
        started_ns: when its ``run`` part began, nanoseconds since 1970 UTC.
    """

    code: int | None
    said: str = ""
    ended_by: str | None = None
    refused: str | None = None
    started_ns: int = 0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What an act may take.

    Attributes:
        seconds: for setup and run together.
        processes: at once.
    """

    seconds: float = 10.0
    processes: int = _MAX_PROCESSES


def missing_programs(act: Act) -> list[str]:
    """What an act needs and this host has not."""
    return [name for name in act.needs if shutil.which(name, path=_PATH) is None]


def perform(act: Act, mark: Mark, bounds: Bounds | None = None) -> Outcome:
    """Do one act.

    Args:
        act: what to do.
        mark: by which its events are known again.
        bounds: what it may take.

    Raises:
        IsolationError: it could not be isolated; nothing was run.
    """
    if os.geteuid() != 0:
        raise IsolationError("only root can make the namespaces")
    program = standin_program(platform.machine())
    if program is None:
        raise IsolationError(f"no stand-in program for {platform.machine()}")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _leave_family(act, mark, bounds or Bounds(), program, writing)
    os.close(writing)
    with open(reading, "rb") as answer:  # noqa: PTH123 - a descriptor
        os.waitpid(child, 0)
        content = answer.read()
    try:
        outcome = msgspec.json.decode(content, type=Outcome)
    except UNDECODABLE as error:
        raise IsolationError("the monitor of the drill died") from error
    if outcome.refused is not None:
        raise IsolationError(outcome.refused)
    return outcome


def _leave_family(
    act: Act, mark: Mark, bounds: Bounds, program: bytes, writing: int
) -> NoReturn:  # pragma: no cover
    """Become nobody's child, so that no shell or sudo of the caller stands above the act."""
    code = 1
    try:
        os.setsid()
        if os.fork() == 0:
            _monitor(act, mark, bounds, program, writing)
        code = 0
    finally:
        os._exit(code)


def _monitor(
    act: Act, mark: Mark, bounds: Bounds, program: bytes, writing: int
) -> NoReturn:  # pragma: no cover
    try:
        base = Path(tempfile.mkdtemp(prefix="sib-drill-"))
        try:
            outcome = _watched(act, mark, bounds, program, base)
        finally:
            # Only ever mounted over in the act's own namespace: here it is empty.
            base.rmdir()
    except (OSError, ValueError) as error:
        outcome = Outcome(None, refused=str(error))
    with suppress(OSError):
        os.write(writing, msgspec.json.encode(outcome))
    os._exit(0)


def _watched(
    act: Act, mark: Mark, bounds: Bounds, program: bytes, base: Path
) -> Outcome:  # pragma: no cover
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    linux.set_name(_NAME)
    linux.become_subreaper()
    _be_quick()
    silence = os.open("/dev/null", os.O_RDWR)
    for place in range(3):
        os.dup2(silence, place)
    if act.contained:
        linux.unshare(linux.CLONE_NEWPID)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _first_process(act, mark, base, program, writing)
    os.close(writing)
    ended_by = None
    content = b""
    deadline = time.monotonic() + bounds.seconds
    try:
        while True:
            if select.select([reading], [], [], _STEP_S)[0]:
                part = os.read(reading, 65536)
                content += part
                if not part:
                    break
            if time.monotonic() > deadline:
                ended_by = f"it took longer than {bounds.seconds:g} s"
                break
            # No further than needed: a fork bomb grows while it is counted.
            seen = islice(_descendants(os.getpid()), bounds.processes + 1)
            if sum(1 for _ in seen) > bounds.processes:
                ended_by = f"it had more than {bounds.processes} processes"
                break
    finally:
        _end_all()
    if ended_by is not None:
        return Outcome(None, ended_by=ended_by, started_ns=time.time_ns())
    return msgspec.json.decode(content, type=Outcome)


def _be_quick() -> None:  # pragma: no cover - in a process that leaves its root
    """Get the processor before any number of processes of the act do."""
    with suppress(OSError):
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))


def _descendants(pid: int) -> Iterator[int]:  # pragma: no cover - in a process that leaves its root
    waiting = [pid]
    while waiting:
        # It may end while it is looked at: the folder itself, too, goes away then.
        with suppress(OSError):
            for children in [*Path("/proc", str(waiting.pop()), "task").glob("*/children")]:
                with suppress(OSError):
                    found = [int(child) for child in children.read_text().split()]
                    yield from found
                    waiting += found


def _end_all() -> None:  # pragma: no cover - in a process that leaves its root
    """End what is left of the act; its orphans have become this process's children."""
    own = os.getpgrp()
    while True:
        killed = {own}
        last = []
        for pid in _descendants(os.getpid()):
            with suppress(ProcessLookupError):
                group = os.getpgid(pid)
                # A group is killed at once, and at first sight: a fork bomb would run away from
                # one kill after the other.
                if group not in killed:
                    os.killpg(group, signal.SIGKILL)
                    killed.add(group)
                elif group == own:
                    last.append(pid)
        # Their orphans come to this process, and the kernel lists many children slowly.
        for pid in last:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)


def _first_process(
    act: Act, mark: Mark, base: Path, program: bytes, writing: int
) -> NoReturn:  # pragma: no cover
    try:
        linux.die_with_parent()
        linux.set_name(_NAME)
        linux.unshare(
            linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC
        )
        linux.set_hostname("drill")
        root.build(base, program)
        root.show_proc(contained=act.contained)
        sockets = _network(act.listen)
        outcome = _scripts(act, mark)
        for opened in sockets:
            opened.close()
    except (OSError, ValueError) as error:
        outcome = Outcome(None, refused=str(error))
    with suppress(OSError):
        os.write(writing, msgspec.json.encode(outcome))
    os._exit(0)


def _network(wanted: tuple[Endpoint, ...]) -> list[socket.socket]:  # pragma: no cover
    """Loopback up, with further addresses of its own; nothing leads out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        flags = struct.unpack("16xH14x", ioctl(control, _SIOCGIFFLAGS, request))[0]
        ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _UP))
        addresses = sorted({one.address for one in wanted if not one.address.startswith("127.")})
        for number, address in enumerate(addresses):
            name = f"lo:{number}".encode()
            ioctl(
                control,
                _SIOCSIFADDR,
                struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address)),
            )
    opened = []
    for one in wanted:
        kind = socket.SOCK_DGRAM if one.udp else socket.SOCK_STREAM
        listening = socket.socket(socket.AF_INET, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((one.address, one.port))
        if not one.udp:
            listening.listen(8)
        opened.append(listening)
    return opened


def _scripts(act: Act, mark: Mark) -> Outcome:  # pragma: no cover
    tools = Path(root.TOOLS)
    said = os.open("/tmp", os.O_RDWR | os.O_TMPFILE, 0o600)  # noqa: S108 - the drill's own
    if act.setup:
        (tools / "setup").write_text(act.setup)
        code = _shell("setup", mark.for_setup(), act, said)
        if code != 0:
            return Outcome(code, _tail(said), ended_by="its setup failed")
    (tools / "run").write_text(act.run)
    started = time.time_ns()
    return Outcome(_shell("run", mark, act, said), _tail(said), started_ns=started)


def _tail(said: int) -> str:  # pragma: no cover - in a process that leaves its root
    size = os.fstat(said).st_size
    return os.pread(said, _MAX_SAID, max(0, size - _MAX_SAID)).decode(errors="replace")


def _shell(script: str, mark: Mark, act: Act, said: int) -> int:  # pragma: no cover
    child = os.fork()
    if child == 0:
        try:
            _become_shell(script, mark, act, said)
        finally:
            os._exit(126)
    while True:
        # As the first process of a namespace this one has others' orphans to reap, too.
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            return os.waitstatus_to_exitcode(status)


def _become_shell(script: str, mark: Mark, act: Act, said: int) -> None:  # pragma: no cover
    linux.die_with_parent()
    os.setsid()
    os.dup2(said, 2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE, _MAX_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
    os.umask(0o022)
    os.nice(_NICE)
    allowed = system_call_filter(platform.machine(), contained=act.contained)
    linux.forbid_new_privileges()
    linux.keep_capabilities(CONTAINED_CAPABILITIES if act.contained else CAPABILITIES)
    if allowed is not None:
        linux.install_filter(allowed)
    os.closerange(3, 256)
    os.execve(  # noqa: S606 - the act itself
        "/bin/sh",
        ["sh", "-e", f"{root.TOOLS}/{script}"],
        {
            "PATH": f"{root.TOOLS}/bin:{_PATH}",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            VARIABLE: str(mark),
        },
    )
