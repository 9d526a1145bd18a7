"""What a host has to remember of bundles through a crash: plain data, and how it changes. Pure."""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec
from msgspec.structs import replace

from sib_protocol.messages import BundleEnd, BundleOutcome

_MOST_BAD: Final = 50
_REASON: Final = 500
MOST_INTERRUPTIONS: Final = 2
"""How often the agent or the host may go down during a trial before the bundle is blamed."""


class Phase(Enum):
    """Where a trial is."""

    PREPARED = "prepared"
    """It is decided that the bundle is put in force."""

    WATCHED = "watched"
    """It is in force, and what comes of it is watched."""

    REVERTING = "reverting"
    """It did harm; the one before is put back."""


class Trial(msgspec.Struct, frozen=True):
    """A bundle that is being put in force.

    Attributes:
        version: of the bundle.
        previous: the directory that was in force before.
        digests: of its parts.
        phase: where it is.
        engine: which run of Falco was there before; empty: none that could be watched.
        rate: events a second before, as far as was seen.
        interruptions: how often the agent ended meanwhile.
        reason: why it is reverted.
    """

    version: int
    previous: int
    digests: dict[str, str]
    phase: Phase = Phase.PREPARED
    engine: str = ""
    rate: float = 0.0
    interruptions: int = 0
    reason: str = ""


class BundleState(msgspec.Struct, frozen=True):
    """Everything a host remembers of bundles.

    Attributes:
        trust: SHA-256 of the pinned root that all of this is about, hex.
        version: of the bundle in force; 0 is none.
        directory: the directory with its files; another one's where their rules are the same.
        digests: of its parts.
        floor: the highest version that ever was on trial; nothing lower is taken from a server.
        bad: versions that were refused or rolled back; they are not tried again.
        trial: the bundle that is being put in force, if any.
        ended: how the last one ended, if any.
        failed: how the last one ended that was not taken, if any: what the server then publishes in
            its place ends within seconds, and would hide why.
    """

    trust: str = ""
    version: int = 0
    directory: int = 0
    digests: dict[str, str] = {}
    floor: int = 0
    bad: tuple[int, ...] = ()
    trial: Trial | None = None
    ended: BundleEnd | None = None
    failed: BundleEnd | None = None

    def in_force(self) -> int:
        """The directory that the symlink shall name now."""
        if self.trial is None:
            return self.directory
        reverting = self.trial.phase is Phase.REVERTING
        return self.trial.previous if reverting else self.trial.version


def started(state: BundleState, trust: str) -> BundleState:
    """The state after the agent started.

    Args:
        state: as it was kept.
        trust: the root that is pinned now; another one than before is another server, whose
            versions begin anew, and whose rules are not another's.
    """
    if state.trust != trust:
        return BundleState(trust=trust)
    if state.trial is None or state.trial.phase is Phase.REVERTING:
        return state
    trial = replace(state.trial, interruptions=state.trial.interruptions + 1)
    if trial.interruptions <= MOST_INTERRUPTIONS:
        return replace(state, trial=trial)
    reason = f"the agent or the host went down {trial.interruptions} times while it was on trial"
    return replace(state, trial=replace(trial, phase=Phase.REVERTING, reason=reason))


def prepared(state: BundleState, trial: Trial) -> BundleState:
    """A trial is decided."""
    return replace(state, trial=trial, floor=max(state.floor, trial.version))


def switched(state: BundleState) -> BundleState:
    """The trial's bundle is in force."""
    assert state.trial is not None  # noqa: S101  (the plan says so only of a trial)
    return replace(state, trial=replace(state.trial, phase=Phase.WATCHED))


def reverting(state: BundleState, reason: str) -> BundleState:
    """The trial did harm."""
    assert state.trial is not None  # noqa: S101
    return replace(state, trial=replace(state.trial, phase=Phase.REVERTING, reason=reason))


def reverted(state: BundleState, now: int) -> BundleState:
    """The one before is in force again."""
    assert state.trial is not None  # noqa: S101
    trial = state.trial
    end = _end(trial.version, BundleOutcome.ROLLED_BACK, trial.reason, now)
    bad = _worse(state.bad, trial.version)
    return replace(state, trial=None, bad=bad, ended=end, failed=end)


def accepted(state: BundleState, outcome: BundleOutcome, note: str, now: int) -> BundleState:
    """The trial went well, as far as could be seen."""
    assert state.trial is not None  # noqa: S101
    trial = state.trial
    return replace(
        state,
        version=trial.version,
        directory=trial.version,
        digests=trial.digests,
        trial=None,
        ended=_end(trial.version, outcome, note, now),
    )


def adopted(state: BundleState, version: int, now: int) -> BundleState:
    """A bundle with the very rules that are in force already: only its number changes."""
    note = "its rules were in force already"
    return replace(
        state,
        version=version,
        floor=max(state.floor, version),
        ended=_end(version, BundleOutcome.ACCEPTED, note, now),
    )


def refused(
    state: BundleState, version: int, reason: str, now: int, *, lasting: bool
) -> BundleState:
    """A bundle was not put in force.

    Args:
        state: before.
        version: of that bundle.
        reason: why.
        now: seconds since 1970 UTC.
        lasting: whether another try cannot end otherwise; else it was not proven this time.
    """
    bad = _worse(state.bad, version) if lasting else state.bad
    outcome = BundleOutcome.REFUSED if lasting else BundleOutcome.UNPROVEN
    end = _end(version, outcome, reason, now)
    before = state.ended
    same = before is not None and replace(before, at=now) == end
    return state if same else replace(state, bad=bad, ended=end, failed=end)


def _worse(bad: tuple[int, ...], version: int) -> tuple[int, ...]:
    return (*(one for one in bad if one != version), version)[-_MOST_BAD:]


def _end(version: int, outcome: BundleOutcome, reason: str, now: int) -> BundleEnd:
    return BundleEnd(version, outcome, reason[:_REASON], now)
