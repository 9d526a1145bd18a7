"""The disk guard's last decision, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from sib_server.operations.disk.decision import read_decision

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.core import Metric


class DiskCollector(Collector):
    """Reads the decision whenever it is asked.

    Args:
        directory: the guard's.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def collect(self) -> Iterator[Metric]:
        """All metrics; none before the guard's first round."""
        decision = read_decision(self._directory)
        if decision is None:
            return
        yield GaugeMetricFamily(
            "sib_server_disk_decided_timestamp_seconds",
            "When the disk guard last looked.",
            value=decision.time_ns / 1e9,
        )
        yield GaugeMetricFamily(
            "sib_server_disk_capacity_bytes",
            "What journal, Loki and Prometheus may take.",
            value=decision.capacity,
        )
        yield GaugeMetricFamily(
            "sib_server_disk_over_bytes",
            "What they take too much, with all gone that may go.",
            value=max(decision.over.values(), default=0),
        )
        used = GaugeMetricFamily(
            "sib_server_disk_used_bytes", "What a store takes.", labels=["store"]
        )
        kept = GaugeMetricFamily(
            "sib_server_disk_kept_seconds",
            "How far back a store reaches, where it is cut short for room.",
            labels=["store"],
        )
        for store in decision.stores:
            used.add_metric([store.name], store.used)
            if store.cut_ns is not None:
                kept.add_metric([store.name], (decision.time_ns - store.cut_ns) / 1e9)
        yield from (used, kept)
