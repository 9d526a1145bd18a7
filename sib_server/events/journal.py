"""The server's durable, ordered record of accepted events: its one writer.

One transaction takes batches of many hosts (group commit) and moves their streams' next numbers
with them; it is fsynced before :meth:`Journal.append` returns. Whatever fails leaves the journal as
it was.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from sib_protocol.events import Priority, sib_event, summarize
from sib_protocol.ids import (
    HostId,
    HostName,
    LineNumber,
    StreamId,
    parse_host_id,
    parse_stream_id,
)
from sib_server.events import schema
from sib_server.events.failures import (
    JournalDamagedError,
    JournalInUseError,
    JournalUnavailableError,
    NumberRangeError,
    StreamOwnedError,
    TooManyStreamsError,
)
from sib_server.events.incoming import (
    MAX_NUMBER,
    Accepted,
    Incoming,
    IncomingBatch,
    IncomingGap,
    Outcome,
    Refused,
    ServerRecord,
    Wanted,
    decide_take,
)
from sib_server.events.kinds import KindBook, load_kinds
from sib_server.events.meta import (
    highest_seq,
    note_minute,
    read_meta,
    write_cursor,
    write_meta,
)
from sib_server.events.rows import (
    EventRow,
    Identity,
    encode_identity,
    event_crc,
)
from sib_server.events.stored import Seq
from sib_server.events.streams import MOST_STREAMS, StreamBook, load_streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sib_server.events.streams import StreamState

GAP_RULE: Final = "SIB event gap"
OWN_NAME: Final = HostName("sib-server")
_IDENTITIES_KEPT: Final = 16_384


class Journal:
    """The write side of one journal file; one process, one thread at a time.

    Attributes:
        path: its file.
        journal_id: UUID of this journal; also the host id of what the server itself reports.
        own_stream: the stream of those reports.
        rebuilt_streams: how many streams' damaged rows were built again from their events.
    """

    def __init__(
        self, path: Path, connection: sqlite3.Connection, lock: int, clock_ns: Callable[[], int]
    ) -> None:
        self.path = path
        self._connection = connection
        self._lock = lock
        self._clock_ns = clock_ns
        self._identities: dict[Identity, bytes] = {}
        meta = read_meta(connection)
        schema.check_version(path, meta.get("schema"))
        try:
            self.journal_id = parse_host_id(meta["journal"])
            self.own_stream = parse_stream_id(meta["stream"])
        except (KeyError, ValueError) as error:
            raise JournalDamagedError(path, f"its own identity is lost ({error})") from error
        self._streams: StreamBook
        self._streams, rebuilt = load_streams(connection)
        self.rebuilt_streams = len(rebuilt)
        kinds, highest = load_kinds(connection)
        self._kinds = KindBook(kinds, highest)
        self._last_seq = highest_seq(connection, meta)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        max_bytes: int | None = None,
    ) -> Journal:
        """Open a journal, or make one where there is none.

        Args:
            path: its file; the directory is made when missing.
            clock_ns: the server's clock, nanoseconds since 1970 UTC.
            max_bytes: the file is never grown above this; appending then fails as on a full disk.

        Raises:
            JournalInUseError: another process has it open for writing.
            JournalDamagedError: it cannot be used without being salvaged.
            JournalTooNewError: a later SIB wrote it.
            JournalUnavailableError: the disk is full or the path cannot be used.
        """
        lock = _take_lock(path)
        connection: sqlite3.Connection | None = None
        try:
            connection = schema.open_for_writing(path, max_bytes=max_bytes)
            if not _has_tables(connection):
                create_tables(connection, journal_id=str(uuid.uuid4()), stream=str(uuid.uuid4()))
            return cls(path, connection, lock, clock_ns)
        except BaseException as error:
            if connection is not None:
                connection.close()
            os.close(lock)
            if isinstance(error, schema.SqliteFailure):
                raise schema.journal_error(path, error) from error
            raise

    def close(self) -> None:
        """Give the file back; all that was accepted is durable already."""
        self._connection.close()
        os.close(self._lock)

    @property
    def last_seq(self) -> Seq:
        """The newest event's place; 0 where there was none yet."""
        return Seq(self._last_seq)

    def standing(self, stream: StreamId) -> StreamState | None:
        """Whose a stream is and where it stands; ``None`` for one never seen."""
        return self._streams.get(stream)

    def next_number(self, stream: StreamId) -> LineNumber | None:
        """Where a stream stands; ``None`` for one never seen."""
        state = self._streams.get(stream)
        return None if state is None else LineNumber(state.next)

    def append(
        self, entries: Sequence[Incoming], cursors: Mapping[str, Seq] | None = None
    ) -> list[Outcome]:
        """Take what is new of many batches, gaps and records in one durable transaction.

        Args:
            entries: in the order in which they came.
            cursors: sinks that have delivered everything up to a place.

        Returns:
            One outcome for each entry, in order.

        Raises:
            JournalUnavailableError: the disk; nothing has changed, and trying again is safe.
            JournalDamagedError: the file; nothing has changed.
        """
        received_ns = self._clock_ns()
        before = self._last_seq
        rows: list[EventRow] = []
        with self._transaction() as connection:
            outcomes = [self._place(entry, rows, received_ns) for entry in entries]
            if rows:
                # IGNORE: after a salvage a stream may hold events above its next number.
                connection.executemany(
                    "INSERT OR IGNORE INTO events VALUES (?,?,?,?,?,?,?,?,?)", rows
                )
                minute = received_ns // schema.MINUTE_NS
                note_minute(connection, minute, before + 1, self._last_seq)
                write_meta(connection, "last_seq", str(self._last_seq))
            connection.executemany(
                "INSERT OR REPLACE INTO streams VALUES (?,?,?,?,?)", self._streams.staged_rows()
            )
            connection.executemany(
                "INSERT OR REPLACE INTO kinds VALUES (?,?,?,?,?,?,?)", self._kinds.staged_rows()
            )
            connection.executemany(
                "INSERT INTO origins (stream, identity, crc) VALUES (?,?,?)",
                self._streams.origin_rows(),
            )
            for sink, seq in (cursors or {}).items():
                write_cursor(connection, sink, seq)
        return outcomes

    def record(
        self, line: bytes, host_id: HostId | None = None, host_name: HostName = OWN_NAME
    ) -> Accepted:
        """Store one event that the server makes, about a host or (by default) about itself."""
        (outcome,) = self.append([ServerRecord(line, host_id or self.journal_id, host_name)])
        assert isinstance(outcome, Accepted)  # noqa: S101 -- nobody else writes this stream
        return outcome

    def advance(self, sink: str, seq: Seq) -> None:
        """A sink has delivered everything up to and including ``seq``."""
        self.append([], {sink: seq})

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction for maintenance; same promises and errors as :meth:`append`."""
        with self._transaction() as connection:
            yield connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        before = self._last_seq
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield self._connection
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._last_seq = before
            self._streams.rollback()
            self._kinds.rollback()
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            if isinstance(error, schema.SqliteFailure):
                raise schema.journal_error(self.path, error) from error
            raise
        self._streams.commit()
        self._kinds.commit()

    def _place(self, entry: Incoming, rows: list[EventRow], received_ns: int) -> Outcome:
        if isinstance(entry, IncomingBatch):
            return self._place_batch(entry, rows, received_ns)
        if isinstance(entry, IncomingGap):
            return self._place_gap(entry, rows, received_ns)
        start = self._own_next()
        batch = IncomingBatch(
            self.own_stream, entry.host_id, entry.host_name, LineNumber(start), [entry.line]
        )
        self._add_lines(batch, start, rows, received_ns, owner=self.journal_id)
        return Accepted(LineNumber(start + 1), 1, 0, Seq(self._last_seq))

    def _own_next(self) -> int:
        own = self._streams.get(self.own_stream)
        return 0 if own is None else own.next

    def _known_next(self, entry: IncomingBatch | IncomingGap, end: int) -> int | Refused | None:
        first = entry.first
        if not 0 <= first <= end <= MAX_NUMBER:
            return Refused(NumberRangeError(entry.stream, first, end - 1))
        known = self._streams.get(entry.stream)
        foreign = known is not None and known.host_id != entry.host_id
        if foreign or entry.stream == self.own_stream:
            return Refused(StreamOwnedError(entry.stream, entry.host_id))
        if known is not None:
            return known.next
        # Not the server itself: each parcel of its outbox is a stream.
        begun = self._streams.begun_by(entry.host_id)
        if begun >= MOST_STREAMS and entry.host_id != self.journal_id:
            return Refused(TooManyStreamsError(entry.host_id, begun))
        return None

    def _place_batch(self, batch: IncomingBatch, rows: list[EventRow], received_ns: int) -> Outcome:
        end = batch.first + len(batch.lines)
        known = self._known_next(batch, end)
        if isinstance(known, Refused):
            return known
        take = decide_take(known, batch.first, end)
        if take is None:
            assert known is not None  # noqa: S101 -- an unknown stream is always taken up
            return Wanted(LineNumber(known))
        if take.start < end:
            self._add_lines(batch, take.start, rows, received_ns, owner=batch.host_id)
        skipped = take.start - batch.first
        return Accepted(LineNumber(take.next), end - take.start, skipped, Seq(self._last_seq))

    def _add_lines(
        self,
        batch: IncomingBatch,
        start: int,
        rows: list[EventRow],
        received_ns: int,
        owner: HostId,
    ) -> None:
        lines = batch.lines[start - batch.first :] if start > batch.first else batch.lines
        ref = self._streams.stage(batch.stream, owner, start + len(lines)).ref
        identity = self._identity(Identity(batch.stream, batch.host_id, batch.host_name))
        self._streams.note_origin(ref, identity)
        seq, number, kind_ref = self._last_seq, start, self._kinds.ref
        for line in lines:
            seq += 1
            summary = summarize(line)
            kind, time_ns = kind_ref(summary), summary.time_ns
            crc = event_crc(seq, ref, number, identity, received_ns, kind, time_ns, line)
            rows.append((seq, ref, number, identity, received_ns, kind, time_ns, crc, line))
            number += 1
        self._last_seq = seq

    def _identity(self, identity: Identity) -> bytes:
        known = self._identities.get(identity)
        if known is None:
            if len(self._identities) >= _IDENTITIES_KEPT:
                self._identities.clear()
            known = self._identities[identity] = encode_identity(identity)
        return known

    def _place_gap(self, gap: IncomingGap, rows: list[EventRow], received_ns: int) -> Outcome:
        end = gap.last + 1
        known = self._known_next(gap, end)
        if isinstance(known, Refused):
            return known
        if end <= gap.first:
            return Refused(NumberRangeError(gap.stream, gap.first, gap.last))
        take = decide_take(known, gap.first, end)
        if take is None:
            assert known is not None  # noqa: S101 -- an unknown stream is always taken up
            return Wanted(LineNumber(known))
        if take.start < end:
            self._streams.stage(gap.stream, gap.host_id, take.next)
            line = gap_event(gap, take.start, received_ns)
            self._place(ServerRecord(line, gap.host_id, gap.host_name), rows, received_ns)
        return Accepted(LineNumber(take.next), 0, take.start - gap.first, Seq(self._last_seq))


def gap_event(gap: IncomingGap, start: int, time_ns: int) -> bytes:
    """The event that makes a gap visible; ``start`` is the first number that is really lost."""
    lines = gap.last - start + 1
    return sib_event(
        rule=GAP_RULE,
        priority=Priority.WARNING,
        time_ns=time_ns,
        output=f"{lines} event lines of host {gap.host_name} are lost: {gap.reason.value}",
        fields={
            "sib.stream": gap.stream,
            "sib.first": start,
            "sib.last": gap.last,
            "sib.lines": lines,
            "sib.reason": gap.reason.value,
            "sib.host": gap.host_name,
        },
    )


def create_tables(connection: sqlite3.Connection, *, journal_id: str, stream: str) -> None:
    """Make an empty journal in an empty file. Raises sqlite3.Error."""
    connection.executescript(f"BEGIN IMMEDIATE;{schema.TABLES}")
    try:
        write_meta(connection, "schema", str(schema.SCHEMA_VERSION))
        write_meta(connection, "journal", journal_id)
        write_meta(connection, "stream", stream)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _has_tables(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None


@contextmanager
def take_lock(path: Path) -> Iterator[None]:
    """Hold a journal's lock. Raises JournalInUseError, JournalUnavailableError."""
    lock = _take_lock(path)
    try:
        yield
    finally:
        os.close(lock)


def _take_lock(path: Path) -> int:
    """Hold the journal's lock file; the lock ends with the process, however it ends."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        descriptor = os.open(
            path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640
        )
    except OSError as error:
        raise JournalUnavailableError(path, error.strerror or str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise JournalInUseError(path) from error
    return descriptor
