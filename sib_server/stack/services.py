"""What has to be told to systemd after a setup. The decision is pure; :class:`Systemd` tells it.

A unit is compared with what it was last started with, which is remembered: so a setup that was
killed half-way is made good by the next one, and one that changes nothing touches nothing.
"""

from __future__ import annotations

import hashlib
import subprocess
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sib_server.stack.layout import SERVER_UNIT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_TIMEOUT_SECONDS: Final = 30


class Marks(msgspec.Struct, frozen=True):
    """What a unit was last started with.

    Attributes:
        restart: checksum of what it reads when it starts.
        reload: checksum of what it reads again when it is told to.
    """

    restart: str
    reload: str


class Step(Enum):
    """What is done to a unit."""

    START = "start"
    RESTART = "restart"
    RELOAD = "reload"
    STOP = "stop"


class ServiceStep(msgspec.Struct, frozen=True):
    """What is done to one unit.

    Attributes:
        unit: its name.
        step: what.
    """

    unit: str
    step: Step


def checksum(contents: Iterable[bytes]) -> str:
    """One checksum of several contents, each told from the next."""
    whole = hashlib.sha256()
    for content in contents:
        whole.update(len(content).to_bytes(8, "big") + content)
    return whole.hexdigest()


def decide_steps(before: Mapping[str, Marks], now: Mapping[str, Marks | None]) -> list[ServiceStep]:
    """What to do about each unit.

    Args:
        before: what it was last started with; missing: never by a setup.
        now: what there is for it; ``None`` where it is not to run.
    """
    steps = []
    for unit, marks in now.items():
        old = before.get(unit)
        if marks is None:
            step = Step.STOP if old is not None else None
        elif old is None:
            # The server is started by the target alone: a new configuration beside it is no
            # reason to start one that was stopped.
            step = Step.RESTART if unit == SERVER_UNIT else Step.START
        elif old.restart != marks.restart:
            step = Step.RESTART
        elif old.reload != marks.reload:
            step = Step.RELOAD
        else:
            step = None
        if step is not None:
            steps.append(ServiceStep(unit, step))
    return steps


_COMMANDS: Final = {
    Step.START: "start",
    # These leave alone what somebody stopped.
    Step.RESTART: "try-restart",
    Step.RELOAD: "try-reload-or-restart",
    Step.STOP: "stop",
}


class Systemd:
    """The service manager, where there is one.

    Args:
        root: of the file system; for tests.
        program: for tests.
    """

    def __init__(self, root: Path = Path("/"), program: str = "systemctl") -> None:
        self.booted = (root / "run/systemd/system").is_dir()
        self._program = program

    def carry_out(self, steps: Iterable[ServiceStep]) -> list[ServiceStep]:
        """Tell it, without waiting for what comes of it: it may be waiting for this setup.

        Returns:
            The steps that were told.
        """
        told = []
        for step in steps if self.booted else ():
            # One that is not enabled is not to run.
            if step.step is Step.START and not self._ask("is-enabled", "--quiet", step.unit):
                continue
            if self._ask(_COMMANDS[step.step], "--no-block", step.unit):
                told.append(step)
        return told

    def _ask(self, *arguments: str) -> bool:
        try:
            done = subprocess.run(
                [self._program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return done.returncode == 0
