"""The sink Falcosidekick: posts events, and posts them again until every output took them.

After each batch the outputs' counters are compared. When one reported an error the batch goes
again, one event at a time, so that an outage repeats one event per attempt and not fifty
to the outputs that work. An event that an output refuses while it takes others is given up after a
few tries and counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import aiohttp

from sib_protocol.errors import MalformedMessageError
from sib_server.events.probe import is_quiet
from sib_server.events.sinks.base import DeliveryReport, SinkUnavailableError
from sib_server.events.sinks.falcosidekick_counts import (
    Comparison,
    Counts,
    Progress,
    compare,
    expected_counts,
    parse_counts,
)
from sib_server.events.sinks.falcosidekick_payload import Outgoing, is_demo, outgoing
from sib_server.events.sinks.http import parse_retry_after, read_bounded
from sib_server.stack.access import request_headers, tls

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sib_server.events.sinks.settings import FalcosidekickSinkSettings
    from sib_server.events.stored import Seq, StoredEvent

_log: Final = logging.getLogger(__name__)

CONNECTION: Final = "connection"
"""Stands among the destinations for Falcosidekick itself, which dropped the request."""

REFUSED_BY_FALCOSIDEKICK: Final = "falcosidekick"
REFUSED_BY_OUTPUT: Final = "output"

_MAX_PAGE: Final = 64 * 1024 * 1024
_TRIES: Final = 3
_RESUMES: Final = 5
_FIRST_POLL: Final = 0.005
_LAST_POLL: Final = 0.5


@dataclass(slots=True)
class _Attempt:
    """A batch that is posted and whose outputs are not known to be done."""

    batch: list[Outgoing]
    before: Counts
    expected: dict[str, int]
    lost: bool
    resumes: int = 0


@dataclass(slots=True)
class _Troubles:
    """What went wrong with one event: since when, and how often while others got through."""

    since: float
    tries: int = 0


class FalcosidekickSink:
    """Delivers to one Falcosidekick by ``POST /``.

    Args:
        settings: where and how.
        clock: seconds, monotonic.
        give_up_after: how long an event may fail before it counts as refused, seconds: an output
            that is set up wrongly must not keep events from the others for ever.

    Raises:
        StoreAccessError, FileAccessError: trust or credentials cannot be used.
    """

    def __init__(
        self,
        settings: FalcosidekickSinkSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        give_up_after: float = 3 * 24 * 3600.0,
    ) -> None:
        self.name = "falcosidekick"
        self.max_events = settings.batch_events
        self.max_bytes = 16 * 1024 * 1024
        self._settings = settings
        self._clock = clock
        self._give_up_after = give_up_after
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(settings.connections)
        self._url = settings.url.rstrip("/")
        self._headers = {
            "Content-Type": "application/json",
            **request_headers(settings.access, tenant=None),
        }
        self._tls = tls(settings.access)
        self._attempt: _Attempt | None = None
        self._careful = False
        self._turn = 0
        # Events of a delivery that failed in part, until they come again.
        self._outcomes: dict[Seq, str | None] = {}
        self._troubles: dict[Seq, _Troubles] = {}
        # The last event that each destination took: posted again where nothing else can show
        # that a destination works.
        self._proofs: dict[str, Outgoing] = {}
        self._absent: set[str] = set()

    async def deliver(self, events: Sequence[StoredEvent]) -> DeliveryReport:
        """See :class:`~sib_server.events.sinks.base.Sink`."""
        if self._attempt is not None:
            # Posting again what may still be under way would pile up copies in Falcosidekick.
            self._judge(self._attempt.batch, await self._finish(self._attempt))
        waiting = [
            outgoing(event)
            for event in events
            if event.seq not in self._outcomes and not (is_demo(event.line) or is_quiet(event))
        ]
        if self._careful:
            await self._deliver_carefully(waiting)
        elif waiting:
            failed = self._judge(waiting, await self._try(waiting))
            if failed:
                raise self._unavailable(failed)
        self._careful = False
        return self._report(events)

    async def close(self) -> None:
        """See :class:`~sib_server.events.sinks.base.Sink`."""
        if self._session is not None:
            await self._session.close()

    def _report(self, events: Sequence[StoredEvent]) -> DeliveryReport:
        # A demonstration has no outcome, since it is given to nobody; so it counts as taken.
        outcomes = [self._outcomes.pop(event.seq, None) for event in events]
        for event in events:
            self._troubles.pop(event.seq, None)
        refused = Counter(reason for reason in outcomes if reason is not None)
        return DeliveryReport(accepted=len(outcomes) - refused.total(), refused=dict(refused))

    def _unavailable(self, failed: frozenset[str]) -> SinkUnavailableError:
        named = ", ".join(sorted(failed)) or "an output"
        return SinkUnavailableError(self.name, f"errors reported by {named}")

    async def _deliver_carefully(self, waiting: list[Outgoing]) -> None:
        """One event at a time, each pass beginning with another, until nothing is left."""
        start = self._turn % len(waiting) if waiting else 0
        self._turn += 1
        working: set[str] = set()
        suspects: list[tuple[Outgoing, frozenset[str]]] = []
        for item in waiting[start:] + waiting[:start]:
            result = await self._try([item])
            failed = self._judge([item], result)
            working |= result.worked
            if failed:
                suspects.append((item, failed))
                if not failed <= working:
                    # Nothing shows that it is the event and not the output: wait.
                    break
        for proof in self._wanted_proofs(suspects, working):
            working |= (await self._try([proof])).worked
        blamed: set[str] = set()
        for item, failed in suspects:
            if not self._is_given_up(item, failed, working):
                blamed |= failed
        if any(item.event.seq not in self._outcomes for item in waiting):
            raise self._unavailable(frozenset(blamed))

    def _wanted_proofs(
        self, suspects: list[tuple[Outgoing, frozenset[str]]], working: set[str]
    ) -> list[Outgoing]:
        """Events to post again to see whether a destination works.

        Only for an event that failed before while others got through: in an outage this would
        double what the other outputs get.
        """
        wanted: dict[Seq, Outgoing] = {}
        for item, failed in suspects:
            troubles = self._troubles.get(item.event.seq)
            if troubles is not None and troubles.tries:
                for destination in failed - working:
                    proof = self._proofs.get(destination)
                    if proof is not None:
                        wanted[proof.event.seq] = proof
        return list(wanted.values())

    def _is_given_up(self, item: Outgoing, failed: frozenset[str], working: set[str]) -> bool:
        now = self._clock()
        troubles = self._troubles.setdefault(item.event.seq, _Troubles(now))
        troubles.tries += failed <= working
        if troubles.tries < _TRIES and now - troubles.since < self._give_up_after:
            return False
        _log.warning(
            "falcosidekick's %s refuse event %s for good", sorted(failed), item.event.event_id
        )
        self._outcomes[item.event.seq] = REFUSED_BY_OUTPUT
        return True

    def _judge(self, batch: list[Outgoing], result: Comparison) -> frozenset[str]:
        """Note what became of a batch; the destinations that failed, none if it is delivered."""
        failed = result.failed | result.missing
        if failed:
            self._careful = True
        else:
            for item in batch:
                self._outcomes.setdefault(item.event.seq, None)
            for destination in result.worked:
                self._proofs[destination] = batch[-1]
        return failed

    async def _try(self, batch: list[Outgoing]) -> Comparison:
        before = await self._counts()
        answers = await asyncio.gather(*map(self._post, batch))
        for item, status in zip(batch, answers, strict=True):
            if status in (400, 413, 422):
                _log.warning("falcosidekick refuses event %s: %s", item.event.event_id, status)
                self._outcomes[item.event.seq] = REFUSED_BY_FALCOSIDEKICK
        accepted = [item for item, status in zip(batch, answers, strict=True) if status == 200]
        self._absent -= {destination for destination, _ in before.outputs}
        expected = expected_counts(accepted, self._settings.outputs)
        self._attempt = _Attempt(
            batch,
            before,
            {name: count for name, count in expected.items() if name not in self._absent},
            lost=any(status is None for status in answers),
        )
        if not accepted and self._attempt.lost:
            self._attempt = None
            return Comparison(Progress.SETTLED, failed=frozenset({CONNECTION}))
        return await self._finish(self._attempt)

    async def _finish(self, attempt: _Attempt) -> Comparison:
        """Wait for the outputs, within bounds; what is still under way stays in mind.

        Raises:
            SinkUnavailableError: Falcosidekick restarted, or its outputs take too long.
        """
        settings = self._settings
        deadline = self._clock() + settings.settle_timeout_seconds
        last, moved_at, pause = attempt.before, self._clock(), _FIRST_POLL
        while True:
            counts = await self._counts()
            now = self._clock()
            if counts != last:
                last, moved_at = counts, now
            quiet = now - moved_at >= settings.settle_quiet_seconds
            result = compare(attempt.before, counts, attempt.expected, quiet=quiet)
            if result.progress is Progress.RESTARTED:
                self._attempt = None
                raise SinkUnavailableError(self.name, "restarted with events under way")
            if result.progress is Progress.SETTLED or now >= deadline:
                break
            await asyncio.sleep(pause)
            pause = min(_LAST_POLL, pause * 1.5)
        if result.progress is Progress.WAITING and attempt.resumes < _RESUMES:
            attempt.resumes += 1
            stuck = ", ".join(sorted(result.missing)) or "outputs"
            raise SinkUnavailableError(self.name, f"{stuck} still at work on earlier events")
        self._attempt = None
        worked, failed = result.worked, result.failed
        if attempt.lost:
            failed |= {CONNECTION}
        else:
            worked |= {CONNECTION}
        missing = result.missing - self._never_counted(result.missing, counts)
        return Comparison(result.progress, worked, failed, missing)

    def _never_counted(self, missing: frozenset[str], counts: Counts) -> frozenset[str]:
        """Destinations that are configured here and, by all signs, not in Falcosidekick."""
        absent = missing - {destination for destination, _ in counts.outputs}
        if absent:
            _log.error(
                "falcosidekick never counted anything for %s: no longer waited for until it does;"
                " see whether the setting `outputs` names what is enabled there",
                ", ".join(sorted(absent)),
            )
            self._absent |= absent
        return absent

    async def _counts(self) -> Counts:
        try:
            async with self._connected().get(
                self._url + "/metrics", allow_redirects=False
            ) as response:
                page = await read_bounded(response, _MAX_PAGE)
            if response.status != 200:
                raise SinkUnavailableError(self.name, f"{response.status} for its metrics")
            return parse_counts(page.decode("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unreachable(error) from error
        except MalformedMessageError as error:
            raise SinkUnavailableError(self.name, error.problem) from error

    async def _post(self, item: Outgoing) -> int | None:
        """The status for one event; None where there was no whole answer."""
        async with self._slots:
            try:
                async with self._connected().post(
                    self._url + "/", data=item.body, allow_redirects=False
                ) as response:
                    await read_bounded(response, 4096)
            except (aiohttp.ClientError, TimeoutError, OSError):
                return None
        if response.status in (200, 400, 413, 422):
            return response.status
        if response.status >= 500 or response.status == 408:
            return None
        raise SinkUnavailableError(
            self.name,
            f"{response.status} for an event",
            parse_retry_after(response.headers.get("Retry-After")),
        )

    def _unreachable(self, error: BaseException) -> SinkUnavailableError:
        return SinkUnavailableError(self.name, f"{type(error).__name__}: {error}".rstrip(": "))

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=self._settings.timeout_seconds),
                connector=aiohttp.TCPConnector(limit=self._settings.connections + 1, ssl=self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session
