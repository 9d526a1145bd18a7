"""What was released, and how far the newest has come: plain data, kept in one file."""

from __future__ import annotations

from enum import Enum

import msgspec

from sib_protocol.bundles.names import BASE, parse_target_name, tag_part


class Part(msgspec.Struct, frozen=True):
    """One archive of a bundle.

    Attributes:
        target: its name among TUF's targets.
        sha256: of the archive, hex.
        length: of the archive, bytes.
    """

    target: str
    sha256: str
    length: int

    @property
    def name(self) -> str:
        """``base``, or ``tag-`` and the tag."""
        return parse_target_name(self.target).part


class Release(msgspec.Struct, frozen=True):
    """A bundle that was published.

    Attributes:
        version: higher than all before.
        parts: the base first.
        made_ns: when, nanoseconds since 1970 UTC.
        note: what the publisher said of it.
        restores: the version whose content it brings back, if it does.
    """

    version: int
    parts: tuple[Part, ...]
    made_ns: int
    note: str = ""
    restores: int | None = None

    def content(self) -> dict[str, str]:
        """SHA-256 of each part; the same for the same content."""
        return {part.name: part.sha256 for part in self.parts}

    def targets_for(self, tags: tuple[str, ...]) -> tuple[str, ...]:
        """Names of the targets for a host with these tags, the base first."""
        wanted = {BASE, *map(tag_part, tags)}
        return tuple(part.target for part in self.parts if part.name in wanted)


class Stage(Enum):
    """How far a rollout is."""

    CANARY = "canary"
    """A part of the hosts has the candidate."""

    ALL = "all"
    """All hosts get it, and it is still watched."""

    DONE = "done"
    """There is no candidate; all hosts get the stable one."""


class Stopped(msgspec.Struct, frozen=True):
    """A rollout that was stopped.

    Attributes:
        version: of the candidate.
        reason: why, for people.
        at_ns: when, nanoseconds since 1970 UTC.
    """

    version: int
    reason: str
    at_ns: int


class Rollout(msgspec.Struct, frozen=True):
    """Which bundle which hosts shall have.

    Attributes:
        stable: the version that a roll-back goes to: hosts had it and it did no harm; 0 is none.
        candidate: the version that is being rolled out, if one is.
        given: the version that hosts outside the rollout have, if that is not the stable one: all
            were given it, and another one came before it was proven.
        stage: how far.
        percent: how many of the hosts are canaries.
        cut: hosts whose draw is at most this are canaries; see :mod:`.rollout`.
        since_ns: when the stage began, nanoseconds since 1970 UTC.
        stopped: the last rollout that was stopped, if any.
    """

    stable: int = 0
    candidate: int | None = None
    stage: Stage = Stage.DONE
    percent: float = 100.0
    cut: int = 0
    since_ns: int = 0
    stopped: Stopped | None = None
    given: int | None = None

    @property
    def outside(self) -> int:
        """The version that hosts outside the rollout shall have; 0 is none."""
        return self.stable if self.given is None else self.given

    def needed(self) -> set[int]:
        """The versions that some host shall have, or may have to go back to."""
        found = (self.stable, self.candidate, self.given)
        return {version for version in found if version is not None}


class Releases(msgspec.Struct, frozen=True):
    """Everything that the repository's own file holds.

    Attributes:
        history: the newest last; as many as can be rolled back to.
        rollout: of the newest.
    """

    history: tuple[Release, ...] = ()
    rollout: Rollout = Rollout()

    def find(self, version: int | None) -> Release | None:
        """The release of a version, if it is still known."""
        return next((one for one in self.history if one.version == version), None)

    @property
    def newest(self) -> int:
        """The highest version so far; 0 is none."""
        return self.history[-1].version if self.history else 0

    def live(self) -> tuple[Release, ...]:
        """Those that hosts may fetch now."""
        wanted = self.rollout.needed()
        return tuple(one for one in self.history if one.version in wanted)
