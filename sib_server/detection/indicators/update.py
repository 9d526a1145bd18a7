"""Bringing feeds up to date: ask, read, exclude, judge, keep. The edge where all parts meet."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec

from sib_server.detection.indicators.admission import Refusal, Trouble, remember, smallest
from sib_server.detection.indicators.alarms import recovered_event, refused_event
from sib_server.detection.indicators.fetch import Download, Validators, fetch
from sib_server.detection.indicators.intake import (
    Judged,
    judge,
    make_exclusions,
    make_trust,
    read_file,
)
from sib_server.detection.indicators.merge import DAY
from sib_server.detection.indicators.places import shown
from sib_server.detection.indicators.state import (
    FeedState,
    FeedStates,
    after_failure,
    load_states,
    save_states,
)
from sib_server.detection.indicators.store import read_versions, update_lock, writing
from sib_server.detection.indicators.unpack import RefusedDownloadError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from sib_server.detection.indicators.catalogue import FeedDefinition
    from sib_server.detection.indicators.exclusions import Exclusions
    from sib_server.detection.indicators.settings import IntelSettings
    from sib_server.detection.indicators.store import Writer

_NANOSECONDS: Final = 1_000_000_000


class Outcome(Enum):
    """What came of one feed in one update."""

    TAKEN = "taken"
    UNCHANGED = "unchanged"
    NOT_DUE = "not due"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class FeedReport:
    """One feed in one update.

    Attributes:
        feed: its name.
        outcome: what came of it.
        indicators: how many it has now, after exclusions.
        new: how many of them it did not have before.
        rejected: entries that are no indicators.
        excluded: how many were excluded, by reason.
        refusal: why it was not taken.
        not_before: when it may be asked again, seconds since 1970 UTC.
    """

    feed: str
    outcome: Outcome
    indicators: int = 0
    new: int = 0
    rejected: int = 0
    excluded: dict[str, int] = field(default_factory=dict)
    refusal: Refusal | None = None
    not_before: int = 0


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """A whole update.

    Attributes:
        feeds: in the order they were asked.
        expired: sightings that went because no feed named them any more.
    """

    feeds: tuple[FeedReport, ...]
    expired: int

    @property
    def refused(self) -> tuple[FeedReport, ...]:
        """The feeds that kept their last good version although something is wrong."""
        return tuple(report for report in self.feeds if report.outcome is Outcome.REFUSED)


@dataclass(frozen=True, slots=True)
class Hooks:
    """Whom an update tells of what it does.

    Attributes:
        alarm: takes event lines.
        begin: a feed is asked now.
        progress: bytes taken of the feed and, where known, in all.
        end: a feed is done.
    """

    alarm: Callable[[bytes], None]
    begin: Callable[[str], None] = lambda _feed: None
    progress: Callable[[int, int | None], None] = lambda _taken, _total: None
    end: Callable[[FeedReport], None] = lambda _report: None


@dataclass(slots=True)
class _Update:
    """One update of several feeds into one new generation."""

    settings: IntelSettings
    exclusions: Exclusions
    trust: ssl.SSLContext
    hooks: Hooks
    now: int
    draw: random.Random
    states: dict[str, FeedState]
    versions: dict[str, int]
    source: Path | None
    elsewhere: bool
    accept: bool

    @property
    def by_hand(self) -> bool:
        """Whether the content is not asked of the feed's owner."""
        return self.source is not None or self.elsewhere

    def is_due(self, feed: FeedDefinition) -> bool:
        """Whether the feed's owner lets us ask; a file and another place can always be asked.

        So can, once, a feed whose last good version is gone: its owner's interval is for those
        who have it.
        """
        state = self.states.get(feed.name, FeedState())
        gone = state.indicators is not None and not state.failures and not self._holds(feed, state)
        return self.by_hand or gone or self.now >= state.not_before

    def _holds(self, feed: FeedDefinition, state: FeedState) -> bool:
        """Whether the store has the version that is remembered.

        It has not after a crash between the two writes, and where its file was removed.
        """
        return self.versions.get(feed.name) == state.succeeded

    def run(self, feed: FeedDefinition, writer: Writer | None) -> FeedReport:
        """Ask one feed; without a writer, only say why it is not asked."""
        state = self.states.get(feed.name, FeedState())
        if writer is None or not self.is_due(feed):
            return FeedReport(
                feed.name,
                Outcome.NOT_DUE,
                state.indicators or 0,
                refusal=Refusal(state.trouble, state.reason) if state.trouble else None,
                not_before=state.not_before,
            )
        self.hooks.begin(feed.name)
        try:
            download = self._download(feed, state)
        except RefusedDownloadError as error:
            return self._refused(feed, state, error.refusal, error.retry_after)
        if download.content is None:
            return self._unchanged(feed, state, writer)
        previous = None if self.accept else state.indicators
        days = self.settings.admission.days
        judged = judge(
            download.content,
            feed,
            self.settings,
            self.exclusions,
            previous=previous,
            lowest=smallest(previous, state.replaced, now=self.now, days=days),
            now=self.now,
        )
        if isinstance(judged, Refusal):
            return self._refused(feed, state, judged, 0.0)
        return self._taken(feed, state, download, judged, writer)

    def _download(self, feed: FeedDefinition, state: FeedState) -> Download:
        if self.source is not None:
            return read_file(self.source, self.settings)
        usable = state.url == shown(feed.url) and self._holds(feed, state)
        # A feed that is in trouble is asked for its content, not for whether that changed: the
        # validators are of the last good version only.
        validators = Validators(state.etag, state.last_modified) if usable else Validators()
        return fetch(
            feed,
            self.settings.download,
            self.trust,
            validators=validators,
            progress=self.hooks.progress,
        )

    def _next(self, feed: FeedDefinition, state: FeedState) -> int:
        # A file by hand does not use up what the feed's owner allows.
        return state.not_before if self.by_hand else self.now + feed.interval

    def _recover(self, feed: FeedDefinition, state: FeedState, indicators: int) -> None:
        if state.trouble not in (None, Trouble.LATER):
            line = recovered_event(feed.name, indicators, time_ns=self.now * _NANOSECONDS)
            self.hooks.alarm(line)

    def _taken(
        self,
        feed: FeedDefinition,
        state: FeedState,
        download: Download,
        judged: Judged,
        writer: Writer,
    ) -> FeedReport:
        count = len(judged.sightings)
        new = writer.merge(feed.name, judged.sightings)
        writer.mark(feed.name, at=self.now, life=feed.expires_days * DAY)
        self._recover(feed, state, count)
        self.states[feed.name] = FeedState(
            url="" if self.source is not None else shown(feed.url),
            etag=download.validators.etag,
            last_modified=download.validators.last_modified,
            attempted=self.now,
            succeeded=self.now,
            not_before=self._next(feed, state),
            indicators=count,
            rejected=judged.rejected,
            excluded=judged.excluded,
            # What somebody accepted is where counting begins anew.
            replaced=()
            if self.accept
            else remember(
                state.replaced,
                state.indicators,
                now=self.now,
                days=self.settings.admission.days,
            ),
        )
        return FeedReport(feed.name, Outcome.TAKEN, count, new, judged.rejected, judged.excluded)

    def _unchanged(self, feed: FeedDefinition, state: FeedState, writer: Writer) -> FeedReport:
        # What a feed still says does not grow old because the feed saves us the download.
        writer.prolong(feed.name, now=self.now, life=feed.expires_days * DAY)
        self._recover(feed, state, state.indicators or 0)
        self.states[feed.name] = msgspec.structs.replace(
            state,
            attempted=self.now,
            succeeded=self.now,
            not_before=self._next(feed, state),
            failures=0,
            trouble=None,
            reason="",
        )
        return FeedReport(feed.name, Outcome.UNCHANGED, state.indicators or 0)

    def _refused(
        self, feed: FeedDefinition, state: FeedState, refusal: Refusal, retry_after: float
    ) -> FeedReport:
        retry = after_failure(
            state.failures,
            self.now,
            draw=self.draw,
            interval=feed.interval,
            retry_after=retry_after,
        )
        # One alarm for one trouble, not one for every try.
        if refusal.trouble is not Trouble.LATER and refusal.trouble is not state.trouble:
            self.hooks.alarm(
                refused_event(
                    feed.name,
                    refusal.trouble,
                    refusal.reason,
                    kept=state.indicators,
                    time_ns=self.now * _NANOSECONDS,
                )
            )
        self.states[feed.name] = msgspec.structs.replace(
            state,
            attempted=self.now,
            not_before=state.not_before if self.by_hand else retry.not_before,
            failures=retry.failures,
            trouble=refusal.trouble,
            reason=refusal.reason,
        )
        return FeedReport(
            feed.name,
            Outcome.REFUSED,
            state.indicators or 0,
            refusal=refusal,
            not_before=0 if self.by_hand else retry.not_before,
        )


