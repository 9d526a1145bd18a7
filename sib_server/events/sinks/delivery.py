"""The loop that takes events from the journal to one sink, in order, skipping none."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from sib_protocol.backoff import Backoff
from sib_server.events.sinks.base import SinkUnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sib_server.events.sinks.base import DeliveryReport, Sink
    from sib_server.events.stored import Seq, StoredEvent

_log: Final = logging.getLogger(__name__)


class EventSource(Protocol):
    """The journal, as one sink sees it."""

    async def cursor(self) -> Seq:
        """The last event that was delivered; 0 before the first."""

    async def read(self, after: Seq, max_events: int, max_bytes: int) -> list[StoredEvent]:
        """The next events in order, none skipped; at least one unless there is none."""

    async def advance(self, seq: Seq) -> None:
        """Remember, durably, that all events up to this one are delivered."""

    async def wait(self, after: Seq) -> None:
        """Return when there is an event after this one."""


@dataclass(slots=True)
class DeliveryState:
    """What a sink's loop did so far, for metrics and ``status``.

    Attributes:
        cursor: the last delivered event.
        delivered: events that the sink accepted since the start of the process.
        adjusted: of those, the ones under another time.
        truncated: of those, the ones with a shortened line.
        refused: events that the sink will never take, by reason.
        failures: deliveries that had to be tried again.
        last_error: why the last one failed; None after a success.
        retry_at: until when the loop waits, by the loop's clock; None while it does not.
    """

    cursor: int = 0
    delivered: int = 0
    adjusted: int = 0
    truncated: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    failures: int = 0
    last_error: str | None = None
    retry_at: float | None = None

    def count(self, report: DeliveryReport) -> None:
        """Add one delivery's report."""
        self.delivered += report.accepted
        self.adjusted += report.adjusted
        self.truncated += report.truncated
        self.refused.update(report.refused or {})


class Delivery:
    """Delivers a source's events to one sink until it is cancelled.

    An event is passed over only after the sink has returned for it. A failing source (a full
    disk under the journal, say) is waited out like a failing sink.

    Args:
        sink: where to; closed when :meth:`run` ends.
        source: where from.
        backoff: the state before the first failure.
        draw: the source of jitter.
        clock: seconds, monotonic.
        sleep: waits that many seconds.
        grace: how long a delivery under way may take to end when the loop is cancelled, seconds.
    """

    def __init__(
        self,
        sink: Sink,
        source: EventSource,
        *,
        backoff: Backoff | None = None,
        draw: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] | None = None,
        grace: float = 2.0,
    ) -> None:
        self.sink = sink
        self.state = DeliveryState()
        self._source = source
        self._backoff = backoff or Backoff()
        self._draw = draw or random.SystemRandom()
        self._clock = clock
        self._sleep = sleep or asyncio.sleep
        self._grace = grace
        self._prefetched: asyncio.Task[list[StoredEvent]] | None = None

    async def run(self) -> None:
        """Deliver for ever.

        Cancelling stops it within ``grace`` seconds: a delivery that ends in that time still
        moves the cursor, so that a restart repeats as little as possible.
        """
        try:
            while True:
                await self._attempt()
        finally:
            await self._drop_prefetched()
            await self.sink.close()

    async def _attempt(self) -> None:
        try:
            await self._deliver_from(await self._source.cursor())
        except SinkUnavailableError as error:
            await self._back_off(error.reason, error.retry_after)
        except Exception as error:  # noqa: BLE001 - a loop that dies would stop a sink silently
            _log.exception("delivery to %s failed", self.sink.name)
            await self._back_off(f"{type(error).__name__}: {error}", None)

    async def _deliver_from(self, cursor: Seq) -> None:
        self.state.cursor = cursor
        while True:
            events = await self._next(cursor)
            if not events:
                await self._source.wait(cursor)
                continue
            self._prefetched = asyncio.create_task(self._read(events[-1].seq))
            cursor = await self._deliver(events)

    async def _next(self, cursor: Seq) -> list[StoredEvent]:
        prefetched, self._prefetched = self._prefetched, None
        # An empty prefetch is stale: events may have come while the last delivery was under way.
        return (await prefetched if prefetched else []) or await self._read(cursor)

    async def _read(self, after: Seq) -> list[StoredEvent]:
        return await self._source.read(after, self.sink.max_events, self.sink.max_bytes)

    async def _deliver(self, events: list[StoredEvent]) -> Seq:
        """Deliver and advance; a cancellation leaves the two together or not at all."""
        work = asyncio.create_task(self._deliver_and_advance(events))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work], timeout=self._grace)
            work.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await work
            raise
        return events[-1].seq

    async def _deliver_and_advance(self, events: list[StoredEvent]) -> None:
        report = await self.sink.deliver(events)
        await self._source.advance(events[-1].seq)
        self.state.cursor = events[-1].seq
        self.state.count(report)
        self.state.last_error = None
        self._backoff = self._backoff.succeeded()
        for reason, count in (report.refused or {}).items():
            _log.warning("%s refused %d events for good: %s", self.sink.name, count, reason)

    async def _back_off(self, reason: str, retry_after: float | None) -> None:
        # After a failure the next read may find more events, which can tell a poisonous one from
        # a sink that is down; so nothing read before is kept.
        await self._drop_prefetched()
        self._backoff = self._backoff.failed()
        seconds = self._backoff.wait(self._draw, at_least=retry_after or 0.0)
        self.state.failures += 1
        if self.state.last_error != reason:
            _log.warning("%s does not take events, trying again: %s", self.sink.name, reason)
        self.state.last_error = reason
        self.state.retry_at = self._clock() + seconds
        try:
            await self._sleep(seconds)
        finally:
            self.state.retry_at = None

    async def _drop_prefetched(self) -> None:
        prefetched, self._prefetched = self._prefetched, None
        if prefetched is not None:
            prefetched.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await prefetched
