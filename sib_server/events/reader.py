"""Reading the journal beside its writer, for sinks and for searches.

Every row's checksum is checked. A damaged row is reported and skipped, never delivered; where even
the way to rows is damaged, each row is asked for by its place, so that none that can still be
reached is missed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sib_protocol.ids import EventId, LineNumber
from sib_server.events import schema
from sib_server.events.damage import JournalDamage
from sib_server.events.failures import JournalError
from sib_server.events.kinds import load_kinds
from sib_server.events.meta import read_cursors, read_meta, read_minutes
from sib_server.events.query import planned_kinds, time_bounds
from sib_server.events.rows import NO_KIND, Damaged, Identities, Kind, stored_event
from sib_server.events.stored import Seq
from sib_server.events.streams import read_origins

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sib_protocol.ids import StreamId
    from sib_server.events.query import Query
    from sib_server.events.rows import Identity
    from sib_server.events.stored import StoredEvent

_AFTER: Final = f"SELECT {schema.EVENT_COLUMNS} FROM events WHERE seq > ? ORDER BY seq LIMIT ?"  # noqa: S608 -- constants
_AT: Final = f"SELECT {schema.EVENT_COLUMNS} FROM events WHERE seq = ?"  # noqa: S608 -- constants
_PAGE_ROWS: Final = 64
"""No page holds more events: the smallest takes over 70 bytes."""
_UNREACHABLE: Final = "the pages around it are damaged"
_CHECKSUM: Final = "its checksum does not match"


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a sink is behind.

    Attributes:
        events: how many events it has not delivered.
        seconds: for how long the oldest of them has waited; 0 when there is none.
    """

    events: int
    seconds: float


