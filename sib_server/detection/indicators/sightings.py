"""Where in the fleet indicators were met: one small file beside them, derived from the journal.

Several sinks read the same events, each at its own pace, and read some again after a failure. So
events are counted by their place in the journal: what is not above the highest place counted so
far was counted before.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import FileAccessError
from sib_server.detection.indicators.enrichment import FleetSighting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sib_server.detection.indicators.enrichment import Enrichment
    from sib_server.detection.indicators.kinds import Observable

FILE_NAME: Final = "sightings.db"
MOST_PAIRS: Final = 100_000
"""Pairs of indicator and host that are kept; above that those met longest ago go."""

_PRUNE_EVERY: Final = 1_000
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS met (
    kind INTEGER NOT NULL, value TEXT NOT NULL, host TEXT NOT NULL,
    events INTEGER NOT NULL, first_seq INTEGER NOT NULL,
    first_ns INTEGER NOT NULL, last_ns INTEGER NOT NULL, event TEXT NOT NULL,
    PRIMARY KEY (kind, value, host)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_ADD: Final = """
INSERT INTO met VALUES (?1, ?2, ?3, 1, ?4, ?5, ?5, ?6)
ON CONFLICT (kind, value, host) DO UPDATE SET
    events = events + 1, first_ns = min(first_ns, ?5), last_ns = max(last_ns, ?5), event = ?6
"""
_BEFORE: Final = """
SELECT host, events, first_ns, last_ns, event FROM met
WHERE kind = ? AND value = ? AND first_seq < ? ORDER BY last_ns DESC, host
"""
_PRUNE: Final = """
DELETE FROM met WHERE (kind, value, host) IN (
    SELECT kind, value, host FROM met ORDER BY last_ns LIMIT max(0, (SELECT count(*) FROM met) - ?)
)
"""


@dataclass(frozen=True, slots=True)
class Meeting:
    """One event that met an indicator.

    Attributes:
        observable: the indicator.
        host: the host's name.
        seq: the event's place in the journal.
        moment_ns: when, nanoseconds since 1970 UTC.
        event: the event's id.
    """

    observable: Observable
    host: str
    seq: int
    moment_ns: int
    event: str


class SightingBook:
    """The file of sightings. Usable from one thread at a time.

    Args:
        directory: that of the indicators.
        journal: id of the journal whose places are counted; with another one counting begins anew
            and what was seen before stays.

    Raises:
        FileAccessError: the file cannot be opened or is damaged.
    """

    def __init__(self, directory: Path, journal: str) -> None:
        self._path = directory / FILE_NAME
        self._added = _PRUNE_EVERY
        try:
            # Derived data: losing the last moments to a power cut costs a count, not an event.
            self._connection = sqlite3.connect(self._path, check_same_thread=False)
            self._connection.executescript(
                "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
            )
            self._connection.executescript(_SCHEMA)
            with self._connection:
                self.counted_to = self._begin(journal)
        except (sqlite3.Error, ValueError) as error:
            raise _failure(self._path, error) from error

    @classmethod
    def open_existing(cls, directory: Path) -> SightingBook | None:
        """The book as it is, to look things up in; ``None`` where nothing was ever met.

        Raises:
            FileAccessError: the file cannot be opened or is damaged.
        """
        path = directory / FILE_NAME
        if not path.exists():
            return None
        try:
            connection = sqlite3.connect(path)
            (journal,) = connection.execute(
                "SELECT value FROM meta WHERE name = 'journal'"
            ).fetchone() or ("",)
            connection.close()
        except sqlite3.Error as error:
            raise _failure(path, error) from error
        return cls(directory, journal)

    def _begin(self, journal: str) -> int:
        meta = dict(self._connection.execute("SELECT name, value FROM meta").fetchall())
        if meta.get("journal") == journal:
            return int(meta["counted_to"])
        self._connection.execute("UPDATE met SET first_seq = 0")
        self._set("journal", journal)
        self._set("counted_to", "0")
        return 0

    def _set(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def record(self, meetings: Sequence[Meeting], up_to: int) -> list[tuple[FleetSighting, ...]]:
        """Count meetings, without those that were counted before, in one transaction.

        Args:
            meetings: in the journal's order.
            up_to: all events up to this place have been looked at.

        Returns:
            For each meeting where its indicator was met by earlier events, the last host first.

        Raises:
            FileAccessError: the file cannot be read or written; nothing was counted.
        """
        counted_to = max(self.counted_to, up_to)
        try:
            with self._connection:
                before = [self._record(meeting) for meeting in meetings]
                self._set("counted_to", str(counted_to))
                self._added += len(meetings)
                if self._added >= _PRUNE_EVERY:
                    self._connection.execute(_PRUNE, (MOST_PAIRS,))
                    self._added = 0
        except sqlite3.Error as error:
            raise _failure(self._path, error) from error
        self.counted_to = counted_to
        return before

    def _record(self, meeting: Meeting) -> tuple[FleetSighting, ...]:
        before = self._before(meeting.observable, meeting.seq)
        if meeting.seq > self.counted_to:
            key = (meeting.observable.kind.code, meeting.observable.value)
            row = (*key, meeting.host, meeting.seq, meeting.moment_ns, meeting.event)
            self._connection.execute(_ADD, row)
        return before

    def with_history(self, enrichments: Sequence[Enrichment], seq: int) -> tuple[Enrichment, ...]:
        """Enrichments of the event at a place, with where their indicators were met before it.

        Raises:
            FileAccessError: the file cannot be read.
        """
        try:
            return tuple(
                msgspec.structs.replace(each, seen_before=self._before(each.observable, seq))
                for each in enrichments
            )
        except sqlite3.Error as error:
            raise _failure(self._path, error) from error

    def _before(self, observable: Observable, seq: int) -> tuple[FleetSighting, ...]:
        rows = self._connection.execute(_BEFORE, (observable.kind.code, observable.value, seq))
        return tuple(FleetSighting(*row) for row in rows)

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()


def _failure(path: Path, error: Exception) -> FileAccessError:
    return FileAccessError(path, str(error), "delete it: only what was seen before is lost with it")
