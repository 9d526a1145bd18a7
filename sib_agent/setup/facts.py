"""What there is on this host: looked at here, judged in :mod:`sib_agent.setup.preflight`."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_agent.setup.falco_config import CONTAINER_PLUGIN, STOCK_RULES, FalcoFiles
from sib_protocol.machine_facts import (
    find_clock,
    find_container,
    find_disk,
    find_listeners,
    find_memory,
)
from sib_protocol.units import booted

if TYPE_CHECKING:
    from sib_agent.settings import AgentSettings, FalcoSettings
    from sib_protocol.machine import Clock, Container, Disk, Listener, Memory

_SECONDS: Final = 10.0
_OTHERS: Final = (
    *("falco*.service", "alloy*.service", "grafana-agent*.service"),
    *("promtail*.service", "*node*exporter*.service"),
)


@dataclass(frozen=True, slots=True)
class HostFacts:
    """A host as preflight judges it; ``None`` where it could not be found out.

    Attributes:
        kernel: its release, like ``6.1.0-18-amd64``.
        btf: whether the kernel describes its types.
        container: what this is, if it is one.
        capabilities: what any process here may have at most, as the kernel's bits.
        lockdown: the kernel's lockdown mode in force.
        memlock: the most memory that may be locked, bytes; -1 without a limit.
        memory: as found.
        disk: where the spool is.
        clock: as found.
        listeners: all on TCP.
        root: whether root looked.
        systemd: its version.
        journald: whether it runs.
        other_units: active units of other Falcos, Alloys, Promtails, exporters.
        falco: what of Falco is here.
        alloy: whether Alloy is here.
    """

    kernel: str
    btf: bool
    container: Container
    capabilities: int | None
    lockdown: str | None
    memlock: int | None
    memory: Memory | None
    disk: Disk | None
    clock: Clock
    listeners: tuple[Listener, ...]
    root: bool
    systemd: int | None
    journald: bool
    other_units: tuple[str, ...]
    falco: FalcoFiles
    alloy: bool


def ask(*command: str) -> str | None:
    """What a program prints; ``None`` where it is not there, fails, or takes too long."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def find_falco(settings: FalcoSettings) -> FalcoFiles:
    """What of Falco is in its place."""
    home = settings.home
    stock, plugin = home / STOCK_RULES, home / CONTAINER_PLUGIN
    return FalcoFiles(
        (home / "bin/falco").is_file(),
        stock if stock.is_file() else None,
        plugin if plugin.is_file() else None,
        os.cpu_count() or 1,
    )


def gather(settings: AgentSettings) -> HostFacts:
    """Look at the host. Changes nothing."""
    here = booted()
    # Of the first process: this one may be bounded by its unit.
    bounds = re.search(r"(?m)^CapBnd:\s*([0-9a-f]+)$", _read("/proc/1/status") or "")
    limits = re.search(r"(?m)^Max locked memory\s+\S+\s+(\S+)", _read("/proc/1/limits") or "")
    locked = re.search(r"\[(\w+)\]", _read("/sys/kernel/security/lockdown") or "")
    version = re.match(r"systemd (\d+)", (ask("systemctl", "--version") or "") if here else "")
    return HostFacts(
        kernel=platform.release(),
        btf=Path("/sys/kernel/btf/vmlinux").is_file(),
        container=find_container(),
        capabilities=int(bounds[1], 16) if bounds else None,
        lockdown=locked[1] if locked else None,
        memlock=(-1 if limits[1] == "unlimited" else int(limits[1])) if limits else None,
        memory=find_memory(),
        disk=find_disk(settings.spool.directory),
        clock=find_clock(),
        listeners=tuple(find_listeners()),
        root=os.geteuid() == 0,
        systemd=int(version[1]) if version else None,
        journald=Path("/run/systemd/journal/socket").exists(),
        other_units=_other_units() if here else (),
        falco=find_falco(settings.falco),
        alloy=(settings.alloy.home / "alloy").is_file(),
    )


def _read(path: str) -> str | None:
    try:
        with Path(path).open(encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return None


def _other_units() -> tuple[str, ...]:
    text = ask(
        *("systemctl", "list-units", "--type=service", "--state=active,activating,reloading"),
        *("--plain", "--no-legend", "--no-pager", *_OTHERS),
    )
    return other_units(text or "")


def other_units(listing: str) -> tuple[str, ...]:
    """The names in a listing of ``systemctl list-units --plain --no-legend``, but for ours."""
    names = (line.split(maxsplit=1)[0] for line in listing.splitlines() if line.strip())
    return tuple(name for name in names if not name.startswith("sib-"))