class JournalReader:
    """A read-only connection; usable from one thread at a time."""

    def __init__(
        self, path: Path, *, on_damage: Callable[[JournalDamage], None] | None = None
    ) -> None:
        """Open the journal.

        Args:
            path: its file.
            on_damage: told of every damaged row that is met, each time; see ``DamageLog``.

        Raises:
            JournalMissingError: there is none.
            JournalDamagedError: it cannot be opened without being salvaged.
            JournalTooNewError: a later SIB wrote it.
            JournalUnavailableError: it cannot be read now.
        """
        self.path = path
        self._on_damage = on_damage or (lambda _damage: None)
        self._connection = schema.open_for_reading(path)
        self._kinds: dict[int, Kind] = {}
        self._kinds_up_to = -1
        self._identities = Identities()
        try:
            version = read_meta(self._connection).get("schema")
            self._load_kinds()
        except schema.SqliteFailure as error:
            self._connection.close()
            raise schema.journal_error(path, error) from error
        try:
            schema.check_version(path, version)
        except JournalError:
            self._connection.close()
            raise

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @property
    def last_seq(self) -> Seq:
        """The newest event's place; 0 for an empty journal. Raises JournalError."""
        return Seq(self._extreme("max") or 0)

    @property
    def first_seq(self) -> Seq:
        """The oldest event's place; 0 for an empty journal. Raises JournalError."""
        return Seq(self._extreme("min") or 0)

    def read(
        self, after: Seq, *, max_events: int = 1000, max_bytes: int = 4 * 1024 * 1024
    ) -> list[StoredEvent]:
        """The next events, in the journal's order.

        Args:
            after: the place of the last event already taken; 0 from the beginning.
            max_events: the most that are returned.
            max_bytes: no further event is taken once the lines reach this size.

        Returns:
            Events without the damaged ones between them; empty only when none follows.

        Raises:
            JournalError: the journal cannot be read at all.
        """
        try:
            events = self._read_from(after, after, max_events, max_bytes)
            if after and events and events[0].seq != after + 1:
                # A damaged place in the same page can lead the search for `after` past whole
                # events; a search that begins a page earlier cannot be led astray by it.
                events = self._read_from(after, max(0, after - _PAGE_ROWS), max_events, max_bytes)
        except schema.SqliteFailure as error:
            if not schema.is_damage(error):
                raise schema.journal_error(self.path, error) from error
            return self._read_one_by_one(after, max_events, max_bytes)
        return events

    def _read_from(
        self, after: int, start: int, max_events: int, max_bytes: int
    ) -> list[StoredEvent]:
        limit = max_events + after - start
        while True:
            events: list[StoredEvent] = []
            rows = size = 0
            for row in self._connection.execute(_AFTER, (start, limit)):
                rows += 1
                event = self.decode(row)
                if event is not None and event.seq > after:
                    events.append(event)
                    size += len(event.line)
                    if len(events) >= max_events or size >= max_bytes:
                        break
            if events or rows < limit:
                return events
            limit *= 8

    def _read_one_by_one(self, after: int, max_events: int, max_bytes: int) -> list[StoredEvent]:
        events: list[StoredEvent] = []
        size = 0
        for seq in range(after + 1, self._last_known() + 1):
            row = self.row_at(seq)
            event = None if row is None else self.decode(row)
            if event is not None:
                events.append(event)
                size += len(event.line)
                if len(events) >= max_events or size >= max_bytes:
                    break
        return events

    def _last_known(self) -> int:
        """The newest event's place, even where the way to it is damaged."""
        last = int(read_meta(self._connection).get("last_seq", "0"))
        try:
            return max(last, self.last_seq)
        except JournalError:
            return last

    def decode(self, row: tuple[Any, ...]) -> StoredEvent | None:
        """Make an event of a row; ``None`` for a damaged one, which is reported."""
        kind = row[5]
        if isinstance(kind, int) and kind > self._kinds_up_to:
            self._load_kinds()
        try:
            return stored_event(row, self._kinds, self._identities)
        except Damaged:
            self._on_damage(_damage_of(row, self._identities))
            return None

    def rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Run a query of this package. Raises JournalError."""
        try:
            yield from self._connection.execute(sql, parameters)
        except schema.SqliteFailure as error:
            raise schema.journal_error(self.path, error) from error

    def kinds(self) -> dict[int, Kind]:
        """All kinds that are in use now. Raises JournalError."""
        try:
            self._load_kinds()
        except schema.SqliteFailure as error:
            raise schema.journal_error(self.path, error) from error
        return self._kinds

    def bounds(self, query: Query) -> tuple[int, int] | None:
        """The places, both included, among which a search has to look; ``None`` for nowhere.

        Raises:
            JournalError: the journal cannot be read.
        """
        try:
            last = self._last_known()
            if query.since_ns is None and query.until_ns is None:
                return (1, last) if last else None
            bounds = time_bounds(query, read_minutes(self._connection), schema.MINUTE_NS)
        except schema.SqliteFailure as error:
            raise schema.journal_error(self.path, error) from error
        return None if bounds is None else (bounds[0], min(bounds[1], last))

    def planned_kinds(self, query: Query) -> list[int] | None:
        """As :func:`query.planned_kinds`, with the kinds whose rows are damaged."""
        wanted = planned_kinds(query, self.kinds())
        if wanted is None:
            return None
        return wanted + [ref for ref in range(1, self._kinds_up_to + 1) if ref not in self._kinds]

    def streams_of(self, host: str) -> list[int] | None:
        """References of the streams that hold events of a host, by its id or name.

        Returns:
            ``None`` where damage leaves it open which. Raises JournalError.
        """
        return self._streams_where(lambda identity: host in identity[1:])

    def streams_called(self, stream: StreamId) -> list[int] | None:
        """References of a stream: one at most, unless the journal was put together again.

        Returns:
            ``None`` where damage leaves it open which. Raises JournalError.
        """
        return self._streams_where(lambda identity: identity.stream == stream)

    def _streams_where(self, wanted: Callable[[Identity], bool]) -> list[int] | None:
        try:
            origins, complete = read_origins(self._connection)
        except schema.SqliteFailure as error:
            raise schema.journal_error(self.path, error) from error
        if not complete:
            return None
        return sorted({ref for ref, identity in origins if wanted(self._identities[identity])})

    def row_at(self, seq: int) -> tuple[Any, ...] | None:
        """The row at a place, unchecked; ``None`` where there is none or it cannot be reached.

        Raises:
            JournalError: it cannot be read for another reason than damage, which is reported.
        """
        try:
            row = self._connection.execute(_AT, (seq,)).fetchone()
        except schema.SqliteFailure as error:
            if not schema.is_damage(error):
                raise schema.journal_error(self.path, error) from error
            self._on_damage(JournalDamage(Seq(seq), Seq(seq), None, _UNREACHABLE))
            return None
        return row  # type: ignore[no-any-return]

    def cursor(self, sink: str) -> Seq:
        """The place up to which a sink has delivered; 0 for a new one. Raises JournalError."""
        return self.cursors().get(sink, Seq(0))

    def cursors(self) -> dict[str, Seq]:
        """All sinks' cursors. Raises JournalError."""
        try:
            return read_cursors(self._connection)
        except schema.SqliteFailure as error:
            raise schema.journal_error(self.path, error) from error

    def lag(self, sink: str, *, now_ns: int | None = None) -> Lag:
        """How far a sink is behind its journal. Raises JournalError."""
        cursor = max(self.cursor(sink), self.first_seq - 1)
        behind = self.last_seq - cursor
        if behind <= 0:
            return Lag(0, 0.0)
        oldest = next(
            self.rows(
                "SELECT received_ns FROM events WHERE seq > ? ORDER BY seq LIMIT 1", (cursor,)
            ),
            None,
        )
        now = time.time_ns() if now_ns is None else now_ns
        return Lag(behind, max(0.0, (now - oldest[0]) / 1e9) if oldest else 0.0)

    def _extreme(self, which: str) -> int | None:
        (row,) = self.rows(f"SELECT {which}(seq) FROM events")  # noqa: S608 -- "min" or "max"
        return row[0]  # type: ignore[no-any-return]

    def _load_kinds(self) -> None:
        self._kinds, highest = load_kinds(self._connection)
        self._kinds_up_to = max(highest, NO_KIND)


def _damage_of(row: tuple[Any, ...], identities: Identities) -> JournalDamage:
    seq = Seq(row[0])
    try:
        event_id = EventId(identities[row[3]].stream, LineNumber(int(row[2])))
    except (TypeError, ValueError):
        event_id = None
    return JournalDamage(seq, seq, event_id, _CHECKSUM)
