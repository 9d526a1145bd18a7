"""What the journal hands out: one accepted event with all that the server knows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NewType

import msgspec

if TYPE_CHECKING:
    from sib_protocol.events import EventSummary
    from sib_protocol.ids import EventId, HostId, HostName

Seq = NewType("Seq", int)
"""An event's place in the journal's order: at least 1, strictly increasing, never used again."""


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """One event as the journal holds it.

    A Struct, because one is made for every read event and a frozen dataclass takes 1 us for it.

    Attributes:
        seq: place in the journal's order.
        event_id: (stream, number), the same on every re-send.
        host_id: from the certificate it came under.
        host_name: as the certificate said when it was received.
        received_ns: by the server's clock, nanoseconds since 1970 UTC.
        summary: the searchable part of the line.
        line: exactly as Falco wrote it, without the newline.
        notes: what the server knows beside the line, as (name, value); the journal keeps none,
            they are added on the way to a sink.
    """

    seq: Seq
    event_id: EventId
    host_id: HostId
    host_name: HostName
    received_ns: int
    summary: EventSummary
    line: bytes
    notes: tuple[tuple[str, str], ...] = ()
