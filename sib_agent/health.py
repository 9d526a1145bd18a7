"""What the agent tells of itself: to the server, to ``sib-agent status`` and to Prometheus."""

from __future__ import annotations

import platform
import time
from typing import TYPE_CHECKING

import msgspec

from sib_protocol import __version__
from sib_protocol.messages import HealthReport, SpoolHealth

if TYPE_CHECKING:
    from sib_agent.spool.intake import IntakeState
    from sib_agent.spool.spool import SpoolStats
    from sib_agent.uplink import UplinkState
    from sib_protocol.identity import Identity
    from sib_protocol.ids import StreamId
    from sib_protocol.messages import BundleHealth


class Snapshot(msgspec.Struct, frozen=True):
    """How the agent is at one instant; what the status file holds.

    Attributes:
        report: as the server gets it.
        host_id: the host's.
        host_name: the host's.
        servers: the addresses that are tried.
        link: the uplink's state.
        link_problem: why it is not connected, else ``None``.
        lines_sent: since the start, acknowledged by the server.
        batches_sent: likewise.
        bytes_sent: likewise, on the wire.
        send_failures: since the start.
        gaps_sent: gaps reported since the start.
        truncations: how often the events file was found truncated.
        renewal_problem: why the certificate could not be renewed, else ``None``.
        written: when this was written, seconds since 1970 UTC.
        pid: the daemon's.
    """

    report: HealthReport
    host_id: str
    host_name: str
    servers: tuple[str, ...]
    link: str
    link_problem: str | None
    lines_sent: int
    batches_sent: int
    bytes_sent: int
    send_failures: int
    gaps_sent: int
    truncations: int
    renewal_problem: str | None
    written: float
    pid: int


def make_report(
    *,
    stream: StreamId,
    stats: SpoolStats,
    intake: IntakeState,
    uplink: UplinkState,
    identity: Identity,
    uptime: float,
    bundle: BundleHealth | None = None,
) -> HealthReport:
    """The report for the server."""
    return HealthReport(
        version=__version__,
        uptime_seconds=round(uptime, 1),
        clock_ns=time.time_ns(),
        certificate_not_after=identity.not_after,
        spool=SpoolHealth(
            stream=stream,
            next=stats.next,
            acknowledged=stats.acknowledged,
            bytes=stats.bytes,
            quota=stats.quota,
            oldest_seconds=round(stats.oldest_seconds, 1),
            lost=sum(stats.lost.values()),
            problem=intake.problem,
        ),
        lines_read=intake.lines_read,
        lines_cut=intake.lines_cut,
        source_problem=intake.source_problem,
        kernel=platform.release(),
        facts={
            "send_failures": uplink.failures,
            "events_file_truncations": intake.truncations,
        },
        bundle=bundle,
    )
