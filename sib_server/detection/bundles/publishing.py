"""Publishing, rolling back and stopping: changes of what the hosts shall have."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sib_protocol.bundles.archive import pack
from sib_protocol.bundles.names import BASE, TargetName, parse_target_name
from sib_server.detection.bundles.failures import NotReadyError, UnknownReleaseError
from sib_server.detection.bundles.releases import Part, Release, Releases, Stopped
from sib_server.detection.bundles.rollout import begin, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from sib_server.detection.bundles.releases import Rollout
    from sib_server.detection.bundles.repository import Repository
    from sib_server.detection.bundles.rollout import HostStanding, RolloutPolicy


@dataclass(frozen=True, slots=True)
class Content:
    """The archives of a bundle that has no version yet.

    Attributes:
        archives: by part, the base first.
    """

    archives: Mapping[str, bytes]

    def digests(self) -> dict[str, str]:
        """SHA-256 of each part."""
        return {name: hashlib.sha256(data).hexdigest() for name, data in self.archives.items()}


def make_content(base: Mapping[str, bytes], tags: Mapping[str, Mapping[str, bytes]]) -> Content:
    """Pack rule files.

    Args:
        base: for every host; names as in :mod:`sib_protocol.bundles.archive`.
        tags: by part (``tag-...``), for the hosts with that tag.

    Raises:
        ArchiveError: a name that cannot be, or more than a host would take.
    """
    return Content({BASE: pack(base), **{part: pack(tags[part]) for part in sorted(tags)}})


EMPTY = make_content({}, {})
"""A bundle without rules: what there was before the first one."""


class Publisher:
    """Changes what the hosts shall have.

    Args:
        repository: made already.
        policy: what rollouts are judged by.
        keep: how many releases can be rolled back to.
        clock: nanoseconds since 1970 UTC.
    """

    def __init__(
        self,
        repository: Repository,
        policy: RolloutPolicy,
        *,
        keep: int = 20,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._repository = repository
        self._policy = policy
        self._keep = keep
        self._clock = clock

    def publish(
        self,
        content: Content,
        *,
        hosts: Sequence[HostStanding] = (),
        percent: float = 100.0,
        note: str = "",
        above: int = 0,
        follows: int | None = None,
    ) -> Release:
        """Publish a bundle and begin its rollout.

        Args:
            content: of it.
            hosts: all that are enrolled; canaries are chosen from them, and by what they say of the
                one before it is told whether that is one to go back to.
            percent: how many of them are canaries; 100 goes to all at once.
            note: kept with it.
            above: the version is higher than this (what hosts report to have).
            follows: the version that the content was made from, if it was.

        Raises:
            NotReadyError: another one has come since, which the content would undo.
        """
        repository = self._repository
        with repository.locked():
            releases = repository.releases()
            if follows is not None and releases.newest != follows:
                raise NotReadyError(
                    f"bundle {releases.newest} was published meanwhile", "try again"
                )
            version = self._next_version(releases, above)
            digests = content.digests()
            for part, data in content.archives.items():
                repository.keep_archive(digests[part], data)
            parts = tuple(
                Part(str(TargetName(version, part)), digests[part], len(data))
                for part, data in content.archives.items()
            )
            release = Release(version, parts, self._clock(), note)
            rollout = begin(
                releases.rollout,
                version,
                hosts,
                percent=percent,
                now_ns=self._clock(),
                policy=self._policy,
            )
            repository.commit(self._after(releases, release, rollout))
            return release

    def roll_back(self, to: int | None = None) -> Release:
        """Give every host an earlier bundle's content, under a new version.

        Args:
            to: that bundle's version; ``None``: the newest with other content than the newest.

        Raises:
            UnknownReleaseError: it is not kept.
        """
        with self._repository.locked():
            releases = self._repository.releases()
            return self._restore(releases, earlier(releases, to), stopped=None)

    def stop(self, candidate: int, reason: str) -> Release | None:
        """Stop a rollout; its hosts get what was stable before, as a new version.

        Args:
            candidate: the version that is judged to do harm.
            reason: why.

        Returns:
            The new release; ``None`` if it is not rolled out any more. Another one may be, since it
            was judged: to stop that would bring back, as what was stable, the one that did harm.
        """
        with self._repository.locked():
            releases = self._repository.releases()
            rollout = releases.rollout
            if rollout.candidate != candidate:
                return None
            stopped = Stopped(rollout.candidate, reason, self._clock())
            return self._restore(releases, releases.find(rollout.stable), stopped)

    def go_on(self, rollout: Rollout) -> bool:
        """Put a rollout's next stage in force, unless another rollout began meanwhile."""
        with self._repository.locked():
            releases = self._repository.releases()
            current = releases.rollout.candidate
            if current is None or current not in {rollout.candidate, rollout.stable}:
                return False
            self._repository.commit(replace(releases, rollout=rollout))
            return True

    def _restore(self, releases: Releases, old: Release | None, stopped: Stopped | None) -> Release:
        version = self._next_version(releases, 0)
        if old is None:
            digest = EMPTY.digests()[BASE]
            self._repository.keep_archive(digest, EMPTY.archives[BASE])
            length = len(EMPTY.archives[BASE])
            parts: tuple[Part, ...] = (Part(str(TargetName(version, BASE)), digest, length),)
        else:
            parts = tuple(
                replace(part, target=str(TargetName(version, part.name))) for part in old.parts
            )
        restores = old.version if old else 0
        release = Release(version, parts, self._clock(), restores=restores)
        rollout = settle(releases.rollout, version, self._clock(), stopped)
        self._repository.commit(self._after(releases, release, rollout))
        return release

    def _after(self, releases: Releases, release: Release, rollout: Rollout) -> Releases:
        history = (*releases.history, release)
        needed = rollout.needed()
        cut = max(0, len(history) - self._keep)
        kept = tuple(one for one in history[:cut] if one.version in needed) + history[cut:]
        return Releases(kept, rollout)

    def _next_version(self, releases: Releases, above: int) -> int:
        targets = self._repository.targets()
        signed: Iterable[str] = targets.targets if targets is not None else ()
        # Signed and then not released, in a crash: a host may have seen it.
        seen = max((parse_target_name(name).version for name in signed), default=0)
        return max(releases.newest, seen, above) + 1


def earlier(releases: Releases, to: int | None) -> Release:
    """The release to go back to; see :meth:`Publisher.roll_back`.

    Raises:
        UnknownReleaseError: there is none.
    """
    if not releases.history:
        raise UnknownReleaseError(to, [])
    now = releases.history[-1].content()
    for release in reversed(releases.history[:-1]):
        wanted = release.version == to if to is not None else release.content() != now
        if wanted:
            return release
    raise UnknownReleaseError(to, [one.version for one in releases.history[:-1]])
