"""The way of an event, walked with a probe: listener, ingest, journal, every sink."""

from __future__ import annotations

import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from urllib3.exceptions import HTTPError

from sib_protocol.checks import Finding, failed, failed_by, skipped, well
from sib_protocol.errors import UNDECODABLE, MalformedMessageError, SibError
from sib_server.events.probe import probe_event
from sib_server.events.reader import JournalReader
from sib_server.events.sinks.falcosidekick_counts import Counts, parse_counts
from sib_server.events.stored import Seq
from sib_server.operations.doctor.outputs import judge_outputs
from sib_server.operations.doctor.visitor import NAME, send, visit
from sib_server.operations.stores import fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from sib_protocol.ids import LineNumber, StreamId
    from sib_server.pki.authority import Authority
    from sib_server.settings import ServerSettings
    from sib_server.stack.access import StoreAccess
    from sib_server.state.database import StateDatabase

Result = TypeVar("Result")
_PAUSE: Final = 0.1
_WINDOW_SECONDS: Final = 600
_JOURNAL_SECONDS: Final = 5.0


class Way:
    """One walk.

    Args:
        settings: the server's.
        names: of the server's certificate; the first is asked for.
        patience: how long a sink may take, seconds.
        alert: whether Falcosidekick's outputs get a test alert, too.
    """

    def __init__(
        self,
        settings: ServerSettings,
        names: tuple[str, ...],
        *,
        patience: float = 30.0,
        alert: bool = False,
    ) -> None:
        self._settings = settings
        self._name = names[0]
        self._patience = patience
        self._alert = alert
        self._nonce = secrets.token_hex(8)

    def walk(self, state: StateDatabase, authority: Authority) -> Iterator[Finding]:
        """A finding for each station, as it is reached; none after the first that is not."""
        listen = self._settings.listen
        address = {"::": "127.0.0.1", "0.0.0.0": "127.0.0.1"}.get(  # noqa: S104  (compared)
            listen.address, listen.address
        )
        line = probe_event(self._nonce, time.time_ns(), alert=self._alert)
        counts = self._falcosidekick_counts()
        start = time.monotonic()
        try:
            with visit(state, authority) as visitor:
                number = send(visitor, address, listen.port, self._name, line)
        except SibError as error:
            yield failed_by("probe-ingest", error)
            return
        taken = time.monotonic() - start
        yield well("probe-ingest", f"taken over mutual TLS and durable, {taken * 1000:.0f} ms")
        seq = self._in_journal(visitor.stream, number)
        if seq is None:
            yield failed(
                "probe-journal",
                f"event {visitor.stream}/{number} was taken and is not in the journal",
                f"is {self._settings.journal.path} the running server's? "
                "restart it if the settings were changed",
            )
            return
        yield well("probe-journal", f"event {visitor.stream}/{number} is its number {seq}")
        yield self._in_loki(seq)
        yield self._in_falcosidekick(seq, counts)

    def _in_journal(self, stream: StreamId, number: LineNumber) -> Seq | None:
        with JournalReader(self._settings.journal.path) as reader:

            def look() -> Seq | None:
                newest = reader.last_seq
                for event in reader.read(Seq(max(0, newest - 1000)), max_events=1000):
                    found = event.event_id
                    if (found.stream, found.number) == (stream, number):
                        return event.seq
                return None

            return _wait(look, _JOURNAL_SECONDS)

    def _passed(self, sink: str, seq: Seq) -> bool:
        with JournalReader(self._settings.journal.path) as reader:
            return bool(_wait(lambda: reader.cursor(sink) >= seq, self._patience))

    def _in_loki(self, seq: Seq) -> Finding:
        settings = self._settings.sinks.loki
        if not settings.enabled:
            return skipped("probe-loki", "the sink loki is not enabled")
        start = time.monotonic()
        if not self._passed("loki", seq):
            return failed(
                "probe-loki",
                f"the sink loki has not delivered the probe in {self._patience:.0f} s",
                "see 'sib-server status' and 'sib-server logs loki server'; nothing is lost",
            )
        query = f'{{source="sib",host="{NAME}"}} |= "{self._nonce}"'
        now = time.time_ns()
        fields = {
            "query": query,
            "start": str(now - _WINDOW_SECONDS * 10**9),
            "end": str(now + _WINDOW_SECONDS * 10**9),
            "limit": "5",
        }
        url = f"{settings.url.rstrip('/')}/loki/api/v1/query_range"

        def look() -> bool:
            page = _get(url, settings.access, fields=fields, tenant=settings.tenant)
            return loki_found(page, self._nonce)

        if not _wait(look, self._patience):
            return failed(
                "probe-loki",
                f"the probe was delivered to {settings.url}, and LogQL does not find it",
                "is it the Loki that you look into? see 'sib-server logs loki'",
            )
        return well("probe-loki", f"found by LogQL after {time.monotonic() - start:.1f} s")

    def _in_falcosidekick(self, seq: Seq, before: Counts | None) -> Finding:
        settings = self._settings.sinks.falcosidekick
        if not settings.enabled:
            return skipped("probe-falcosidekick", "the sink falcosidekick is not enabled")
        if before is None:
            return failed(
                "probe-falcosidekick",
                f"no counters at {settings.url}",
                "see 'systemctl status sib-falcosidekick'; events wait in the journal",
            )
        if not self._passed("falcosidekick", seq):
            return failed(
                "probe-falcosidekick",
                f"the sink falcosidekick is not past the probe after {self._patience:.0f} s",
                "see 'sib-server logs falcosidekick server'; nothing is lost",
            )
        now = self._falcosidekick_counts()
        return judge_outputs(before, now or before, settings.outputs, alert=self._alert)

    def _falcosidekick_counts(self) -> Counts | None:
        settings = self._settings.sinks.falcosidekick
        if not settings.enabled:
            return None
        page = _get(f"{settings.url.rstrip('/')}/metrics", settings.access)
        if page is None:
            return None
        with suppress(MalformedMessageError):
            return parse_counts(page.decode("utf-8", "replace"))
        return None


def loki_found(answer: bytes | None, nonce: str) -> bool:
    """Whether Loki's answer to a query holds the probe. Pure."""
    if answer is None:
        return False
    try:
        result = msgspec.json.decode(answer)["data"]["result"]
        return any(nonce in value[1] for stream in result for value in stream["values"])
    except (LookupError, TypeError, *UNDECODABLE):
        return False


def _get(
    url: str,
    access: StoreAccess,
    *,
    fields: Mapping[str, str] | None = None,
    tenant: str | None = None,
) -> bytes | None:
    try:
        status, content = fetch(url, access, fields=fields, tenant=tenant)
    except (HTTPError, OSError, SibError):
        return None
    return content if status == 200 else None


def _wait(look: Callable[[], Result | None], seconds: float) -> Result | None:
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found or time.monotonic() >= end:
            return found
        time.sleep(_PAUSE)
