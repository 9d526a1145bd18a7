"""The rows of the journal's tables, and the checksums that tell a whole row from a damaged one.

Every row of an event carries its own identity (stream, host id, host name) and not only a
reference to it: 5 % more bytes, and no damage elsewhere in the file can cost the event.

Pure: no I/O.
"""

from __future__ import annotations

import struct
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias
from zlib import crc32

from sib_protocol.events import EventSummary, Priority, summarize
from sib_protocol.ids import EventId, HostId, HostName, LineNumber, StreamId
from sib_server.events.stored import Seq, StoredEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

PRIORITIES: Final = tuple(Priority)
NO_KIND: Final = 0
"""The kind of a row whose summary is only in its line."""

MAX_KIND_BYTES: Final = 1024
_NO_TIME: Final = -(2**63)
_HEAD: Final = struct.Struct("<qqqqqq")
_STREAM: Final = struct.Struct("<qq")

Row: TypeAlias = tuple[Any, ...]
"""As SQLite gave it: after damage any type may stand anywhere."""

EventRow: TypeAlias = tuple[int, int, int, bytes, int, int, int | None, int, bytes]
"""seq, stream reference, number, identity, received_ns, kind, time_ns, crc, line."""


class Identity(NamedTuple):
    """Whose event it is."""

    stream: StreamId
    host_id: HostId
    host_name: HostName


@dataclass(frozen=True, slots=True)
class Kind:
    """What all events of one rule have in common: a summary without its time.

    Attributes:
        rule: the rule.
        priority: ``None`` where there is none.
        source: Falco's event source.
        techniques: ATT&CK ids.
        unparsed: not a Falco alert.
    """

    rule: str
    priority: Priority | None
    source: str
    techniques: tuple[str, ...]
    unparsed: bool


class Damaged(Exception):  # noqa: N818 -- a signal between these modules, never shown
    """A row that is not what was written."""


def encode_identity(identity: Identity) -> bytes:
    """16 bytes stream, 16 bytes host id, then the name."""
    return (
        uuid.UUID(identity.stream).bytes
        + uuid.UUID(identity.host_id).bytes
        + identity.host_name.encode()
    )


def decode_identity(data: bytes) -> Identity:
    """The inverse of :func:`encode_identity`. Raises ValueError for other bytes."""
    return Identity(
        StreamId(str(uuid.UUID(bytes=data[:16]))),
        HostId(str(uuid.UUID(bytes=data[16:32]))),
        HostName(data[32:].decode()),
    )


def event_crc(  # noqa: PLR0917 -- the row's columns in their order; keywords cost 0.3 us an event
    seq: int,
    stream_ref: int,
    number: int,
    identity: bytes,
    received_ns: int,
    kind: int,
    time_ns: int | None,
    line: bytes,
) -> int:
    """The checksum over everything in an event's row."""
    head = _HEAD.pack(
        seq, stream_ref, number, received_ns, kind, _NO_TIME if time_ns is None else time_ns
    )
    return crc32(line, crc32(head + identity))


def check_event(row: Row) -> EventRow:
    """Say that a row is whole.

    Raises:
        Damaged: it is not, whatever types it has become.
    """
    try:
        seq, ref, number, identity, received_ns, kind, time_ns, crc, line = row
        if crc == event_crc(seq, ref, number, identity, received_ns, kind, time_ns, line):
            return seq, ref, number, identity, received_ns, kind, time_ns, crc, line
    except (TypeError, struct.error, ValueError):
        pass
    raise Damaged


class Identities(dict[bytes, Identity]):
    """Decoded identities by their bytes; forgets all when there are too many."""

    _MOST: Final = 16_384

    def __missing__(self, data: bytes) -> Identity:
        if len(self) >= self._MOST:
            self.clear()
        identity = self[data] = decode_identity(data)
        return identity


