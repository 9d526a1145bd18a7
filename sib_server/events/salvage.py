"""Saving what is whole in a damaged journal into a fresh one.

Three sources, from the surest: what SQLite still reads; the raw pages of the file; the raw frames
of its write-ahead log, where the last ones may belong to a transaction that was never
acknowledged. An event is taken from wherever a copy with a right checksum is.

The invariant for streams: a stream's next number is never above a hole in what is not known to be
acknowledged, so a host that still has those lines sends them again (the fresh journal ignores the
ones it has), and one that has not reports a gap. Nothing is lost without a word, nothing twice.
"""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sib_protocol.errors import FileAccessError, SibError
from sib_protocol.events import summarize
from sib_protocol.files import sync_directory
from sib_protocol.ids import StreamId
from sib_server.events import carve, schema
from sib_server.events.failures import JournalMissingError
from sib_server.events.journal import create_tables, take_lock
from sib_server.events.kinds import KindBook
from sib_server.events.meta import note_minute, write_cursor, write_meta
from sib_server.events.raw import WalPages, open_database, open_wal
from sib_server.events.rows import (
    Damaged,
    EventRow,
    check_event,
    cursor_crc,
    decode_identity,
    event_crc,
    meta_crc,
)
from sib_server.events.stored import Seq
from sib_server.events.streams import StreamBook, StreamState, read_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from sib_protocol.ids import HostId

_COMMIT_EVENTS: Final = 5_000


@dataclass(slots=True)
class SalvageReport:
    """What a salvage brought home.

    Attributes:
        events: events in the fresh journal.
        read: how many of them SQLite still read.
        carved: how many were found only in raw pages.
        streams: streams whose place is known.
        cursors: sinks whose cursor was kept; the others begin at 0 and get events twice.
        identity_kept: the fresh journal has the damaged one's id and own stream.
    """

    events: int = 0
    read: int = 0
    carved: int = 0
    streams: int = 0
    cursors: int = 0
    identity_kept: bool = False


class _Facts:
    """What is known besides the events: streams, cursors and the journal's own values."""

    def __init__(self) -> None:
        self.streams: dict[StreamId, StreamState] = {}
        self.cursors: dict[str, int] = {}
        self.meta: dict[str, str] = {}

    def add_stream(self, row: tuple[Any, ...]) -> None:
        with suppress(Damaged):
            state = read_stream(row)
            known = self.streams.get(state.stream)
            if known is None or known.next < state.next:
                self.streams[state.stream] = state

    def add_cursor(self, row: tuple[Any, ...]) -> None:
        sink, seq, crc = row
        with suppress(TypeError, ValueError):
            if crc == cursor_crc(sink, seq):
                name = sink.decode()
                self.cursors[name] = max(seq, self.cursors.get(name, 0))

    def add_meta(self, row: tuple[Any, ...]) -> None:
        name, value, crc = row
        with suppress(TypeError, ValueError):
            if crc == meta_crc(name, value):
                key, text = name.decode(), value.decode()
                # Older versions of a page may lie about; these two only grow.
                if key in ("last_seq", "pruned"):
                    text = str(max(int(text), int(self.meta.get(key, "0"))))
                self.meta[key] = text

    def add_cells(self, page: bytes) -> None:
        """Take what a raw page holds."""
        for shape, add, columns in (
            (carve.STREAMS, self.add_stream, slice(0, 5)),
            (carve.CURSORS, self.add_cursor, slice(1, 4)),
            (carve.META, self.add_meta, slice(1, 4)),
        ):
            for cell in carve.find_cells(page, 0, shape, lambda _number: None):
                add((cell.rowid, *cell.values[1:])[columns])


