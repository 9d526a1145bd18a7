"""Hosts with a systemd of their own, booted by systemd-nspawn, on a network without a way out."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("SIB_E2E_CACHE", Path.home() / ".cache" / "sib-e2e"))
# What loading eBPF programs needs; they see the whole machine's system calls.
BPF = ("--capability=all", "--system-call-filter=bpf perf_event_open")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PACKAGES = "systemd,systemd-sysv,dbus,ca-certificates,iproute2,python3,sudo,rpm"


def need() -> None:
    """Skip, by name, where hosts cannot be booted."""
    if os.geteuid() != 0:
        pytest.skip("booting hosts needs root")
    for program, package in (
        ("systemd-nspawn", "systemd-container"),
        ("mmdebstrap", "mmdebstrap"),
        ("ip", "iproute2"),
    ):
        if shutil.which(program) is None:
            pytest.skip(f"{program} not found: install {package}")


def run(*command: str, timeout: float = 60, stdin: str | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, input=stdin
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def base(suite: str) -> Path:
    """The unpacked base system, made once (half a minute on a quiet machine) and kept."""
    root = CACHE / f"{suite}-{hashlib.sha256(_PACKAGES.encode()).hexdigest()[:8]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        # One at a time, also of several runs.
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            partial = root.with_suffix(".part")
            shutil.rmtree(partial, ignore_errors=True)
            run(
                *("mmdebstrap", "--variant=apt", '--aptopt=Acquire::Retries "5"'),
                *(f"--include={_PACKAGES}", suite, str(partial)),
                timeout=800,
            )
            partial.rename(root)
    return root


def wait(what: str, happened: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"{what} did not happen in {seconds} s"
        time.sleep(0.2)


class Network:
    """A switch in a namespace of its own."""

    def __init__(self, tag: str) -> None:
        self.tag = tag
        self.switch = f"{tag}-sw"
        run("ip", "netns", "add", self.switch)
        run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", self.switch, "link", "set", "br0", "up")

    def attach(self, name: str, address: str) -> str:
        namespace = f"{self.tag}-{name}"
        run("ip", "netns", "add", namespace)
        port = ("peer", "name", name, "netns", self.switch)
        run("ip", "-n", namespace, "link", "add", "eth0", "type", "veth", *port)
        run("ip", "-n", self.switch, "link", "set", name, "master", "br0", "up")
        run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            run("ip", "-n", namespace, "link", "set", device, "up")
        return namespace

    def close(self, *namespaces: str) -> None:
        for namespace in (*namespaces, self.switch):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


class Host:
    """One booted host; its changes are in a directory of its own."""

    def __init__(
        self,
        network: Network,
        name: str,
        address: str,
        lower: Path,
        work: Path,
    ) -> None:
        self.name, self.address, self._work = name, address, work / name
        self.machine = f"{network.tag}-{name}"
        self.root = self._work / "root"
        # Overlays do not stack, and the work directory may lie on one.
        self._work.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "tmpfs", str(self._work))
        for part in ("upper", "work", "root"):
            (self._work / part).mkdir()
        options = f"lowerdir={lower},upperdir={self._work}/upper,workdir={self._work}/work"
        run("mount", "-t", "overlay", "overlay", "-o", options, str(self.root))
        (self.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        (self.root / "etc/hostname").write_text(f"{name}\n")
        # With all capabilities it would try, and fail: modules are the machine's.
        (self.root / "etc/systemd/system/systemd-modules-load.service").symlink_to("/dev/null")
        self.namespace = network.attach(name, address)
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._groups = [
            path / self.machine
            for path in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd"))
            if path.is_dir()
        ] or [Path("/sys/fs/cgroup") / self.machine]

    def boot(self, *options: str, states: tuple[str, ...] = ("running",)) -> None:
        """Start it with options of systemd-nspawn's, and wait until systemd says one of states."""
        for group in self._groups:
            group.mkdir(exist_ok=True)
        joins = "".join(f"echo $$ >{group}/cgroup.procs; " for group in self._groups)
        with (self._work / "console").open("wb") as console:
            self._nspawn = subprocess.Popen(
                [
                    *("sh", "-c", f'{joins}exec "$@"', "sh", "setsid", "systemd-nspawn", "-qbD"),
                    *(str(self.root), f"--machine={self.machine}", f"--hostname={self.name}"),
                    *("--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off"),
                    f"--network-namespace-path=/run/netns/{self.namespace}",
                    *("--link-journal=no", "--console=pipe", *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
            )
        wait(f"{self.name} to boot", lambda: self._is(states), 60)

    def _leader(self) -> str:
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        return children.read_text().split()[0]

    def _is(self, states: tuple[str, ...]) -> bool:
        assert self._nspawn is not None
        assert self._nspawn.poll() is None, (self._work / "console").read_text()[-2000:]
        try:
            return self.try_("systemctl", "is-system-running").stdout.strip() in states
        except IndexError:
            return False

    def try_(
        self, *command: str, timeout: float = 60, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        environment = ("env", "-i", f"PATH={_PATH}", "HOME=/root", "DEBIAN_FRONTEND=noninteractive")
        return subprocess.run(
            ["nsenter", "-t", self._leader(), "-a", *environment, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            input=stdin,
        )

    def do(self, *command: str, timeout: float = 60, stdin: str | None = None) -> str:
        done = self.try_(*command, timeout=timeout, stdin=stdin)
        assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Begin a command that nobody waits for."""
        environment = ("env", "-i", f"PATH={_PATH}", "HOME=/root", "DEBIAN_FRONTEND=noninteractive")
        return subprocess.Popen(
            ["nsenter", "-t", self._leader(), "-a", *environment, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def power_cut(self) -> None:
        """Kill everything on the host at one instant; its disk keeps what was written."""
        assert self._nspawn is not None
        os.kill(int(self._leader()), signal.SIGKILL)
        self._nspawn.wait(20)

    def close(self) -> None:
        if self._nspawn is not None and self._nspawn.poll() is None:
            with contextlib.suppress(OSError, IndexError, ValueError):
                os.kill(int(self._leader()), signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(10)
        for path in (self.root, self._work):
            subprocess.run(["umount", "-l", str(path)], capture_output=True, check=False)
        for group in self._groups:
            folders = sorted(group.rglob("*"), key=lambda path: -len(path.parts))
            for folder in (*folders, group):
                with contextlib.suppress(OSError):
                    folder.rmdir()
