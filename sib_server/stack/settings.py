"""The stack's settings, as they stand in ``/etc/sib/server.yaml`` under ``stack``.

They say which Loki, Prometheus, Grafana and Falcosidekick there are. ``sib-server setup`` makes the
local ones' configuration of them, and points sinks and push routes there.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from sib_server.stack.access import StoreAccess

_Port = Annotated[int, Meta(ge=1, le=65535)]
_Url = Annotated[str, Meta(pattern=r"^https?://[A-Za-z0-9._\-\[\]:]+(/[A-Za-z0-9._~\-/]*)?$")]
_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9*]([A-Za-z0-9.\-:*]*[A-Za-z0-9])?$")]


class Use(Enum):
    """Which of a component's installations is used."""

    AUTO = "auto"
    """The local package where it is installed, else none."""

    LOCAL = "local"
    """The local package; it is an error that it is not installed."""

    EXTERNAL = "external"
    """Another one, at ``url``."""

    OFF = "off"
    """None, also where the package is installed."""


_USE = Meta(
    description="auto: the local package where it is installed; local; external: at url; off."
)


class LokiStackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store of events and logs."""

    use: Annotated[Use, _USE] = Use.AUTO
    url: Annotated[_Url | None, Meta(description="Of an external one, without a path.")] = None
    tenant: Annotated[
        str | None, Meta(description="Of an external one with tenants: X-Scope-OrgID.")
    ] = None
    access: StoreAccess = StoreAccess()
    port: Annotated[_Port, Meta(description="Local: HTTP, on loopback.")] = 3100
    grpc_port: Annotated[_Port, Meta(description="Local: between Loki's parts, on loopback.")] = (
        3101
    )
    retention_days: Annotated[
        int, Meta(ge=1, le=3650, description="Local: how long events and logs are kept.")
    ] = 90
    late_days: Annotated[
        int,
        Meta(ge=1, le=90, description="Local: how old an event may be when it arrives."),
    ] = 8
    ingest_mb_per_second: Annotated[
        int, Meta(ge=4, le=1024, description="Local: the most that is taken in, in the long run.")
    ] = 32
    streams: Annotated[
        int,
        Meta(ge=1000, description="Local: the most streams at once; a host makes about ten."),
    ] = 100_000
    alertmanager_url: Annotated[
        _Url | None,
        Meta(description="Local: where the alerts of imported Sigma rules go; none for nowhere."),
    ] = None


class PrometheusStackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The store of metrics."""

    use: Annotated[Use, _USE] = Use.AUTO
    url: Annotated[
        _Url | None, Meta(description="Of an external one: where queries go, without /api/v1.")
    ] = None
    write_url: Annotated[
        _Url | None,
        Meta(
            description="Of an external one: where it takes remote writes; none: url/api/v1/write."
        ),
    ] = None
    tenant: Annotated[
        str | None, Meta(description="Of an external one with tenants: X-Scope-OrgID.")
    ] = None
    access: StoreAccess = StoreAccess()
    port: Annotated[_Port, Meta(description="Local: HTTP, on loopback.")] = 9090
    retention_days: Annotated[
        int, Meta(ge=1, le=3650, description="Local: how long metrics are kept.")
    ] = 30
    retention_bytes: Annotated[
        int,
        Meta(
            ge=512 * 1024**2, description="Local: how much metrics may take; the oldest go first."
        ),
    ] = 8 * 1024**3
    scrape_seconds: Annotated[
        int, Meta(ge=5, le=300, description="Local: how often the server's parts are asked.")
    ] = 30


class GrafanaStackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pictures."""

    use: Annotated[Use, _USE] = Use.AUTO
    url: Annotated[_Url | None, Meta(description="Of an external one; only told to people.")] = None
    address: Annotated[
        str,
        Meta(
            pattern=r"^[0-9A-Fa-f.:]+$",
            description="Local: where it listens. On a loopback address it speaks HTTP, on any"
            " other TLS.",
        ),
    ] = "127.0.0.1"
    port: Annotated[_Port, Meta(description="Local: TCP port.")] = 3000
    names: Annotated[
        tuple[_Name, ...],
        Meta(
            description="Local: DNS names and addresses of its certificate, the first in links;"
            " empty: those of the server's."
        ),
    ] = ()
    certificate_file: Annotated[
        Path | None,
        Meta(description="Local: PEM of another certificate than SIB's own CA would issue."),
    ] = None
    key_file: Annotated[Path | None, Meta(description="Local: PEM of its key.")] = None


class FalcosidekickStackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The way to other tools."""

    use: Annotated[Use, _USE] = Use.AUTO
    url: Annotated[_Url | None, Meta(description="Of an external one, without a path.")] = None
    access: StoreAccess = StoreAccess()
    port: Annotated[_Port, Meta(description="Local: HTTP, on loopback.")] = 2801
    outputs: Annotated[
        Path,
        Meta(description="Local: where alerts go, in Falcosidekick's own words. Has secrets."),
    ] = Path("/etc/sib/outputs.yaml")


class StackSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Loki, Prometheus, Grafana and Falcosidekick."""

    loki: LokiStackSettings = LokiStackSettings()
    prometheus: PrometheusStackSettings = PrometheusStackSettings()
    grafana: GrafanaStackSettings = GrafanaStackSettings()
    falcosidekick: FalcosidekickStackSettings = FalcosidekickStackSettings()
