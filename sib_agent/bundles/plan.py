"""What to do next about bundles. Pure.

The invariant: the symlink names a directory that is complete, and after every crash the next step
follows from what is on disk alone. Each step is done by :mod:`.keeping`, which then asks again; a
step that was cut short is simply planned once more.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sib_agent.bundles.state import Phase

if TYPE_CHECKING:
    from sib_agent.bundles.state import BundleState, Trial
    from sib_protocol.messages import WantedBundle


@dataclass(frozen=True, slots=True)
class Disk:
    """What is there.

    Attributes:
        current: the directory that the symlink names; ``None`` without one.
        complete: directories that hold a whole bundle.
    """

    current: int | None
    complete: frozenset[int]


@dataclass(frozen=True, slots=True)
class Rest:
    """There is nothing to do."""


@dataclass(frozen=True, slots=True)
class Point:
    """Let the symlink name a directory."""

    directory: int


@dataclass(frozen=True, slots=True)
class Began:
    """Note that the trial's bundle is in force."""


@dataclass(frozen=True, slots=True)
class Watch:
    """See what comes of the bundle on trial."""


@dataclass(frozen=True, slots=True)
class Reverted:
    """Note that the bundle before the trial is in force again."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The directory that shall be in force is gone; begin anew with an empty one."""


@dataclass(frozen=True, slots=True)
class RefuseOlder:
    """Refuse a version below what was seen already."""

    version: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Fetch and prove a bundle."""

    wanted: WantedBundle


@dataclass(frozen=True, slots=True)
class Try:
    """Let Falco look at a bundle that was fetched, and decide."""

    version: int


Step = Rest | Point | Began | Watch | Reverted | Lost | RefuseOlder | Fetch | Try


def next_step(state: BundleState, disk: Disk, wanted: WantedBundle | None) -> Step:
    """The next step.

    Args:
        state: what is remembered.
        disk: what is there.
        wanted: what the server wants, if it said.
    """
    shall = state.in_force()
    if shall not in disk.complete:
        return Lost()
    if disk.current != shall:
        return Point(shall)
    return _on_trial(state.trial) if state.trial is not None else _at_rest(state, disk, wanted)


def _on_trial(trial: Trial) -> Step:
    match trial.phase:
        case Phase.PREPARED:
            return Began()
        case Phase.WATCHED:
            return Watch()
        case Phase.REVERTING:
            return Reverted()


def _at_rest(state: BundleState, disk: Disk, wanted: WantedBundle | None) -> Step:
    if wanted is None or wanted.version == state.version or wanted.version in state.bad:
        return Rest()
    if wanted.version < max(state.floor, state.version):
        return RefuseOlder(wanted.version)
    return Try(wanted.version) if wanted.version in disk.complete else Fetch(wanted)
