"""What Prometheus is told of bundles."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from sib_server.detection.bundles.status import count_hosts
from sib_server.state.database import StateUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from prometheus_client.core import Metric

    from sib_server.detection.bundles.desk import BundleDesk
    from sib_server.detection.bundles.rollout import HostStanding
    from sib_server.detection.bundles.routes import BundleRoutes

_HOSTS_SECONDS: Final = 10.0


class BundleCollector(Collector):
    """Turns what is known of bundles into metrics.

    Args:
        desk: has what is served.
        routes: by which hosts ask and fetch.
        standings: how all hosts stand; called in a thread.
    """

    def __init__(
        self,
        desk: BundleDesk,
        routes: BundleRoutes,
        standings: Callable[[], Sequence[HostStanding]],
    ) -> None:
        self._desk = desk
        self._routes = routes
        self._standings = standings
        self._hosts: dict[str, int] = {}
        self._hosts_at = float("-inf")

    async def refresh(self) -> None:
        """Read what the state database knows."""
        if time.monotonic() - self._hosts_at < _HOSTS_SECONDS:
            return
        self._hosts_at = time.monotonic()
        try:
            standings = await asyncio.to_thread(self._standings)
        except StateUnavailableError:
            self._hosts = {}
        else:
            self._hosts = count_hosts(standings, self._desk.shelf.releases).states()

    def collect(self) -> Iterable[Metric]:
        """All metrics."""
        releases = self._desk.shelf.releases
        versions = GaugeMetricFamily(
            "sib_server_bundle_version", "The bundle that hosts shall have.", labels=["rollout"]
        )
        versions.add_metric(["stable"], releases.rollout.stable)
        versions.add_metric(["candidate"], releases.rollout.candidate or 0)
        yield versions
        if releases.history:
            yield GaugeMetricFamily(
                "sib_server_bundle_published_seconds",
                "When the newest bundle was published, seconds since 1970 UTC.",
                value=releases.history[-1].made_ns / 1e9,
            )
        hosts = GaugeMetricFamily(
            "sib_server_bundle_hosts", "Enrolled hosts by how their bundle is.", labels=["state"]
        )
        for state, count in self._hosts.items():
            hosts.add_metric([state], count)
        yield hosts
        asked = CounterMetricFamily(
            "sib_server_bundle_asks",
            "Times hosts asked what they shall have, since no health answer had told them.",
            labels=["answer"],
        )
        for answer in ("new", "same", "none"):
            asked.add_metric([answer], self._routes.asked[answer])
        yield asked
        transfers = self._routes.transfers
        yield CounterMetricFamily(
            "sib_server_bundle_parts_sent", "Parts that were sent.", value=transfers.finished
        )
        yield CounterMetricFamily(
            "sib_server_bundle_parts_refused",
            "Requests for parts that came when too many were under way.",
            value=transfers.refused,
        )
        yield GaugeMetricFamily(
            "sib_server_bundle_transfers", "Parts under way.", value=transfers.open
        )
