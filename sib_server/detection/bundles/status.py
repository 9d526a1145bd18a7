"""How bundles stand: the repository, the rollout, and the hosts. Pure but for :func:`look`."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sib_server.detection.bundles.keys import ROOT
from sib_server.detection.bundles.metadata import ONLINE_ROLES, whole_seconds
from sib_server.detection.bundles.releases import Stage
from sib_server.detection.bundles.rollout import tally, wanted_release

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sib_server.detection.bundles.releases import Releases
    from sib_server.detection.bundles.repository import Repository
    from sib_server.detection.bundles.rollout import HostStanding, RolloutPolicy

_ROOT_DAYS: Final = 60


@dataclass(frozen=True, slots=True)
class RoleStanding:
    """A role of the repository.

    Attributes:
        version: of its metadata.
        expires: when they end.
        keys: how many keys it has.
        keys_here: how many of them are on this server.
        threshold: how many have to sign.
    """

    version: int
    expires: datetime
    keys: int
    keys_here: int
    threshold: int


@dataclass(frozen=True, slots=True)
class HostCounts:
    """How many hosts are in which state; each host is in one.

    Attributes:
        current: have the bundle that they shall have.
        failing: could not prove it, refused it, or rolled it back.
        lagging: do not have it yet.
        untold: have not said which they have.
        versions: how many have each version.
    """

    current: int
    failing: int
    lagging: int
    untold: int
    versions: Mapping[int, int]

    def states(self) -> dict[str, int]:
        """By state."""
        return {
            "current": self.current,
            "failing": self.failing,
            "lagging": self.lagging,
            "untold": self.untold,
        }


def host_state(host: HostStanding, releases: Releases) -> str:
    """In which state a host is; see :class:`HostCounts`."""
    wanted = wanted_release(releases, host.host_id)
    if host.seen_ns == 0:
        return "untold"
    if wanted is None or host.version == wanted.version:
        return "current"
    return "failing" if host.without(wanted.version) else "lagging"


def count_hosts(hosts: Sequence[HostStanding], releases: Releases) -> HostCounts:
    """Count them."""
    states = Counter(host_state(host, releases) for host in hosts)
    versions = Counter(host.version for host in hosts if host.seen_ns)
    return HostCounts(
        **{state: states[state] for state in ("current", "failing", "lagging", "untold")},
        versions=dict(sorted(versions.items())),
    )


def look(repository: Repository) -> dict[str, RoleStanding]:
    """How each role stands.

    Raises:
        RepositoryMissingError, RepositoryDamagedError: as they say.
    """
    root = repository.root()
    chain: dict[str, Any] = {ROOT: root, **repository.chain()}
    return {
        role: RoleStanding(
            version=chain[role].version,
            expires=chain[role].expires,
            keys=len(root.roles[role].keyids),
            keys_here=len(repository.keys.present(role, root.roles[role].keyids)),
            threshold=root.roles[role].threshold,
        )
        for role in (ROOT, *ONLINE_ROLES)
    }


def find_problems(
    roles: Mapping[str, RoleStanding], releases: Releases, counts: HostCounts, now_ns: int
) -> list[str]:
    """What a person should know, each with what to do about it."""
    now = whole_seconds(now_ns)
    problems = []
    for role, found in roles.items():
        if found.expires <= now:
            problems.append(f"the {role} metadata have expired: hosts take no new bundle")
        if role != ROOT and found.keys_here < found.threshold:
            problems.append(f"the {role} key is not on this server: it cannot sign in time")
    root = roles[ROOT]
    left = (root.expires - now).days
    if root.keys_here < root.threshold and left < _ROOT_DAYS:
        problems.append(f"the root ends in {left} days: 'sib-server bundle keys renew-root'")
    if not releases.history:
        problems.append("no bundle was published yet: 'sib-server bundle publish'")
    stopped = releases.rollout.stopped
    if stopped is not None and releases.newest and _is_last(releases, stopped.version):
        problems.append(f"the rollout of bundle {stopped.version} was stopped: {stopped.reason}")
    if counts.failing:
        problems.append(f"{counts.failing} hosts would not have their bundle: see 'failing'")
    return problems


def _is_last(releases: Releases, version: int) -> bool:
    """Whether only the release that took its place came after a version."""
    return releases.newest == version + 1


def status_view(
    repository: Repository,
    hosts: Sequence[HostStanding],
    names: Mapping[str, str],
    policy: RolloutPolicy,
    now_ns: int | None = None,
) -> dict[str, Any]:
    """Everything as one JSON object; its keys are an interface.

    Args:
        repository: made already.
        hosts: all that are enrolled.
        names: by host id.
        policy: what rollouts are judged by.
        now_ns: nanoseconds since 1970 UTC.
    """
    now_ns = time.time_ns() if now_ns is None else now_ns
    roles, releases = look(repository), repository.releases()
    counts = count_hosts(hosts, releases)
    rollout = releases.rollout
    problems = find_problems(roles, releases, counts, now_ns)
    standing = tally(rollout, hosts, now_ns, policy)
    return {
        "state": "troubled" if problems else "well",
        "problems": problems,
        "version": rollout.candidate or rollout.stable,
        "rollout": {
            "stage": rollout.stage.value,
            "stable": rollout.stable,
            "candidate": rollout.candidate,
            "percent": rollout.percent if rollout.stage is Stage.CANARY else None,
            "since": _text(whole_seconds(rollout.since_ns)) if rollout.since_ns else None,
            "hosts": standing.hosts,
            "updated": standing.updated,
            "failed": standing.failed,
            "silent": standing.silent,
            "stopped": None
            if rollout.stopped is None
            else {
                "version": rollout.stopped.version,
                "reason": rollout.stopped.reason,
                "at": _text(whole_seconds(rollout.stopped.at_ns)),
            },
        },
        "hosts": {
            "total": len(hosts),
            **counts.states(),
            "versions": {str(version): count for version, count in counts.versions.items()},
        },
        "failing": [
            {
                "id": host.host_id,
                "name": names.get(host.host_id, ""),
                "version": host.ended,
                "outcome": host.outcome.value if host.outcome else None,
                "reason": host.reason,
            }
            for host in hosts
            if host_state(host, releases) == "failing"
        ],
        "roles": {
            role: {
                "version": found.version,
                "expires": _text(found.expires),
                "keys": found.keys,
                "keys_here": found.keys_here,
                "threshold": found.threshold,
            }
            for role, found in roles.items()
        },
        "releases": [
            {
                "version": release.version,
                "made": _text(whole_seconds(release.made_ns)),
                "note": release.note,
                "restores": release.restores,
                "parts": {
                    part.name: {"sha256": part.sha256, "bytes": part.length}
                    for part in release.parts
                },
            }
            for release in reversed(releases.history)
        ],
        "directory": str(repository.directory),
    }


def _text(time_: datetime) -> str:
    return time_.isoformat().replace("+00:00", "Z")
