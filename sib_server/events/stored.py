"""What the journal hands out: one accepted event with all that the server knows of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from sib_protocol.events import EventSummary
    from sib_protocol.ids import EventId, HostId, HostName

Seq = NewType("Seq", int)
"""An event's place in the journal's order: at least 1, strictly increasing, never used again."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One event as the journal holds it.

    Attributes:
        seq: place in the journal's order.
        event_id: (stream, number), the same on every re-send.
        host_id: from the certificate it came under.
        host_name: as the certificate said when it was received.
        received_ns: by the server's clock, nanoseconds since 1970 UTC.
        summary: the searchable part of the line.
        line: exactly as Falco wrote it, without the newline.
    """

    seq: Seq
    event_id: EventId
    host_id: HostId
    host_name: HostName
    received_ns: int
    summary: EventSummary
    line: bytes