def stored_event(row: Row, kinds: Mapping[int, Kind], identities: Identities) -> StoredEvent:
    """Make an event of its row.

    Args:
        row: as :data:`EventRow`, as it came from the file.
        kinds: the known kinds; an event of an unknown one is read from its line.
        identities: memo.

    Raises:
        Damaged: the row is not whole.
    """
    seq, ref, number, identity, received_ns, kind_ref, time_ns, crc, line = row
    try:
        whole = crc == event_crc(
            seq,
            ref,
            number,
            identity,
            received_ns,
            kind_ref,
            time_ns,
            line,
        )
    except (TypeError, struct.error, ValueError):
        whole = False
    if not whole:
        raise Damaged
    stream, host_id, host_name = identities[identity]
    kind = kinds.get(kind_ref)
    summary = (
        summarize(line)
        if kind is None
        else EventSummary(
            kind.rule,
            kind.priority,
            kind.source,
            kind.techniques,
            time_ns,
            kind.unparsed,
        )
    )
    return StoredEvent(
        Seq(seq),
        EventId(stream, LineNumber(number)),
        host_id,
        host_name,
        received_ns,
        summary,
        line,
    )


def kind_of(summary: EventSummary) -> Kind | None:
    """The kind of a summary; ``None`` where its texts are too long to be kept twice."""
    length = len(summary.rule) + len(summary.source) + sum(map(len, summary.techniques))
    if length > MAX_KIND_BYTES:
        return None
    return Kind(
        summary.rule, summary.priority, summary.source, summary.techniques, summary.unparsed
    )


KindRow: TypeAlias = tuple[int, bytes, int, bytes, bytes, int, int]
"""kind, rule, severity (-1: none), source, techniques with spaces between, unparsed, crc."""


def kind_row(ref: int, kind: Kind) -> KindRow:
    """A kind as a row."""
    rule, source = kind.rule.encode(), kind.source.encode()
    techniques = " ".join(kind.techniques).encode()
    severity = -1 if kind.priority is None else kind.priority.severity
    crc = _kind_crc(ref, rule, severity, source, techniques, int(kind.unparsed))
    return ref, rule, severity, source, techniques, int(kind.unparsed), crc


def read_kind(row: Row) -> tuple[int, Kind]:
    """A kind from its row. Raises Damaged."""
    try:
        ref, rule, severity, source, techniques, unparsed, crc = row
        if crc != _kind_crc(ref, rule, severity, source, techniques, unparsed):
            raise ValueError(crc)  # noqa: TRY301 -- one way out for all damage
        return ref, Kind(
            rule.decode(),
            None if severity == -1 else PRIORITIES[severity],
            source.decode(),
            tuple(techniques.decode().split()),
            bool(unparsed),
        )
    except (TypeError, ValueError, IndexError, AttributeError) as error:
        raise Damaged from error


def _kind_crc(*values: int | bytes) -> int:
    return crc32(repr(values).encode(), crc32(b"kind"))


def stream_crc(ref: int, stream: bytes, host_id: bytes, next_number: int) -> int:
    """The checksum of a row of ``streams``."""
    return crc32(b"stream" + _STREAM.pack(ref, next_number) + stream + host_id)


def origin_crc(stream_ref: int, identity: bytes) -> int:
    """The checksum of a row of ``origins``."""
    return crc32(b"origin" + _STREAM.pack(stream_ref, len(identity)) + identity)


def minute_crc(minute: int, first_seq: int, last_seq: int) -> int:
    """The checksum of a row of ``minutes``."""
    return crc32(b"minute %d %d %d" % (minute, first_seq, last_seq))


def cursor_crc(sink: bytes, seq: int) -> int:
    """The checksum of a row of ``cursors``."""
    return crc32(b"cursor" + _STREAM.pack(seq, len(sink)) + sink)


def meta_crc(name: bytes, value: bytes) -> int:
    """The checksum of a row of ``meta``."""
    return crc32(b"meta %d " % len(name) + name + value)
