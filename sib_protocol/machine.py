"""What both sides' preflight asks of the machine, judged: memory, disk, clock, container, ports.

Pure: :mod:`sib_protocol.machine_facts` looks, this judges. The names of the checks are the same on
both sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from sib_protocol.checks import Finding, failed, skipped, warning, well

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from datetime import datetime

MIB: Final = 1024**2
GIB: Final = 1024**3
_LATEST_YEAR: Final = 2100


@dataclass(frozen=True, slots=True)
class Memory:
    """A machine's memory.

    Attributes:
        total: bytes that this system may use: of the machine, or less where a container has a
            limit.
        available: bytes that can be had without swapping.
    """

    total: int
    available: int


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system that holds a path, or would hold it.

    Attributes:
        path: that was asked for.
        total: its size in bytes.
        free: bytes that a service without root's reserve can have.
        free_files: inodes that can be had; ``None`` where the file system has no such limit.
        read_only: whether nothing can be written there.
    """

    path: str
    total: int
    free: int
    free_files: int | None = None
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Clock:
    """The wall clock.

    Attributes:
        now: with a time zone.
        synchronized: whether the kernel is told that something keeps it right; ``None``: unknown.
        built: when this program was made: no right clock is before that.
    """

    now: datetime
    synchronized: bool | None
    built: datetime


class Container(Enum):
    """What the system runs in, beside a real or virtual machine."""

    NONE = "none"
    LXC = "lxc"
    DOCKER = "docker"
    PODMAN = "podman"
    NSPAWN = "systemd-nspawn"
    WSL = "wsl"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Listener:
    """A TCP socket that somebody listens on.

    Attributes:
        address: as text; ``0.0.0.0`` and ``::`` are all addresses.
        port: number.
        pid: the process; ``None`` where it could not be found (another user's, or a container's).
        program: its name.
        unit: its systemd unit, like ``prometheus.service``.
        uid: the user that it belongs to; known to everybody, unlike the process.
    """

    address: str
    port: int
    pid: int | None = None
    program: str | None = None
    unit: str | None = None
    uid: int | None = None

    @property
    def owner(self) -> str:
        """For people: who it is, as well as it is known."""
        if self.pid is None:
            return f"a process of user {self.uid} that cannot be seen from here"
        of_unit = f" of {self.unit}" if self.unit else ""
        return f"{self.program or 'a process'} (process {self.pid}{of_unit})"


def size(amount: int) -> str:
    """Bytes for people: ``512 MiB``, ``3.9 GiB``."""
    if amount < GIB:
        return f"{amount / MIB:.0f} MiB"
    return f"{amount / GIB:.1f} GiB"


def judge_memory(memory: Memory | None, *, least: int, enough: int, purpose: str) -> Finding:
    """Whether there is memory enough.

    Args:
        memory: as found; ``None`` where it could not be.
        least: total bytes below which it does not work. A machine sold as 4 GiB shows some
            5 % less, which is counted as 4 GiB.
        enough: total bytes from which on it works well.
        purpose: what for, like ``the server with its stores``.
    """
    if memory is None:
        return skipped("memory", "/proc/meminfo cannot be read")
    seen = f"{size(memory.total)} of memory, {size(memory.available)} available"
    rounded = memory.total * 20 // 19
    if rounded < least:
        return failed(
            "memory", f"{seen}: too little for {purpose}", f"give the machine {size(enough)}"
        )
    if rounded < enough:
        return warning(
            "memory",
            f"{seen}: {purpose} can run out of it under load",
            f"give the machine {size(enough)}",
        )
    return well("memory", seen)


def judge_disk(
    disk: Disk | None, *, least: int, enough: int, purpose: str, check: str = "disk"
) -> Finding:
    """Whether there is room enough.

    Args:
        disk: as found; ``None`` where it could not be.
        least: free bytes below which it does not work for long.
        enough: free bytes from which on it works well.
        purpose: what for, like ``the journal``.
        check: the finding's name, where several are looked at.
    """
    if disk is None:
        return skipped(check, f"the file system for {purpose} cannot be looked at")
    seen = f"{disk.path}: {size(disk.free)} free of {size(disk.total)}"
    if disk.read_only:
        return failed(
            check, f"{disk.path}: mounted read-only", "mount it read-write, or look for disk errors"
        )
    if disk.free_files is not None and disk.free_files < 1000:
        return failed(
            check,
            f"{disk.path}: only {disk.free_files} more files can be made",
            "delete small files there: 'df -i' shows how many there are",
        )
    if disk.free < least:
        return failed(
            check, f"{seen}: too little for {purpose}", f"make room: {size(enough)} is enough"
        )
    if disk.free < enough:
        return warning(
            check, f"{seen}: little for {purpose}", f"make room: {size(enough)} is enough"
        )
    return well(check, seen)


def judge_clock(clock: Clock) -> Finding:
    """Whether the clock can be right: certificates and events are judged by it."""
    seen = f"{clock.now.isoformat(timespec='seconds')}"
    setting = "set it and keep it right: 'timedatectl set-ntp true', or install chrony"
    if clock.now < clock.built:
        made = clock.built.date().isoformat()
        return failed("clock", f"the clock says {seen}, and SIB was made on {made}", setting)
    if clock.now.year >= _LATEST_YEAR:
        return failed("clock", f"the clock says {seen}", setting)
    if clock.synchronized is None:
        return well("clock", f"{seen}; whether something keeps it right cannot be seen")
    if not clock.synchronized:
        return warning("clock", f"{seen}, and nothing keeps it right", setting)
    return well("clock", f"{seen}, kept right")


def overlaps(listening: str, wanted: str) -> bool:
    """Whether a listener on one address keeps another from listening on the same port."""
    everywhere = {"0.0.0.0", "::"}  # noqa: S104  (compared, not bound)
    return listening == wanted or listening in everywhere or wanted in everywhere


def judge_port(
    port: int,
    address: str,
    listeners: Iterable[Listener],
    *,
    ours: Collection[str],
    setting: str,
    users: Collection[int] = (),
    check: str | None = None,
    sees_all: bool = True,
) -> Finding:
    """Whether a port is free, or has who should have it.

    Args:
        port: TCP.
        address: where it is wanted.
        listeners: all that there are.
        ours: units that may have it.
        setting: which key gives the service another port.
        users: ids of the users of those units, which tell as much where a process is hidden.
        check: the finding's name; ``port-NUMBER`` by default.
        sees_all: whether the listeners' owners were looked up by root.
    """
    name = check or f"port-{port}"
    taken = [
        listener
        for listener in listeners
        if listener.port == port and overlaps(listener.address, address)
    ]
    for listener in taken:
        if listener.uid in users:
            continue
        if listener.pid is None and not sees_all:
            return skipped(
                name, f"port {port} is taken, and only root can see by whom", "run this as root"
            )
        if listener.unit not in ours:
            stop = (
                f"stop it ('systemctl disable --now {listener.unit}')"
                if listener.unit
                else "stop it"
            )
            return failed(
                name,
                f"port {port} is taken by {listener.owner}",
                f"{stop}, or choose another port: {setting}",
            )
    if taken:
        return well(name, f"port {port} has {taken[0].unit or ', '.join(sorted(ours))}")
    return well(name, f"port {port} is free")