class _Fresh:
    """The journal under construction."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._kinds = KindBook({}, 0)
        self._book = StreamBook({}, 1, set())
        self._rows: list[EventRow] = []
        self.last_seq = 0

    def add(self, row: EventRow) -> None:
        """Take an event, unless one of its place or its id is there already."""
        seq, _ref, number, identity, received_ns, _kind, _time, _crc, line = row
        try:
            whose = decode_identity(identity)
        except ValueError:
            return
        ref = self._ref(whose.stream, whose.host_id)
        self._book.note_origin(ref, identity)
        summary = summarize(line)
        kind, time_ns = self._kinds.ref(summary), summary.time_ns
        crc = event_crc(seq, ref, number, identity, received_ns, kind, time_ns, line)
        self._rows.append((seq, ref, number, identity, received_ns, kind, time_ns, crc, line))
        if len(self._rows) >= _COMMIT_EVENTS:
            self.flush()

    def _ref(self, stream: StreamId, owner: HostId) -> int:
        state = self._book.get(stream) or self._book.stage(stream, owner, 0)
        return state.ref

    def flush(self) -> None:
        """Write what was taken."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT OR IGNORE INTO events VALUES (?,?,?,?,?,?,?,?,?)", self._rows
        )
        connection.executemany(
            "INSERT INTO kinds VALUES (?,?,?,?,?,?,?)", self._kinds.staged_rows()
        )
        connection.executemany(
            "INSERT INTO origins (stream, identity, crc) VALUES (?,?,?)", self._book.origin_rows()
        )
        connection.execute("COMMIT")
        self._rows = []
        self._kinds.commit()
        self._book.commit()

    def count(self) -> int:
        """How many events there are."""
        self.flush()
        (count,) = self._connection.execute("SELECT count(*) FROM events").fetchone()
        return int(count)

    def settle(self, known: dict[StreamId, StreamState]) -> None:
        """Every stream stands at least above the events that are there now."""
        self.flush()
        for state in known.values():
            self._book.stage(state.stream, state.host_id, state.next)
        self._book.commit()
        highest = dict(
            self._connection.execute("SELECT stream, max(number) FROM events GROUP BY stream")
        )
        for state in list(self._book):
            number = max(known[state.stream].next if state.stream in known else 0,
                         highest.get(state.ref, -1) + 1)  # fmt: skip
            owner = known[state.stream].host_id if state.stream in known else state.host_id
            self._book.stage(state.stream, owner, number)
        self._book.commit()

    def extend(self, unsettled: Callable[[StreamId], StreamState | None], own: StreamId) -> None:
        """Move streams over the events that came since, up to the first hole.

        The journal's own stream passes over holes too: nobody sends its events again.
        """
        self.flush()
        for state in list(self._book):
            number = state.next
            if number == 0:
                # Known only from the log: it began where the log says, not at 0.
                (first,) = self._connection.execute(
                    "SELECT min(number) FROM events WHERE stream = ?", (state.ref,)
                ).fetchone()
                number = first or 0
            for (found,) in self._connection.execute(
                "SELECT number FROM events WHERE stream = ? AND number >= ? ORDER BY number",
                (state.ref, number),
            ):
                if found != number and state.stream != own:
                    break
                number = found + 1
            owner = unsettled(state.stream)
            self._book.stage(
                state.stream, owner.host_id if owner is not None else state.host_id, number
            )
        self._book.commit()

    def finish(self, facts: _Facts) -> None:
        """Write what the events do not say."""
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(
            "INSERT INTO streams VALUES (?,?,?,?,?)", [state.row() for state in self._book]
        )
        for bounds in connection.execute(
            "SELECT received_ns / ?, min(seq), max(seq) FROM events GROUP BY 1",
            (schema.MINUTE_NS,),
        ).fetchall():
            note_minute(connection, *bounds)
        (highest,) = connection.execute("SELECT max(seq) FROM events").fetchone()
        last_seq = max(
            highest or 0, int(facts.meta.get("last_seq", "0")), *facts.cursors.values(), 0
        )
        write_meta(connection, "last_seq", str(last_seq))
        for sink, seq in facts.cursors.items():
            write_cursor(connection, sink, Seq(seq))
        connection.execute("COMMIT")

    def stream_count(self) -> int:
        """How many streams are known."""
        return sum(1 for _state in self._book)


def salvage(damaged: Path, fresh: Path) -> SalvageReport:
    """Bring every event whose bytes are whole into a fresh journal; the damaged one is not touched.

    Args:
        damaged: the journal's file, its ``-wal`` beside it; no server may have it open.
        fresh: must not exist; appears only when it is complete.

    Raises:
        JournalMissingError: there is no ``damaged``.
        JournalInUseError: a server has it open.
        FileAccessError: ``fresh`` exists, or ``damaged`` cannot be read.
        JournalUnavailableError: ``fresh`` cannot be written.
    """
    if not damaged.is_file():
        raise JournalMissingError(damaged)
    if fresh.exists():
        raise FileAccessError(fresh, "it exists already", "name a new file")
    partial = fresh.with_name(f".{fresh.name}.partial")
    _remove(partial)
    with ExitStack() as stack:
        stack.enter_context(take_lock(damaged))
        try:
            report = _salvage(damaged, partial)
            partial.replace(fresh)
            sync_directory(fresh.parent)
        except OSError as error:
            raise FileAccessError(damaged, error.strerror or str(error)) from error
        finally:
            _remove(partial)
    return report


