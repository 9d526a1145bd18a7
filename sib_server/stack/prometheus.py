"""The local Prometheus' configuration and command line, made of settings. Pure.

Only what Prometheus 2.42 (Debian 12) knows as well as 3: both are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sib_server.stack.layout import Layout
    from sib_server.stack.settings import PrometheusStackSettings

_LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Target:
    """One program of the server that has metrics.

    Attributes:
        job: its name in Prometheus.
        address: ``host:port`` on loopback.
    """

    job: str
    address: str


def prometheus_url(settings: PrometheusStackSettings) -> str:
    """Where the local Prometheus is."""
    return f"http://{_LOOPBACK}:{settings.port}"


def prometheus_config(
    settings: PrometheusStackSettings, layout: Layout, targets: list[Target]
) -> dict[str, Any]:
    """What prometheus.yaml says."""
    interval = f"{settings.scrape_seconds}s"
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        # Hosts that were away for some hours send what their Alloy kept.
        "storage": {"tsdb": {"out_of_order_time_window": "6h"}},
        "rule_files": [str(layout.config / "prometheus.rules.d" / "*.yaml")],
        "scrape_configs": [
            _scrape(Target("sib-prometheus", f"{_LOOPBACK}:{settings.port}")),
            *map(_scrape, targets),
        ],
    }


def _scrape(target: Target) -> dict[str, Any]:
    return {"job_name": target.job, "static_configs": [{"targets": [target.address]}]}


def prometheus_flags(settings: PrometheusStackSettings) -> str:
    """The unit's environment: what goes into its command line."""
    return (
        f"SIB_PROMETHEUS_LISTEN={_LOOPBACK}:{settings.port}\n"
        f"SIB_PROMETHEUS_RETENTION_TIME={settings.retention_days}d\n"
        f"SIB_PROMETHEUS_RETENTION_SIZE={settings.retention_bytes}B\n"
    )
