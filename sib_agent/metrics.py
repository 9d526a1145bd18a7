"""What the agent tells Prometheus of itself; read when it is asked for, never kept twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from sib_protocol.errors import ExitCode, SibError
from sib_protocol.messages import BundleOutcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.core import Metric

    from sib_agent.health import Snapshot
    from sib_protocol.messages import BundleHealth


class MetricsPortError(SibError):
    """The metrics' port is taken."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, address: str, port: int, reason: str) -> None:
        super().__init__(
            f"cannot listen on {address} port {port}: {reason}",
            "set another metrics.port, or null, in the settings",
        )
        self.address = address
        self.port = port


class AgentCollector(Collector):
    """Turns a snapshot into metrics.

    Args:
        snapshot: takes one.
    """

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        now = self._snapshot()
        report, spool = now.report, now.report.spool
        yield InfoMetricFamily("sib_agent", "This agent.", value={"version": report.version})
        counters = {
            "sib_agent_lines_read": ("Event lines taken into the spool.", report.lines_read),
            "sib_agent_lines_cut": ("Of those, ones cut for their length.", report.lines_cut),
            "sib_agent_lines_sent": ("Lines the server acknowledged.", now.lines_sent),
            "sib_agent_batches_sent": ("Batches the server acknowledged.", now.batches_sent),
            "sib_agent_bytes_sent": ("What these took on the wire.", now.bytes_sent),
            "sib_agent_send_failures": ("Tries to send that failed.", now.send_failures),
            "sib_agent_gaps": ("Gaps reported to the server.", now.gaps_sent),
            "sib_agent_truncations": ("Times the events file was truncated.", now.truncations),
            "sib_agent_lines_lost": ("Lines lost to quota and damage.", spool.lost),
        }
        for name, (text, value) in counters.items():
            yield CounterMetricFamily(name, text, value=value)
        gauges = {
            "sib_agent_spool_bytes": ("The spool's size.", spool.bytes),
            "sib_agent_spool_quota_bytes": ("What that may be at most.", spool.quota),
            "sib_agent_spool_lines": (
                "Lines not yet acknowledged.",
                spool.next - spool.acknowledged,
            ),
            "sib_agent_spool_oldest_seconds": ("Age of the oldest.", spool.oldest_seconds),
            "sib_agent_connected": ("Whether the server answers.", now.link == "connected"),
            "sib_agent_certificate_not_after_seconds": (
                "When the certificate ends, seconds since 1970 UTC.",
                report.certificate_not_after,
            ),
        }
        for name, (text, amount) in gauges.items():
            yield GaugeMetricFamily(name, text, value=amount)
        yield from _bundle(report.bundle)


def _bundle(bundle: BundleHealth | None) -> Iterable[Metric]:
    if bundle is None:
        return
    yield GaugeMetricFamily(
        "sib_agent_bundle_version", "The bundle in force; 0 is none.", value=bundle.version
    )
    failed = bundle.ended is not None and bundle.ended.outcome in {
        BundleOutcome.UNPROVEN,
        BundleOutcome.REFUSED,
        BundleOutcome.ROLLED_BACK,
    }
    yield GaugeMetricFamily(
        "sib_agent_bundle_failed",
        "Whether the last bundle was unproven, refused or taken back.",
        value=failed,
    )


def serve_metrics(address: str, port: int, snapshot: Callable[[], Snapshot]) -> Callable[[], None]:
    """Serve ``/metrics`` in a thread; returns what stops it.

    Raises:
        MetricsPortError: the port is taken.
    """
    registry = CollectorRegistry()
    registry.register(AgentCollector(snapshot))
    try:
        server, thread = start_http_server(port, address, registry)
    except OSError as error:
        raise MetricsPortError(address, port, error.strerror or str(error)) from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join(5)

    return stop