def _salvage(damaged: Path, partial: Path) -> SalvageReport:
    report = SalvageReport()
    settled, unsettled = _Facts(), _Facts()
    _read_facts(damaged, settled)
    with open_database(damaged) as pages:
        for index in range(pages.count):
            settled.add_cells(pages.page(index) or b"")
    with open_wal(damaged) as frames:
        for page in WalPages(frames).all():
            unsettled.add_cells(page)
    meta = {**unsettled.meta, **settled.meta}
    connection = schema.open_for_writing(partial)
    try:
        report.identity_kept = {"journal", "stream"} <= meta.keys()
        own = StreamId(meta.get("stream", str(uuid.uuid4())))
        create_tables(connection, journal_id=meta.get("journal", str(uuid.uuid4())), stream=own)
        target = _Fresh(connection)
        pruned = max(int(facts.meta.get("pruned", "0")) for facts in (settled, unsettled))

        def take(rows: Iterable[tuple[Any, ...]]) -> None:
            for row in rows:
                with suppress(Damaged):
                    event = check_event(row)
                    if event[0] > pruned:
                        target.add(event)

        take(_read_events(damaged))
        report.read = target.count()
        take(_carve_events(damaged, log=False))
        target.settle(settled.streams)
        take(_carve_events(damaged, log=True))
        target.extend(unsettled.streams.get, own)
        report.events = target.count()
        report.carved = report.events - report.read
        for sink, seq in unsettled.cursors.items():
            settled.cursors[sink] = max(seq, settled.cursors.get(sink, 0))
        for name, text in unsettled.meta.items():
            if name == "last_seq":
                settled.meta[name] = str(max(int(text), int(settled.meta.get(name, "0"))))
        target.finish(settled)
        if pruned:
            write_meta(connection, "pruned", str(pruned))
        report.streams = target.stream_count()
        report.cursors = len(settled.cursors)
    except sqlite3.Error as error:
        raise schema.journal_error(partial, error) from error
    finally:
        connection.close()
    return report


def _read_facts(damaged: Path, facts: _Facts) -> None:
    for table, columns, add in (
        ("streams", "ref, stream, host_id, next, crc", facts.add_stream),
        ("cursors", "sink, seq, crc", facts.add_cursor),
        ("meta", "name, value, crc", facts.add_meta),
    ):
        for row in _read(damaged, f"SELECT {columns} FROM {table}"):  # noqa: S608 -- constants
            add(row)


def _read_events(damaged: Path) -> Iterator[tuple[Any, ...]]:
    return _read(damaged, f"SELECT {schema.EVENT_COLUMNS} FROM events ORDER BY seq")  # noqa: S608 -- constants


def _read(damaged: Path, sql: str) -> Iterator[tuple[Any, ...]]:
    """What SQLite gives, as far as it comes."""
    try:
        connection = schema.open_for_reading(damaged)
    except SibError:
        return
    try:
        with suppress(*schema.SqliteFailure):
            yield from connection.execute(sql)
    finally:
        connection.close()


def _carve_events(damaged: Path, *, log: bool) -> Iterator[tuple[Any, ...]]:
    with open_database(damaged) as pages, open_wal(damaged) as frames:
        newer = WalPages(frames)

        def from_database(number: int) -> bytes | None:
            return pages.page(number - 1)

        sources = newer.all() if log else (pages.page(index) or b"" for index in range(pages.count))
        for page in sources:
            for fetch in (from_database, newer.fetch):
                for cell in carve.find_cells(page, 0, carve.EVENTS, fetch):
                    yield (cell.rowid, *cell.values[1:])
                if not frames.count:
                    break


def _remove(partial: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        partial.with_name(partial.name + suffix).unlink(missing_ok=True)
