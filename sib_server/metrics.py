"""What the server tells Prometheus of itself; read when it is asked for, never kept twice."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from sib_protocol import __version__
from sib_server.events.failures import JournalError
from sib_server.state.database import StateUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from prometheus_client.core import Metric
    from starlette.requests import Request

    from sib_server.detection.bundles.metrics import BundleCollector
    from sib_server.detection.indicators.annotate import Annotator
    from sib_server.events.damage import DamageLog
    from sib_server.events.feeding import JournalSource
    from sib_server.events.reader import Lag
    from sib_server.events.routes import EventRoutes
    from sib_server.events.sinks.delivery import Delivery
    from sib_server.events.writer import JournalWriter
    from sib_server.fleet.enrollment import Fleet
    from sib_server.listener.gate import ConnectionGate
    from sib_server.pki.authority import Authority

_FLEET_SECONDS: Final = 10.0


class ServerCollector(Collector):
    """Turns the parts' own counts into metrics.

    The counts that need the disk are taken by :meth:`refresh`, off the loop, before a scrape.
    """

    def __init__(
        self,
        *,
        writer: JournalWriter,
        deliveries: Mapping[str, Delivery],
        sources: Mapping[str, JournalSource],
        gate: ConnectionGate,
        events: EventRoutes,
        damage: DamageLog,
        authority: Authority,
        fleet: Fleet,
        annotator: Annotator,
    ) -> None:
        self._writer = writer
        self._deliveries = deliveries
        self._sources = sources
        self._gate = gate
        self._events = events
        self._damage = damage
        self._authority = authority
        self._fleet = fleet
        self._annotator = annotator
        self._lags: dict[str, Lag] = {}
        self._hosts: dict[str, int] = {}
        self._hosts_at = float("-inf")
        self._certificate_end: float | None = None

    @property
    def healthy(self) -> bool:
        """Whether the journal takes events."""
        return self._writer.counts.failing is None

    async def refresh(self) -> None:
        """Read what the journal and the state database know."""
        for name, source in self._sources.items():
            try:
                self._lags[name] = await source.lag()
            except JournalError:
                self._lags.pop(name, None)
        if time.monotonic() - self._hosts_at >= _FLEET_SECONDS:
            self._hosts_at = time.monotonic()
            self._hosts = await asyncio.to_thread(self._count_hosts)
        installed = await asyncio.to_thread(self._authority.installed_server_certificate)
        self._certificate_end = (
            installed.certificate.not_valid_after_utc.timestamp() if installed else None
        )

    def _count_hosts(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        try:
            for host in self._fleet.hosts():
                state = self._fleet.state_of(host).value
                counts[state] = counts.get(state, 0) + 1
        except StateUnavailableError:
            return {}
        return counts

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        yield InfoMetricFamily("sib_server", "This server.", value={"version": __version__})
        yield from self._journal()
        yield from self._sinks()
        yield CounterMetricFamily(
            "sib_server_intel_events", "Events that met an indicator.", value=self._annotator.met
        )
        yield GaugeMetricFamily(
            "sib_server_intel_failing",
            "1 while events go to sinks without threat intelligence, because of a failure.",
            value=float(self._annotator.problem is not None),
        )
        yield from self._connections()
        hosts = GaugeMetricFamily("sib_server_hosts", "Enrolled hosts by health.", labels=["state"])
        for state, count in sorted(self._hosts.items()):
            hosts.add_metric([state], count)
        yield hosts
        if self._certificate_end is not None:
            yield GaugeMetricFamily(
                "sib_server_certificate_not_after_seconds",
                "When the server's certificate ends, seconds since 1970 UTC.",
                value=self._certificate_end,
            )

    def _journal(self) -> Iterator[Metric]:
        counts = self._writer.counts
        yield CounterMetricFamily(
            "sib_server_events_accepted",
            "Events made durable in the journal.",
            value=counts.stored,
        )
        yield CounterMetricFamily(
            "sib_server_lines_repeated",
            "Lines that came again and were skipped.",
            value=counts.skipped,
        )
        yield CounterMetricFamily(
            "sib_server_journal_commits", "Transactions of the journal.", value=counts.commits
        )
        yield CounterMetricFamily(
            "sib_server_journal_failures",
            "Transactions that failed; their events are sent again.",
            value=counts.failures,
        )
        yield CounterMetricFamily(
            "sib_server_gaps", "Gaps that hosts reported.", value=self._events.gaps_reported
        )
        yield CounterMetricFamily(
            "sib_server_lines_lost", "Lines inside those gaps.", value=self._events.lines_lost
        )
        yield GaugeMetricFamily(
            "sib_server_journal_waiting_events",
            "Events that wait for a commit.",
            value=self._writer.waiting_events,
        )
        yield CounterMetricFamily(
            "sib_server_journal_damaged_events",
            "Damaged events that were met while reading.",
            value=self._damage.events,
        )

    def _sinks(self) -> Iterator[Metric]:
        delivered = CounterMetricFamily(
            "sib_server_sink_delivered", "Events the sink accepted.", labels=["sink"]
        )
        adjusted = CounterMetricFamily(
            "sib_server_sink_adjusted", "Of those, under another time.", labels=["sink"]
        )
        truncated = CounterMetricFamily(
            "sib_server_sink_truncated", "Of those, with a shortened line.", labels=["sink"]
        )
        refused = CounterMetricFamily(
            "sib_server_sink_refused", "Events the sink never takes.", labels=["sink", "reason"]
        )
        failures = CounterMetricFamily(
            "sib_server_sink_failures", "Deliveries that were tried again.", labels=["sink"]
        )
        for name, delivery in sorted(self._deliveries.items()):
            state = delivery.state
            delivered.add_metric([name], state.delivered)
            adjusted.add_metric([name], state.adjusted)
            truncated.add_metric([name], state.truncated)
            failures.add_metric([name], state.failures)
            for reason, count in sorted(state.refused.items()):
                refused.add_metric([name, reason], count)
        yield from (delivered, adjusted, truncated, refused, failures)
        events = GaugeMetricFamily(
            "sib_server_sink_lag_events", "Events not yet delivered.", labels=["sink"]
        )
        seconds = GaugeMetricFamily(
            "sib_server_sink_lag_seconds", "Age of the oldest of them.", labels=["sink"]
        )
        for name, lag in sorted(self._lags.items()):
            events.add_metric([name], lag.events)
            seconds.add_metric([name], lag.seconds)
        yield from (events, seconds)

    def _connections(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "sib_server_connections", "Open connections.", value=self._gate.open
        )
        yield GaugeMetricFamily(
            "sib_server_connections_strangers",
            "Of those, without a client certificate.",
            value=self._gate.strangers,
        )
        yield CounterMetricFamily(
            "sib_server_connections_refused",
            "Connections closed because there were too many.",
            value=self._gate.refused,
        )
        yield GaugeMetricFamily(
            "sib_server_batch_memory_bytes",
            "What batches under way take.",
            value=self._events.budget.used,
        )


def metrics_routes(
    collector: ServerCollector, bundles: BundleCollector | None = None, *more: Collector
) -> list[Route]:
    """``/metrics`` and ``/healthz`` for the loopback port."""
    registry = CollectorRegistry()
    registry.register(collector)
    if bundles is not None:
        registry.register(bundles)
    for further in more:
        registry.register(further)

    async def metrics(_request: Request) -> Response:
        await collector.refresh()
        if bundles is not None:
            await bundles.refresh()
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    async def healthz(_request: Request) -> Response:
        if collector.healthy:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("the journal takes no events\n", 503)

    return [Route("/metrics", metrics), Route("/healthz", healthz)]
