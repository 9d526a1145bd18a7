"""The push routes' settings, as they stand in ``/etc/sib/server.yaml`` under ``push``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sib_server.stack.access import StoreAccess

_Seconds = Annotated[float, Meta(gt=0, le=3600)]
_Bytes = Annotated[int, Meta(ge=1024, le=256 * 1024 * 1024)]


class PushSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What agents may push, and where it goes."""

    loki_url: Annotated[
        str | None, Meta(description="Loki's address without a path; none closes the route.")
    ] = None
    loki_tenant: Annotated[
        str | None, Meta(description="Sent as X-Scope-OrgID; none for a Loki without tenants.")
    ] = None
    loki_access: StoreAccess = StoreAccess()
    metrics_url: Annotated[
        str | None,
        Meta(description="Where Prometheus takes remote writes, whole; none closes the route."),
    ] = None
    metrics_tenant: Annotated[
        str | None, Meta(description="Sent as X-Scope-OrgID; none for a Prometheus.")
    ] = None
    metrics_access: StoreAccess = StoreAccess()
    max_body_bytes: Annotated[
        _Bytes, Meta(description="The most that a push may be on the wire.")
    ] = 4 * 1024 * 1024
    max_logs_bytes: Annotated[
        _Bytes,
        Meta(description="The most that a log push may hold uncompressed; Loki takes under 4 MiB."),
    ] = 3_500 * 1024
    max_metrics_bytes: Annotated[
        _Bytes, Meta(description="The most that a remote write may hold uncompressed.")
    ] = 16 * 1024 * 1024
    bytes_per_second: Annotated[
        _Bytes, Meta(description="What one host may push in the long run, uncompressed.")
    ] = 1024 * 1024
    burst_bytes: Annotated[_Bytes, Meta(description="What one host may push at once.")] = (
        32 * 1024 * 1024
    )
    min_bytes_per_second: Annotated[
        int, Meta(ge=1, description="A push that comes more slowly than this is cut off.")
    ] = 4 * 1024
    patience_seconds: Annotated[
        _Seconds, Meta(description="How long a push may stand still before that counts.")
    ] = 10.0
    timeout_seconds: Annotated[
        _Seconds, Meta(description="How long the store may take to answer.")
    ] = 30.0
    connections: Annotated[
        int, Meta(ge=1, le=256, description="How many pushes may be at a store at once.")
    ] = 16
