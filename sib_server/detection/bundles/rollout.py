"""Which host gets which bundle, and when a rollout goes on or is stopped. Pure.

Canaries are chosen by a draw from the host's id and the version, so that every server of several
chooses the same ones, and each version has others. A host's own roll-back is the first line of
defence; stopping a rollout keeps the rest of the fleet from trying at all.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from sib_protocol.messages import BundleOutcome
from sib_server.detection.bundles.releases import Rollout, Stage, Stopped

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sib_protocol.ids import HostId
    from sib_server.detection.bundles.releases import Release, Releases

_SPACE: Final = 2**32
# Of the canaries that are heard of, so many must have the candidate before all follow.
_ENOUGH: Final = 0.5
_FAILED: Final = frozenset({BundleOutcome.REFUSED, BundleOutcome.ROLLED_BACK})
# A host whose clock is wrong proves nothing, and that is not the bundle's doing.
_WITHOUT: Final = _FAILED | {BundleOutcome.UNPROVEN}


@dataclass(frozen=True, slots=True)
class RolloutPolicy:
    """What rollouts are judged by.

    Attributes:
        soak_ns: how long canaries have to stay well.
        silent_ns: a host that began the rollout and was not heard of for so long has failed.
        failed_percent: of the hosts in the rollout, more than this many failed is too many.
    """

    soak_ns: int
    silent_ns: int
    failed_percent: float


@dataclass(frozen=True, slots=True)
class HostStanding:
    """What is known of a host and its bundle.

    Attributes:
        host_id: UUID.
        seen_ns: when its last report was received, nanoseconds since 1970 UTC; 0 is never.
        version: in force there; 0 is none or not told.
        ended: the version that ended last there, if any.
        outcome: how that one ended.
        reason: why it was refused or rolled back.
    """

    host_id: HostId
    seen_ns: int = 0
    version: int = 0
    ended: int | None = None
    outcome: BundleOutcome | None = None
    reason: str = ""

    def failed(self, version: int) -> bool:
        """Whether it would not have this version because of what is in it."""
        return self.ended == version and self.outcome in _FAILED

    def without(self, version: int) -> bool:
        """Whether it would not have this version, for whatever reason."""
        return self.ended == version and self.outcome in _WITHOUT


def draw(host_id: HostId, version: int) -> int:
    """A host's number in a version's draw, evenly spread over 32 bits."""
    return int.from_bytes(hashlib.sha256(f"{version}/{host_id}".encode()).digest()[:4], "big")


def canary_cut(hosts: Iterable[HostId], version: int, percent: float) -> int:
    """Up to which draw hosts are canaries: the given share, and at least one host if there is any.

    Args:
        hosts: all that are enrolled.
        version: the candidate's.
        percent: of the hosts, 0 to 100.
    """
    share = min(_SPACE - 1, math.floor(_SPACE * percent / 100))
    return max(share, min((draw(host, version) for host in hosts), default=0))


def in_rollout(rollout: Rollout, host_id: HostId) -> bool:
    """Whether a host is one of those that shall have the candidate."""
    if rollout.candidate is None:
        return False
    return rollout.stage is Stage.ALL or draw(host_id, rollout.candidate) <= rollout.cut


def wanted_release(releases: Releases, host_id: HostId) -> Release | None:
    """The bundle that a host shall have; ``None`` if there is none."""
    rollout = releases.rollout
    version = rollout.candidate if in_rollout(rollout, host_id) else rollout.outside
    return releases.find(version)


@dataclass(frozen=True, slots=True)
class Tally:
    """How the hosts of a rollout stand with the candidate.

    Attributes:
        hosts: of them, those that were heard of when it began, or since.
        updated: have it.
        failed: refused it or rolled it back.
        silent: were asked to take it and are silent since.
        reason: of one that failed.
    """

    hosts: int
    updated: int
    failed: int
    silent: int
    reason: str


def tally(
    rollout: Rollout, hosts: Sequence[HostStanding], now_ns: int, policy: RolloutPolicy
) -> Tally:
    """Count the hosts of a rollout. Those that were silent before it began do not count."""
    version = rollout.candidate or 0
    alive = [
        host
        for host in hosts
        if in_rollout(rollout, host.host_id) and host.seen_ns >= rollout.since_ns - policy.silent_ns
    ]
    failed = [host for host in alive if host.failed(version)]
    # Only a host that reported since was told of the candidate, and can have died of it.
    silent = [
        host
        for host in alive
        if not host.failed(version)
        and host.seen_ns >= rollout.since_ns
        and now_ns - host.seen_ns >= policy.silent_ns
    ]
    return Tally(
        hosts=len(alive),
        updated=sum(host.version == version for host in alive),
        failed=len(failed),
        silent=len(silent),
        reason=failed[0].reason if failed else "",
    )


def does_harm(found: Tally, policy: RolloutPolicy) -> bool:
    """Whether more of a rollout's hosts failed than may."""
    bad = found.failed + found.silent
    return bad > 0 and bad * 100 > policy.failed_percent * found.hosts


