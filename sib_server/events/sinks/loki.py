"""The sink Loki: pushes events, and sees to it that each is stored or counted as refused."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from sib_server.events.sinks.base import DeliveryReport, SinkUnavailableError
from sib_server.events.sinks.http import parse_date_ns, parse_retry_after, read_bounded
from sib_server.events.sinks.loki_answers import (
    Answer,
    Knowledge,
    Refusal,
    Verdict,
    harder,
    read_answer,
)
from sib_server.events.sinks.loki_push import (
    ENTRY_OVERHEAD,
    NO_FIX,
    Entry,
    EventEncoder,
    Fix,
    PushRequest,
    plan,
)
from sib_server.stack.access import request_headers, tls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sib_server.events.sinks.settings import LokiSinkSettings
    from sib_server.events.stored import Seq, StoredEvent

_log: Final = logging.getLogger(__name__)

_MAX_ANSWER: Final = 256 * 1024
_SMALLEST_REQUEST: Final = 64 * 1024
_SAME_CLOCK_NS: Final = 5_000_000_000
"""Two clocks no further apart are taken for one: Loki tells its time by the second."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    adjusted: bool = False
    truncated: bool = False
    refused: Refusal | None = None


_STORED: Final = _Outcome()


class LokiSink:
    """Delivers to one Loki by ``POST /loki/api/v1/push``.

    Args:
        settings: where and how.
        now_ns: the wall clock, nanoseconds since 1970 UTC.
        clock: seconds, monotonic.

    Raises:
        StoreAccessError, FileAccessError: trust or credentials cannot be used.
    """

    def __init__(
        self,
        settings: LokiSinkSettings,
        *,
        now_ns: Callable[[], int] = time.time_ns,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = "loki"
        self.max_events = settings.max_events
        self.max_bytes = settings.max_request_bytes
        self._settings = settings
        self._now_ns = now_ns
        self._clock = clock
        self._encoder = EventEncoder(settings.sources)
        self._knowledge = Knowledge()
        self._request_bytes = settings.max_request_bytes
        # Both hold events of deliveries that failed in part, until they come again and succeed:
        # what is stored is not sent twice, and what was changed is sent the same again.
        self._outcomes: dict[Seq, _Outcome] = {}
        self._fixes: dict[Seq, Fix] = {}
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(settings.connections)
        # How far Loki's clock is ahead of ours. Loki judges times by its own, so where ours is
        # wrong an entry can go under none of ours.
        self._ahead_ns = 0
        self._url = settings.url.rstrip("/") + "/loki/api/v1/push"
        self._headers = {
            "Content-Type": "application/x-protobuf",
            **request_headers(settings.access, settings.tenant),
        }
        self._tls = tls(settings.access)

    async def deliver(self, events: Sequence[StoredEvent]) -> DeliveryReport:
        """See :class:`~sib_server.events.sinks.base.Sink`."""
        entries = self._entries(events)
        at = self._clock()
        lanes = plan(
            entries,
            lambda stream, oldest_ns: self._knowledge.trusts(stream, oldest_ns, at),
            self._request_bytes,
        )
        results = await asyncio.gather(*map(self._send_lane, lanes), return_exceptions=True)
        for result in results:
            if result is not None:
                raise result
        self._request_bytes = min(
            self._settings.max_request_bytes, self._request_bytes + self._request_bytes // 4
        )
        return self._report(events)

    async def close(self) -> None:
        """See :class:`~sib_server.events.sinks.base.Sink`."""
        if self._session is not None:
            await self._session.close()

    def _report(self, events: Sequence[StoredEvent]) -> DeliveryReport:
        outcomes = [self._outcomes.pop(event.seq) for event in events]
        if self._fixes:
            for event in events:
                self._fixes.pop(event.seq, None)
        odd = [outcome for outcome in outcomes if outcome is not _STORED]
        refused = Counter(item.refused.value for item in odd if item.refused is not None)
        return DeliveryReport(
            accepted=len(outcomes) - refused.total(),
            adjusted=sum(item.adjusted for item in odd),
            truncated=sum(item.truncated for item in odd),
            refused=dict(refused),
        )

    def _entries(self, events: Sequence[StoredEvent]) -> list[Entry]:
        longest = max((len(event.line) for event in events), default=0)
        most = self._settings.max_request_bytes - ENTRY_OVERHEAD
        if (
            not (self._outcomes or self._fixes)
            and longest <= most
            and self._knowledge.is_plain(longest)
        ):
            # The usual case, at a fraction of the cost.
            encode = self._encoder.encode
            return [encode(event) for event in events]
        return [self._entry(event) for event in events if event.seq not in self._outcomes]

    def _entry(self, event: StoredEvent) -> Entry:
        before = self._fixes.get(event.seq, NO_FIX) if self._fixes else NO_FIX
        most = self._settings.max_request_bytes - ENTRY_OVERHEAD
        if len(event.line) > most and before.line_limit is None:
            before = before._replace(line_limit=most)
        entry = self._encoder.encode(event, before)
        fix = self._knowledge.fix(event, entry.stream, before, self._loki_now_ns())
        if fix == NO_FIX:
            return entry
        self._fixes[event.seq] = fix
        return entry if fix == entry.fix else self._encoder.encode(event, fix)

    async def _send_lane(self, requests: list[PushRequest]) -> None:
        async with self._slots:
            for request in requests:
                await self._send(request)

    async def _send(self, request: PushRequest) -> None:
        answer = await self._push(request)
        if answer.verdict is Verdict.STORED:
            self._note_trust(request)
            self._settle(request.entries)
        elif len(request.streams) > 1:
            # Only a request of one stream says what is wrong with which.
            for entries in request.streams:
                await self._send(PushRequest((entries,)))
        elif answer.verdict is Verdict.SMALLER:
            await self._send_smaller(request.entries, answer)
        else:
            await self._send_fixed(request.entries, answer)

    async def _send_smaller(self, entries: list[Entry], answer: Answer) -> None:
        self._request_bytes = max(_SMALLEST_REQUEST, self._request_bytes // 2)
        if len(entries) > 1:
            await self._send_halves(entries)
        else:
            await self._send_harder(entries[0], answer)

    async def _send_fixed(self, entries: list[Entry], answer: Answer) -> None:
        self._knowledge.learn(answer, entries[0].stream, self._loki_now_ns())
        fixed = [self._entry(entry.event) for entry in entries]
        changed = [new for new, old in zip(fixed, entries, strict=True) if new.fix != old.fix]
        if not changed and len(entries) > 1:
            await self._send_halves(entries)
        elif not changed:
            await self._send_harder(entries[0], answer)
        elif answer.refused == len(changed):
            # Exactly these were refused, so the others are stored. They must not go again: what
            # came in with them may have moved the time before which Loki refuses.
            new = {entry.event.seq for entry in changed}
            self._settle([entry for entry in entries if entry.event.seq not in new])
            await self._send_sorted(changed)
        else:
            await self._send_sorted(fixed)

    async def _send_sorted(self, entries: list[Entry]) -> None:
        await self._send(PushRequest((tuple(sorted(entries, key=lambda item: item.time_ns)),)))

    async def _send_halves(self, entries: list[Entry]) -> None:
        middle = len(entries) // 2
        await self._send(PushRequest((tuple(entries[:middle]),)))
        await self._send(PushRequest((tuple(entries[middle:]),)))

    async def _send_harder(self, entry: Entry, answer: Answer) -> None:
        event = entry.event
        fix = harder(entry.fix, answer, event.line, self._loki_now_ns())
        if fix is not None:
            self._fixes[event.seq] = fix
            await self._send(PushRequest(((self._encoder.encode(event, fix),),)))
            return
        _log.warning("loki refuses event %s for good: %s", event.event_id, answer.reason)
        self._outcomes[event.seq] = _Outcome(refused=answer.refusal)

    def _loki_now_ns(self) -> int:
        return self._now_ns() + self._ahead_ns

    def _note_clock(self, date: str | None) -> None:
        told = parse_date_ns(date)
        if told is not None:
            ahead = told - self._now_ns()
            self._ahead_ns = ahead if abs(ahead) > _SAME_CLOCK_NS else 0

    def _note_trust(self, request: PushRequest) -> None:
        at = self._clock()
        for entries in request.streams:
            self._knowledge.stored(entries[0].stream, entries[-1].time_ns, at)

    def _settle(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._outcomes[entry.event.seq] = (
                _Outcome(entry.adjusted, entry.truncated)
                if entry.adjusted or entry.truncated
                else _STORED
            )

    async def _push(self, request: PushRequest) -> Answer:
        """One push; returns for every answer that says something about the request.

        Raises:
            SinkUnavailableError: it says that this is not the time.
        """
        session = self._session = self._session or self._connect()
        try:
            async with session.post(
                self._url, data=request.body(), allow_redirects=False
            ) as response:
                text = (await read_bounded(response, _MAX_ANSWER)).decode("utf-8", "replace")
                retry_after = parse_retry_after(response.headers.get("Retry-After"))
                self._note_clock(response.headers.get("Date"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            reason = f"{type(error).__name__}: {error}".rstrip(": ")
            raise SinkUnavailableError(self.name, reason) from error
        answer = read_answer(response.status, text, len(request.entries))
        if answer.verdict is Verdict.LATER:
            if answer.slow_down:
                # A request larger than what the limit allows at once would never pass.
                self._request_bytes = max(_SMALLEST_REQUEST, self._request_bytes // 2)
            raise SinkUnavailableError(self.name, answer.reason, retry_after)
        return answer

    def _connect(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=self._settings.timeout_seconds),
            connector=aiohttp.TCPConnector(limit=self._settings.connections, ssl=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
