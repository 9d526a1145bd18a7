"""Which file to read, and what to do with it next. Pure: plain data in, a decision out.

Falco's events file is taken over by renaming it: ``events.json`` becomes ``events.json.<n>.taken``,
and Falco makes a new one with its next event. Files are read one after the other: what is left of
the one that the spool's position is in, taken ones by their number, then the active one. The active
file is renamed only while it is the one being read, so once the reader is in the active file (or in
one that somebody else has renamed since), every taken file is done.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sib_agent.spool.records import SourcePosition

SETTLE_SECONDS: Final = 0.1
"""How long after a rename a writer that had looked the old name up may still be opening it."""

HELD_SECONDS: Final = 60.0
"""How long a renamed file may be held open for writing before that is called a problem."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be the one that a position is in.

    Attributes:
        name: in the events file's directory.
        number: for a taken file, the one in its name.
        active: it has the name that Falco writes to.
        device: ``st_dev``.
        inode: ``st_ino``.
        size: bytes.
        familiar: it is long enough, and the bytes before the position have its fingerprint.
    """

    name: str
    number: int | None
    active: bool
    device: int
    inode: int
    size: int
    familiar: bool


def taken_name(active: str, number: int) -> str:
    """What a file is called once it is taken over."""
    return f"{active}.{number}.taken"


def taken_number(active: str, name: str) -> int | None:
    """The number in a taken file's name; ``None`` for any other file."""
    match = re.fullmatch(re.escape(active) + r"\.([1-9][0-9]{0,17})\.taken", name)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin.

    Attributes:
        candidate: in which file; ``None`` while there is none.
        offset: at which byte.
        truncated: it is the position's file, but not with the bytes that were read from it.
        done: taken files up to this number are wholly in the spool.
    """

    candidate: Candidate | None
    offset: int
    truncated: bool
    done: int


def find_start(position: SourcePosition | None, candidates: Sequence[Candidate]) -> Start:
    """Find the place that a spool's position means.

    Args:
        position: of the spool's last mark.
        candidates: the active file, all taken ones, and any sibling with the position's inode.
    """
    if position is not None:
        same = [file for file in candidates if file.inode == position.inode]
        # The device's number may be another one after a boot: the bytes decide before it does.
        same.sort(key=lambda file: (not file.familiar, file.device != position.device))
        if same and (same[0].familiar or same[0].device == position.device):
            file = same[0]
            done = file.number - 1 if file.number is not None else _highest(candidates)
            return Start(file, position.offset if file.familiar else 0, not file.familiar, done)
    return Start(successor(candidates, 0), 0, truncated=False, done=0)


def successor(candidates: Iterable[Candidate], done: int) -> Candidate | None:
    """The file to read after taken file ``done``: the next taken one, else the active one."""
    taken = [file for file in candidates if file.number is not None and file.number > done]
    if taken:
        return min(taken, key=lambda file: file.number or 0)
    return next((file for file in candidates if file.active), None)


def _highest(candidates: Iterable[Candidate]) -> int:
    return max((file.number or 0 for file in candidates), default=0)


def next_number(candidates: Iterable[Candidate], done: int) -> int:
    """The number for the next file that is taken over."""
    return max(done, _highest(candidates)) + 1


class Step(Enum):
    """What to do next with the file being read."""

    RESTART = "restart"
    """It was truncated: read it from its beginning."""

    TAKE_OVER = "take over"
    """Rename it, so that Falco begins a new one."""

    READ = "read"
    """There is more in it."""

    LEAVE = "leave"
    """It is renamed, at its end and without a writer: go on with the next file."""

    WAIT = "wait"
    """Nothing to do until something changes."""


class Writers(Enum):
    """Who may still write to a file."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"
    """The file system or missing rights do not let us see."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How the file being read stands.

    Attributes:
        size: its bytes.
        read: how many of those are read.
        intact: the bytes before ``read`` are still the ones that were read.
        renamed: the active name is not (or no longer) this file's.
        rotate: it may be renamed: nothing forbids it or has just failed.
        followed: there is another file to go on with.
        settled: it is renamed for so long that who has it open can be told.
    """

    size: int
    read: int
    intact: bool
    renamed: bool
    rotate: bool
    followed: bool
    settled: bool


def next_step(standing: Standing, rotate_bytes: int) -> Step:
    """What to do with the file being read, as far as that can be said without asking for writers.

    :attr:`Step.LEAVE` means that it may be left if :func:`may_leave` agrees.
    """
    if not standing.intact or standing.size < standing.read:
        return Step.RESTART
    if not standing.renamed and standing.rotate and standing.size > rotate_bytes:
        return Step.TAKE_OVER
    if standing.size > standing.read:
        return Step.READ
    if standing.renamed and standing.followed and standing.settled:
        return Step.LEAVE
    return Step.WAIT


def may_leave(writers: Writers, quiet: float, grace: float) -> bool:
    """Whether nobody will write to a renamed file any more.

    Args:
        writers: who has it open for writing.
        quiet: seconds since it last grew.
        grace: seconds of quiet that count where writers cannot be seen.
    """
    if writers is Writers.UNKNOWN:
        return quiet >= grace
    return writers is Writers.NONE
