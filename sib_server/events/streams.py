"""Where every stream stands: read once when the journal opens, then kept in memory.

All streams are in memory (about 300 bytes each), so a batch costs no read; changes are staged and
become the truth only when their transaction has.
"""

from __future__ import annotations

import struct
import uuid
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sib_protocol.ids import HostId, StreamId
from sib_server.events.rows import (
    Damaged,
    check_event,
    decode_identity,
    origin_crc,
    stream_crc,
)
from sib_server.events.schema import EVENT_COLUMNS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from sib_server.events.rows import Row


MOST_STREAMS: Final = 1024
"""Of one host. A spool is a stream, and another is begun only where it was lost or put back."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """One stream.

    Attributes:
        ref: its number in this file.
        stream: its id.
        host_id: whose it is.
        next: the first number that the journal does not have.
    """

    ref: int
    stream: StreamId
    host_id: HostId
    next: int

    def row(self) -> tuple[int, bytes, bytes, int, int]:
        """As a row of ``streams``."""
        stream, host_id = uuid.UUID(self.stream).bytes, uuid.UUID(self.host_id).bytes
        crc = stream_crc(self.ref, stream, host_id, self.next)
        return self.ref, stream, host_id, self.next, crc


def read_stream(row: Row) -> StreamState:
    """A stream from its row. Raises Damaged."""
    try:
        ref, stream, host_id, number, crc = row
        if crc == stream_crc(ref, stream, host_id, number):
            return StreamState(
                ref,
                StreamId(str(uuid.UUID(bytes=stream))),
                HostId(str(uuid.UUID(bytes=host_id))),
                number,
            )
    except (TypeError, ValueError, struct.error) as error:
        raise Damaged from error
    raise Damaged


class StreamBook:
    """The streams that the journal knows, and the changes of the transaction under way."""

    def __init__(
        self, streams: dict[StreamId, StreamState], next_ref: int, origins: set[bytes]
    ) -> None:
        self._streams = streams
        self._origins = origins
        self._staged_origins: dict[bytes, int] = {}
        self._staged: dict[StreamId, StreamState] = {}
        self._next_ref = next_ref
        self._begun = Counter(state.host_id for state in streams.values())
        self._staged_begun: Counter[HostId] = Counter()

    def get(self, stream: StreamId) -> StreamState | None:
        """The state of a stream, with what is staged; ``None`` for one never seen."""
        return self._staged.get(stream) or self._streams.get(stream)

    def begun_by(self, host_id: HostId) -> int:
        """How many streams a host has, with what is staged."""
        return self._begun[host_id] + self._staged_begun[host_id]

    def stage(self, stream: StreamId, host_id: HostId, next_number: int) -> StreamState:
        """Move a stream, or take up a new one."""
        known = self.get(stream)
        if known is None:
            known = StreamState(self._next_ref, stream, host_id, next_number)
            self._next_ref += 1
            self._staged_begun[host_id] += 1
        else:
            known = replace(known, next=next_number)
        self._staged[stream] = known
        return known

    def note_origin(self, ref: int, identity: bytes) -> None:
        """Remember that a stream holds events of this identity, for searches by host."""
        if identity not in self._origins:
            self._staged_origins[identity] = ref

    def origin_rows(self) -> list[tuple[int, bytes, int]]:
        """The rows of ``origins`` to write in this transaction."""
        return [
            (ref, identity, origin_crc(ref, identity))
            for identity, ref in self._staged_origins.items()
        ]

    def staged_rows(self) -> list[tuple[int, bytes, bytes, int, int]]:
        """The rows to write in this transaction."""
        return [state.row() for state in self._staged.values()]

    def commit(self) -> None:
        """The transaction is durable."""
        self._streams.update(self._staged)
        self._origins.update(self._staged_origins)
        self._begun.update(self._staged_begun)
        self.rollback()

    def rollback(self) -> None:
        """The transaction has not been."""
        self._staged = {}
        self._staged_origins = {}
        self._staged_begun = Counter()

    def __iter__(self) -> Iterator[StreamState]:
        return iter(self._streams.values())


def load_streams(connection: sqlite3.Connection) -> tuple[StreamBook, list[int]]:
    """Read all streams; damaged rows are built again from the events that name them.

    A rebuilt stream's next number is one above its newest event. Where a gap report had moved it
    further, the agent is asked again and reports again.

    Returns:
        The streams, and the references of those that had to be built again.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    streams: dict[StreamId, StreamState] = {}
    whole: set[int] = set()
    suspects: set[int] = set()
    for row in connection.execute("SELECT ref, stream, host_id, next, crc FROM streams"):
        try:
            state = read_stream(row)
        except Damaged:
            suspects.add(row[0])
            continue
        streams[state.stream] = state
        whole.add(state.ref)
    suspects |= _referenced(connection) - whole
    rebuilt = []
    for ref in sorted(suspects):
        found = _rebuild(connection, ref)
        if found is not None:
            streams[found.stream] = found
        rebuilt.append(ref)
    highest = max([0, *whole, *suspects])
    origins = {identity for _ref, identity in read_origins(connection)[0]}
    return StreamBook(streams, highest + 1, origins), rebuilt


def read_origins(connection: sqlite3.Connection) -> tuple[list[tuple[int, bytes]], bool]:
    """Which identities the streams hold: (stream reference, identity).

    Returns:
        The whole rows, and whether those were all.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    origins: list[tuple[int, bytes]] = []
    complete = True
    for ref, identity, crc in connection.execute("SELECT stream, identity, crc FROM origins"):
        if (
            isinstance(identity, bytes)
            and isinstance(ref, int)
            and (crc == origin_crc(ref, identity))
        ):
            origins.append((ref, identity))
        else:
            complete = False
    return origins, complete


def _referenced(connection: sqlite3.Connection) -> set[int]:
    """Every stream reference among the events: one step in the index for each."""
    found: set[int] = set()
    after = -1
    while True:
        (ref,) = connection.execute(
            "SELECT min(stream) FROM events WHERE stream > ?", (after,)
        ).fetchone()
        if ref is None:
            return found
        found.add(ref)
        after = ref


def _rebuild(connection: sqlite3.Connection, ref: int) -> StreamState | None:
    query = f"SELECT {EVENT_COLUMNS} FROM events WHERE stream = ? ORDER BY number DESC"  # noqa: S608 -- constants
    for row in connection.execute(query, (ref,)):
        try:
            event = check_event(row)
        except Damaged:
            continue
        identity = decode_identity(event[3])
        return StreamState(ref, identity.stream, identity.host_id, event[2] + 1)
    return None
