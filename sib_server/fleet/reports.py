"""What hosts report of their health: statements over the caller's connection."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from sib_protocol.bundles.names import MAX_VERSION
from sib_protocol.ids import HostId
from sib_protocol.messages import BundleOutcome
from sib_server.detection.bundles.rollout import HostStanding
from sib_server.fleet.hosts import printable
from sib_server.state.schema import health, hosts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_protocol.messages import BundleHealth, HealthReport


@dataclass(frozen=True, slots=True)
class ReceivedReport:
    """A health report as it came.

    Attributes:
        host_id: whose it is, by the certificate.
        report: what the host says.
        received_ns: nanoseconds since 1970 UTC.
        address: where it came from, if that is known.
    """

    host_id: HostId
    report: HealthReport
    received_ns: int
    address: str | None = None


# Compiled once and run for many: the other columns are the parameters' own names.
_STORE: Final = (
    sa.update(health)
    .where(
        health.c.host_id == sa.bindparam("of_host"),
        sa.func.coalesce(health.c.received_ns, 0) <= sa.bindparam("as_of_ns"),
    )
    .values(address=sa.func.coalesce(sa.bindparam("from_address"), health.c.address))
)


def store_reports(connection: sa.Connection, reports: Sequence[ReceivedReport]) -> None:
    """Keep hosts' reports, but for those that are older than what is there, or of removed hosts."""
    connection.execute(_STORE, [_parameters(one) for one in reports])


def _parameters(received: ReceivedReport) -> dict[str, Any]:
    report, address = received.report, received.address
    return {
        "of_host": received.host_id,
        "as_of_ns": received.received_ns,
        "from_address": printable(address) if address is not None else None,
        "received_ns": received.received_ns,
        "version": printable(report.version),
        "report": msgspec.json.encode(report).decode(),
        **_bundle_values(report.bundle),
    }


def _bundle_values(bundle: BundleHealth | None) -> dict[str, Any]:
    ended = bundle.ended if bundle is not None else None
    return {
        "bundle_version": _number(bundle.version) if bundle is not None else None,
        "bundle_ended": _number(ended.version) if ended is not None else None,
        "bundle_outcome": ended.outcome.value if ended is not None else None,
        "bundle_reason": printable(ended.reason, 200) if ended is not None else None,
    }


def _number(version: int) -> int:
    # A host may say what it likes; a column holds 64 bits.
    return min(max(version, 0), MAX_VERSION)


_STANDINGS: Final = (
    sa.select(
        hosts.c.id,
        health.c.received_ns,
        health.c.bundle_version,
        health.c.bundle_ended,
        health.c.bundle_outcome,
        health.c.bundle_reason,
    )
    .select_from(hosts)
    .outerjoin(health, health.c.host_id == hosts.c.id)
    .where(hosts.c.removed_ns.is_(None))
)


def list_standings(connection: sa.Connection) -> list[HostStanding]:
    """How every enrolled host stands with bundles, as it last reported."""
    return [
        HostStanding(
            host_id=HostId(row.id),
            seen_ns=row.received_ns or 0,
            version=row.bundle_version or 0,
            ended=row.bundle_ended,
            outcome=BundleOutcome(row.bundle_outcome) if row.bundle_outcome else None,
            reason=row.bundle_reason or "",
        )
        for row in connection.execute(_STANDINGS)
    ]