def update(
    settings: IntelSettings,
    feeds: Sequence[FeedDefinition],
    *,
    now: int,
    hooks: Hooks,
    own: Iterable[str] = (),
    source: Path | None = None,
    elsewhere: bool = False,
    accept: bool = False,
    draw: random.Random | None = None,
) -> UpdateReport:
    """Bring feeds up to date, all in one new generation of the indicators.

    Args:
        settings: where things are kept, and limits.
        feeds: which ones; only those whose owner's interval is over are asked.
        now: seconds since 1970 UTC.
        hooks: whom to tell.
        own: addresses and names of the server and its hosts.
        source: take the one feed from this file instead of the network.
        elsewhere: the one feed's URL is not its owner's, whose interval says nothing then.
        accept: take it however much it shrank or grew.
        draw: randomness for the wait after a failure.

    Raises:
        BusyStoreError: another update is under way.
        FileAccessError: something cannot be read or written.
        DamagedStoreError, DamagedStateError: a file is not what SIB wrote.
    """
    with update_lock(settings.directory):
        states = dict(load_states(settings.directory).feeds)
        run = _Update(
            settings,
            make_exclusions(settings, own),
            make_trust(settings),
            hooks,
            now,
            draw or random.SystemRandom(),
            states,
            read_versions(settings.directory),
            source,
            elsewhere,
            accept,
        )
        reports: list[FeedReport] = []
        if not any(run.is_due(feed) for feed in feeds):
            return UpdateReport(tuple(run.run(feed, None) for feed in feeds), 0)
        with writing(settings.directory, now) as writer:
            for feed in feeds:
                report = run.run(feed, writer)
                reports.append(report)
                hooks.end(report)
            expired = writer.expire(now)
        # After the indicators: a crash in between asks a feed once too often, and never believes
        # in a version that is not there.
        save_states(settings.directory, FeedStates(states))
    return UpdateReport(tuple(reports), expired)
