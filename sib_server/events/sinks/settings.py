"""The sinks' settings, as they stand in ``/etc/sib/server.yaml`` under ``sinks``."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from sib_server.stack.access import StoreAccess

_Seconds = Annotated[float, Meta(gt=0, le=3600)]


class LokiSinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How events get to Loki."""

    enabled: Annotated[bool, Meta(description="Deliver events to Loki.")] = False
    url: Annotated[str, Meta(description="Loki's address, without a path.")] = (
        "http://127.0.0.1:3100"
    )
    tenant: Annotated[
        str | None, Meta(description="Sent as X-Scope-OrgID; none for a Loki without tenants.")
    ] = None
    access: StoreAccess = StoreAccess()
    timeout_seconds: Annotated[
        _Seconds, Meta(description="How long one push may take before it is tried again.")
    ] = 30.0
    max_events: Annotated[
        int, Meta(ge=1, le=50_000, description="The most events taken from the journal at once.")
    ] = 5_000
    max_request_bytes: Annotated[
        int,
        Meta(
            ge=64 * 1024,
            le=64 * 1024 * 1024,
            description="The most one push may hold, uncompressed; Loki refuses 4 MiB and more.",
        ),
    ] = 3 * 1024 * 1024
    connections: Annotated[
        int, Meta(ge=1, le=64, description="How many pushes may be under way at once.")
    ] = 4
    sources: Annotated[
        tuple[str, ...],
        Meta(
            max_length=64,
            description="Falco event sources that become a value of the label `source`; any "
            "other becomes `other`, so that a host cannot make streams without end.",
        ),
    ] = (
        "syscall",
        "sib",
        "sigma",
        "k8s_audit",
        "aws_cloudtrail",
        "gcp_auditlog",
        "github",
        "okta",
        "keycloak",
        "internal",
    )


class OutputExpectation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one Falcosidekick output counts for the events it is given."""

    minimum_priority: Annotated[
        str, Meta(description="The output's `minimumpriority`; empty for all events.")
    ] = ""
    per_event: Annotated[
        int, Meta(ge=1, le=64, description="Counts per event: Alertmanager has one per address.")
    ] = 1


class FalcosidekickSinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How events get to Falcosidekick."""

    enabled: Annotated[bool, Meta(description="Deliver events to Falcosidekick.")] = False
    url: Annotated[str, Meta(description="Falcosidekick's address, without a path.")] = (
        "http://127.0.0.1:2801"
    )
    access: StoreAccess = StoreAccess()
    timeout_seconds: Annotated[
        _Seconds, Meta(description="How long one request may take before it is tried again.")
    ] = 10.0
    batch_events: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000,
            description="Events per batch; an output that failed for one gets all of them again.",
        ),
    ] = 50
    connections: Annotated[
        int, Meta(ge=1, le=64, description="How many events may be posted at once.")
    ] = 8
    outputs: Annotated[
        dict[str, OutputExpectation],
        Meta(
            description="Falcosidekick's enabled outputs by their name in its metrics. With "
            "them a batch is done as soon as each has counted its events; without, after a while "
            "of quiet (see settle_quiet_seconds), which may miss an output that hangs."
        ),
    ] = {}
    settle_quiet_seconds: Annotated[
        _Seconds,
        Meta(description="Without `outputs`: how long no counter may move before a batch is done."),
    ] = 1.0
    settle_timeout_seconds: Annotated[
        _Seconds, Meta(description="How long outputs may take before the batch counts as stuck.")
    ] = 60.0
