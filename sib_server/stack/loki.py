"""The local Loki's configuration, made of settings. Pure.

Keys are those of Loki 3.7 and of what comes after it, where ``use_thanos_objstore`` has another
default: it is always said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sib_server.stack.layout import Component, Layout

if TYPE_CHECKING:
    from sib_server.stack.settings import LokiStackSettings

TENANT: Final = "fake"
"""What Loki calls the one tenant of an installation without tenants."""

LIMITS: Final = "/config/tenant/v1/limits"
"""Where Loki says, as YAML, which limits hold for a tenant."""

_LOOPBACK: Final = "127.0.0.1"
_MESSAGE_BYTES: Final = 16 * 1024 * 1024


def loki_url(settings: LokiStackSettings) -> str:
    """Where the local Loki is."""
    return f"http://{_LOOPBACK}:{settings.port}"


def loki_config(
    settings: LokiStackSettings, layout: Layout, *, metrics_write_url: str | None
) -> dict[str, Any]:
    """What loki.yaml says.

    Args:
        settings: the local Loki's.
        layout: its places.
        metrics_write_url: where the ruler writes its alerts as metrics; ``None`` for nowhere.
    """
    home = str(layout.state_of(Component.LOKI))
    return {
        "auth_enabled": False,
        "analytics": {"reporting_enabled": False},
        "server": {
            "http_listen_address": _LOOPBACK,
            "http_listen_port": settings.port,
            "grpc_listen_address": _LOOPBACK,
            "grpc_listen_port": settings.grpc_port,
            "grpc_server_max_recv_msg_size": _MESSAGE_BYTES,
            "grpc_server_max_send_msg_size": _MESSAGE_BYTES,
            "log_level": "warn",
        },
        "common": {
            "path_prefix": home,
            "instance_addr": _LOOPBACK,
            "replication_factor": 1,
            "ring": {"kvstore": {"store": "inmemory"}},
            "storage": {
                "filesystem": {
                    "chunks_directory": f"{home}/chunks",
                    "rules_directory": f"{home}/rules",
                }
            },
        },
        "schema_config": {
            "configs": [
                {
                    "from": "2024-01-01",
                    "store": "tsdb",
                    "object_store": "filesystem",
                    "schema": "v13",
                    "index": {"prefix": "index_", "period": "24h"},
                }
            ]
        },
        "storage_config": {"use_thanos_objstore": False},
        "limits_config": _limits(settings),
        # The disk guard's: Loki takes up a changed one by itself.
        "runtime_config": {"file": str(layout.loki_overrides), "period": "10s"},
        "ingester": {
            "wal": {"dir": f"{home}/wal", "replay_memory_ceiling": "400MB"},
            # Late events are in memory for half an hour before they are written out. By default
            # memory is not asked for what is older than some three hours: they could not be found.
            "query_store_max_look_back_period": f"{(settings.late_days + 1) * 24}h",
        },
        "compactor": {
            "working_directory": f"{home}/compactor",
            "retention_enabled": True,
            "delete_request_store": "filesystem",
            "compaction_interval": "10m",
        },
        "querier": {"max_concurrent": 4},
        "query_range": {
            "results_cache": {"cache": {"embedded_cache": {"enabled": True, "max_size_mb": 64}}}
        },
        "pattern_ingester": {"enabled": False},
        "ruler": _ruler(settings, layout, metrics_write_url),
    }


def _limits(settings: LokiStackSettings) -> dict[str, Any]:
    rate = settings.ingest_mb_per_second
    return {
        "retention_period": f"{settings.retention_days * 24}h",
        "deletion_mode": "filter-and-delete",
        # A host that was away sends what it kept.
        "reject_old_samples": True,
        "reject_old_samples_max_age": f"{settings.late_days * 24}h",
        "creation_grace_period": "10m",
        "allow_structured_metadata": True,
        "ingestion_rate_mb": rate,
        "ingestion_burst_size_mb": 2 * rate,
        # One host's outbreak is one stream's burst.
        "per_stream_rate_limit": f"{max(4, rate // 2)}MB",
        "per_stream_rate_limit_burst": f"{rate}MB",
        "max_global_streams_per_user": settings.streams,
        "max_label_names_per_series": 15,
        "max_line_size": "256KB",
        "max_query_series": 5000,
        "max_entries_limit_per_query": 10_000,
        "query_timeout": "2m",
        # Labels that Loki would make up by itself: SIB's streams have theirs.
        "discover_service_name": [],
        "discover_log_levels": False,
    }


def _ruler(
    settings: LokiStackSettings, layout: Layout, metrics_write_url: str | None
) -> dict[str, Any]:
    home = str(layout.state_of(Component.LOKI))
    ruler: dict[str, Any] = {
        "storage": {"type": "local", "local": {"directory": str(layout.ruler)}},
        "rule_path": f"{home}/ruler",
        "ring": {"kvstore": {"store": "inmemory"}},
        "evaluation_interval": "1m",
        "poll_interval": "1m",
        # The read-only part of it: which rules there are, and which fire.
        "enable_api": True,
    }
    if settings.alertmanager_url is not None:
        ruler["alertmanager_url"] = settings.alertmanager_url
        ruler["enable_alertmanager_v2"] = True
    if metrics_write_url is not None:
        ruler["wal"] = {"dir": f"{home}/ruler-wal"}
        ruler["remote_write"] = {
            "enabled": True,
            "clients": {"prometheus": {"url": metrics_write_url}},
        }
    return ruler