def is_proven(found: Tally, policy: RolloutPolicy) -> bool:
    """Whether enough of a rollout's hosts have the candidate, and it does no harm."""
    enough = found.updated > 0 and found.updated >= _ENOUGH * found.hosts
    return enough and not does_harm(found, policy)


def begin(
    rollout: Rollout,
    version: int,
    hosts: Sequence[HostStanding],
    *,
    percent: float,
    now_ns: int,
    policy: RolloutPolicy,
) -> Rollout:
    """The rollout of a new version.

    A candidate that only canaries have is given up for it. One that all hosts were given already is
    what they have; and what they go back to, if enough of them took it and it did no harm so far.
    """
    stable, given = rollout.stable, rollout.given
    if rollout.candidate is not None and rollout.stage is Stage.ALL:
        given = rollout.candidate
        if is_proven(tally(rollout, hosts, now_ns, policy), policy):
            stable, given = given, None
    return Rollout(
        stable=stable,
        given=given,
        candidate=version,
        stage=Stage.ALL if percent >= 100 else Stage.CANARY,
        percent=percent,
        cut=canary_cut([host.host_id for host in hosts], version, percent),
        since_ns=now_ns,
        stopped=rollout.stopped,
    )


def settle(rollout: Rollout, version: int, now_ns: int, stopped: Stopped | None) -> Rollout:
    """All hosts shall have this version and there is no candidate."""
    return Rollout(stable=version, since_ns=now_ns, stopped=stopped or rollout.stopped)


@dataclass(frozen=True, slots=True)
class Advance:
    """The rollout goes on: to all hosts, or to its end."""

    rollout: Rollout


@dataclass(frozen=True, slots=True)
class Stop:
    """The rollout is stopped: what was stable before is published again."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do now."""


def judge_rollout(
    rollout: Rollout, hosts: Sequence[HostStanding], now_ns: int, policy: RolloutPolicy
) -> Advance | Stop | Wait:
    """What becomes of a rollout."""
    if rollout.candidate is None:
        return Wait()
    if now_ns < rollout.since_ns:
        # The clock was put back: by it the stage would last until it is that late again.
        return Advance(replace(rollout, since_ns=now_ns))
    found = tally(rollout, hosts, now_ns, policy)
    if does_harm(found, policy):
        return Stop(_why(found))
    if rollout.stage is Stage.CANARY and not found.hosts:
        return _with_a_living_canary(rollout, hosts, now_ns, policy)
    if now_ns - rollout.since_ns < policy.soak_ns or found.updated < _ENOUGH * found.hosts:
        return Wait()
    return Advance(
        settle(rollout, rollout.candidate, now_ns, None)
        if rollout.stage is Stage.ALL
        else replace(rollout, stage=Stage.ALL, since_ns=now_ns)
    )


def _with_a_living_canary(
    rollout: Rollout, hosts: Sequence[HostStanding], now_ns: int, policy: RolloutPolicy
) -> Advance | Wait:
    """The stage anew with the next host in the draw that is heard of: nobody has tried it yet."""
    version = rollout.candidate or 0
    alive = [host for host in hosts if now_ns - host.seen_ns < policy.silent_ns]
    if now_ns - rollout.since_ns < policy.silent_ns or not alive:
        return Wait()
    cut = min(draw(host.host_id, version) for host in alive)
    return Advance(replace(rollout, cut=cut, since_ns=now_ns))


def _why(found: Tally) -> str:
    counts = [
        f"{number} of {found.hosts} hosts {what}"
        for number, what in (
            (found.failed, "refused it or rolled it back"),
            (found.silent, "went silent"),
        )
        if number
    ]
    return ", ".join(counts) + (f": {found.reason}" if found.reason else "")
