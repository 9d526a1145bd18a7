"""TUF's metadata for bundles: what the next version of each role is. Pure; signs nothing.

Versions of targets, snapshot and timestamp are at least the time in seconds: a repository that was
put back from a backup goes on above what hosts have seen, instead of looking like an attack.
"""

from __future__ import annotations

from copy import deepcopy
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from tuf.api.metadata import MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import timedelta

    from securesystemslib.signer import Key
    from tuf.api.metadata import Signed

    from sib_server.detection.bundles.releases import Release

ONLINE_ROLES: Final = ("targets", "snapshot", "timestamp")
"""The roles whose keys the running server needs."""


def whole_seconds(now_ns: int) -> datetime:
    """A time as TUF writes it."""
    return datetime.fromtimestamp(now_ns // 10**9, timezone.utc)


def due(signed: Signed, life: timedelta, now: datetime) -> bool:
    """Whether metadata are past half of their life and should be signed anew."""
    return signed.expires - now <= life / 2


def first_root(
    keys: Mapping[str, Sequence[Key]], root_threshold: int, now: datetime, life: timedelta
) -> Root:
    """The root that all begins with.

    Args:
        keys: of each role.
        root_threshold: how many root keys have to sign the next root.
        now: whole seconds.
        life: how long it is valid.
    """
    root = Root(version=1, expires=now + life, consistent_snapshot=True)
    for role, own in keys.items():
        for key in own:
            root.add_key(key, role)
    root.roles["root"].threshold = root_threshold
    return root


def next_root(root: Root, now: datetime, life: timedelta) -> Root:
    """The same root, one version on and valid for longer. The given one is left alone."""
    following = deepcopy(root)
    following.version += 1
    following.expires = now + life
    return following


def replace_keys(root: Root, role: str, keys: Iterable[Key]) -> None:
    """Let other keys stand for a role, in place of those that did; the threshold stays."""
    for keyid in list(root.roles[role].keyids):
        root.revoke_key(keyid, role)
    for key in keys:
        root.add_key(key, role)


def next_version(before: int, now: datetime) -> int:
    """The version that follows."""
    return max(before + 1, int(now.timestamp()))


def next_targets(
    before: int, releases: Iterable[Release], now: datetime, life: timedelta
) -> Targets:
    """The list of targets with the parts of some releases and nothing else.

    Args:
        before: the version that it follows.
        releases: those that hosts may fetch.
        now: whole seconds.
        life: how long it is valid.
    """
    targets = {
        part.target: TargetFile(
            part.length,
            {"sha256": part.sha256},
            part.target,
            {"custom": {"version": release.version}},
        )
        for release in releases
        for part in release.parts
    }
    return Targets(version=next_version(before, now), expires=now + life, targets=targets)


def next_snapshot(before: int, targets: int, now: datetime, life: timedelta) -> Snapshot:
    """The snapshot that names a version of the list of targets."""
    return Snapshot(
        version=next_version(before, now),
        expires=now + life,
        meta={"targets.json": MetaFile(targets)},
    )


def next_timestamp(before: int, snapshot: int, now: datetime, life: timedelta) -> Timestamp:
    """The timestamp that names a version of the snapshot."""
    return Timestamp(
        version=next_version(before, now),
        expires=now + life,
        snapshot_meta=MetaFile(snapshot),
    )
