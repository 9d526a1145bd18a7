"""How systemd says that units are; the same question and answer on both sides."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_BOOTED: Final = Path("/run/systemd/system")
_PROPERTIES: Final = ("Id", "LoadState", "ActiveState", "SubState", "Result", "NRestarts", "Type")
_SECONDS: Final = 5.0


class UnitState(msgspec.Struct, frozen=True):
    """How systemd says a unit is.

    Attributes:
        component: what the unit is for, in a word.
        unit: its whole name.
        active: systemd's word: active, inactive, failed, activating, ...
        detail: systemd's second word: running, dead, exited, ...
        result: ``success``, or why it failed.
        restarts: how often systemd started it again by itself.
        oneshot: it runs and ends; being inactive is no trouble.
    """

    component: str
    unit: str
    active: str
    detail: str
    result: str
    restarts: int
    oneshot: bool

    @property
    def troubled(self) -> bool:
        """It failed, or keeps failing."""
        return self.active == "failed" or self.detail == "auto-restart"


def show_command(units: Sequence[str]) -> tuple[str, ...]:
    """The command that asks systemd for units. Pure."""
    return ("/usr/bin/systemctl", "show", f"--property={','.join(_PROPERTIES)}", *units)


def parse_show(text: str, units: Mapping[str, str]) -> list[UnitState]:
    """Read ``systemctl show``'s answer; units that are not installed are left out. Pure.

    Args:
        text: the answer.
        units: component -> unit.
    """
    components = {unit: component for component, unit in units.items()}
    states = []
    for block in text.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        unit = values.get("Id", "")
        if unit not in components or values.get("LoadState") != "loaded":
            continue
        restarts = values.get("NRestarts", "")
        states.append(
            UnitState(
                component=components[unit],
                unit=unit,
                active=values.get("ActiveState", "unknown"),
                detail=values.get("SubState", "unknown"),
                result=values.get("Result", "unknown"),
                restarts=int(restarts) if restarts.isdecimal() else 0,
                oneshot=values.get("Type") == "oneshot",
            )
        )
    return states


def booted() -> bool:
    """Whether systemd runs here."""
    return _BOOTED.is_dir()


def ask_units(units: Mapping[str, str]) -> list[UnitState] | None:
    """How units are; ``None`` where systemd does not run or does not answer.

    Args:
        units: component -> unit.
    """
    if not booted():
        return None
    try:
        done = subprocess.run(
            show_command(tuple(units.values())),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    return parse_show(done.stdout.decode("utf-8", "replace"), units)
