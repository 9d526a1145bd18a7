"""Looking at the machine: what :mod:`sib_protocol.machine` judges. Linux only; never fails.

What cannot be found out is ``None`` or left out: a check that cannot be made is no fault.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
import struct
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_protocol.machine import Clock, Container, Disk, Listener, Memory

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROC: Final = Path("/proc")
_LISTENING: Final = "0A"
_UNSYNCHRONIZED: Final = 0x40
_ERROR: Final = 5
_UNIT: Final = re.compile(r"/([^/]+\.service)(?:/|$)")
_UNIT_DIRECTORIES: Final = (
    "etc/systemd/system",
    "run/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
)


def find_memory(proc: Path = _PROC, cgroup: Path = Path("/sys/fs/cgroup")) -> Memory | None:
    """The memory that this system may use."""
    try:
        text = (proc / "meminfo").read_text(errors="replace")
        values = {
            key: int(value.split()[0]) * 1024
            for key, _, value in (line.partition(":") for line in text.splitlines())
            if key in ("MemTotal", "MemAvailable")
        }
        total, available = values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        return None
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            total = min(total, int((cgroup / name).read_text()))
    return Memory(total, min(total, available))


def find_disk(path: Path, proc: Path = _PROC) -> Disk | None:
    """The file system of a path; of its nearest parent where it is not there, or not ours to see.

    Whether it is read-only is asked of the file system and not of its mount: services that look
    have all the system mounted read-only for themselves.
    """
    for place in (path, *path.parents):
        try:
            device = place.stat().st_dev
            found = os.statvfs(place)
        except (FileNotFoundError, PermissionError):
            continue
        except OSError:
            return None
        return Disk(
            path=str(path),
            total=found.f_blocks * found.f_frsize,
            free=found.f_bavail * found.f_frsize,
            free_files=found.f_favail if found.f_files else None,
            read_only=_is_read_only(device, proc),
        )
    return None


def _is_read_only(device: int, proc: Path) -> bool:
    name = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):
        for line in (proc / "self/mountinfo").read_text(errors="replace").splitlines():
            mount, _, source = line.partition(" - ")
            columns, of_source = mount.split(), source.split()
            if len(columns) > 2 and columns[2] == name and len(of_source) > 2:
                return "ro" in of_source[2].split(",")
    return False


def find_clock() -> Clock:
    """The clock, and who keeps it."""
    built = Path(__file__).stat().st_mtime
    return Clock(
        now=datetime.now(timezone.utc),
        synchronized=_kernel_synchronized(),
        built=datetime.fromtimestamp(built, timezone.utc),
    )


def _kernel_synchronized() -> bool | None:
    """What the kernel was told by an NTP daemon, or by the host of this virtual machine."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        buffer = ctypes.create_string_buffer(512)
        state = libc.adjtimex(buffer)
    except (OSError, AttributeError):
        return None
    if state < 0:
        return None
    # struct timex: the modes (0 as it was given: only read), four longs, and then the status.
    (status,) = struct.unpack_from("@i", buffer.raw, struct.calcsize("@Illll"))
    return state != _ERROR and not status & _UNSYNCHRONIZED


def find_container(root: Path = Path("/")) -> Container:
    """Whether this system is a container, and whose."""
    known = {kind.value: kind for kind in Container}
    named = ""
    with suppress(OSError):
        named = (root / "run/systemd/container").read_text(errors="replace").strip()
    if not named:
        with suppress(OSError):
            environment = (root / "proc/1/environ").read_bytes().split(b"\0")
            named = next(
                (
                    entry.removeprefix(b"container=").decode("ascii", "replace")
                    for entry in environment
                    if entry.startswith(b"container=")
                ),
                "",
            )
    if named:
        kind = "lxc" if named.startswith("lxc") else named
        return known.get(kind, Container.OTHER)
    if (root / ".dockerenv").exists():
        return Container.DOCKER
    if (root / "run/.containerenv").exists():
        return Container.PODMAN
    with suppress(OSError):
        if "microsoft" in (root / "proc/sys/kernel/osrelease").read_text().lower():
            return Container.WSL
    return Container.NONE


def find_units(names: Iterable[str], root: Path = Path("/")) -> dict[str, bool]:
    """Which of these systemd units there are: name -> whether it is started at boot."""
    found = {}
    for name in names:
        if any((root / folder / name).exists() for folder in _UNIT_DIRECTORIES):
            wanted_by = (root / _UNIT_DIRECTORIES[0]).glob("*.wants")
            found[name] = any((folder / name).is_symlink() for folder in wanted_by)
    return found


def find_listeners(proc: Path = _PROC) -> list[Listener]:
    """Every TCP socket that is listened on in this network namespace, by port.

    Whose they are is known to root; others see their own processes only.
    """
    sockets = [
        entry for name in ("tcp", "tcp6") for entry in _listening_sockets(proc / "net" / name)
    ]
    owners = _socket_owners(proc, {inode for _, _, inode, _ in sockets})
    found = []
    for address, port, inode, uid in sockets:
        pid = owners.get(inode)
        if pid is None:
            found.append(Listener(address, port, uid=uid))
        else:
            found.append(Listener(address, port, pid, _program(proc, pid), _unit(proc, pid), uid))
    return sorted(found, key=lambda listener: (listener.port, listener.address))


def _listening_sockets(table: Path) -> list[tuple[str, int, str, int]]:
    found = []
    with suppress(OSError):
        for line in table.read_text(errors="replace").splitlines()[1:]:
            columns = line.split()
            if len(columns) > 9 and columns[3] == _LISTENING:
                address, _, port = columns[1].partition(":")
                with suppress(ValueError, OSError):
                    place = (_address(address), int(port, 16))
                    found.append((*place, columns[9], int(columns[7])))
    return found


def _address(text: str) -> str:
    """An address as /proc/net/tcp writes it: 32-bit words in this machine's byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    raw = struct.pack(f"={len(words)}I", *words)
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def _socket_owners(proc: Path, inodes: set[str]) -> dict[str, int]:
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    owners: dict[str, int] = {}
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        # A process may end, or may not be ours to look into.
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    inode = wanted.get(str(descriptor.readlink()))
                    if inode is not None:
                        owners.setdefault(inode, int(process.name))
    return owners


def _program(proc: Path, pid: int) -> str | None:
    with suppress(OSError):
        return (proc / str(pid) / "comm").read_text(errors="replace").strip()
    return None


def _unit(proc: Path, pid: int) -> str | None:
    with suppress(OSError):
        found = _UNIT.findall((proc / str(pid) / "cgroup").read_text(errors="replace"))
        return found[-1] if found else None
    return None
