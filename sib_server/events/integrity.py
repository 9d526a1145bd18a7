"""Looking over a whole journal: is every row what was written, and does SQLite find them all?"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sib_server.events import schema
from sib_server.events.damage import JournalDamage
from sib_server.events.failures import JournalDamagedError
from sib_server.events.meta import read_meta, read_minutes
from sib_server.events.rows import Damaged, check_event, cursor_crc, read_kind
from sib_server.events.stored import Seq
from sib_server.events.streams import read_origins, read_stream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sib_server.events.rows import Row

MOST_LISTED: Final = 100
_META: Final = frozenset({"schema", "journal", "stream"})


@dataclass(slots=True)
class VerifyReport:
    """What a look over a journal found.

    Attributes:
        events: how many whole events were read.
        damaged_events: how many rows of events are damaged.
        damage: the first of them.
        structure: what is wrong besides, one sentence each; at most a hundred.
    """

    events: int = 0
    damaged_events: int = 0
    damage: list[JournalDamage] = field(default_factory=list)
    structure: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Nothing is wrong."""
        return not self.damaged_events and not self.structure

    def note(self, problem: str) -> None:
        """Add a sentence, unless there are many already."""
        if len(self.structure) < MOST_LISTED:
            self.structure.append(problem)


def verify(path: Path) -> VerifyReport:
    """Look over a journal, beside its server or without one; changes nothing.

    Raises:
        JournalMissingError: there is none.
        JournalUnavailableError: it cannot be read.
    """
    report = VerifyReport()
    try:
        connection = schema.open_for_reading(path)
    except JournalDamagedError as error:
        report.note(error.reason)
        return report
    try:
        for look in (_look_at_structure, _look_at_events, _look_at_tables):
            _run_look(connection, look, report, path)
    finally:
        connection.close()
    return report


def _run_look(
    connection: sqlite3.Connection,
    look: Callable[[sqlite3.Connection, VerifyReport], None],
    report: VerifyReport,
    path: Path,
) -> None:
    try:
        # One snapshot for each look: a server that writes meanwhile disturbs none.
        connection.execute("BEGIN")
        look(connection, report)
    except schema.SqliteFailure as error:
        if not schema.is_damage(error):
            raise schema.journal_error(path, error) from error
        report.note(str(error))
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _look_at_structure(connection: sqlite3.Connection, report: VerifyReport) -> None:
    for (line,) in connection.execute(f"PRAGMA integrity_check({MOST_LISTED})"):
        text = line.decode(errors="replace") if isinstance(line, bytes) else str(line)
        if text != "ok":
            report.note(text)


def _look_at_events(connection: sqlite3.Connection, report: VerifyReport) -> None:
    minutes: dict[int, tuple[int, int]] = {}
    for row in connection.execute(
        f"SELECT {schema.EVENT_COLUMNS} FROM events ORDER BY seq"  # noqa: S608 -- constants
    ):
        try:
            event = check_event(row)
        except Damaged:
            report.damaged_events += 1
            if len(report.damage) < MOST_LISTED:
                seq = Seq(row[0])
                report.damage.append(JournalDamage(seq, seq, None, "its checksum does not match"))
            continue
        report.events += 1
        minute = event[4] // schema.MINUTE_NS
        low, high = minutes.get(minute, (event[0], event[0]))
        minutes[minute] = min(low, event[0]), max(high, event[0])
    known: dict[int, tuple[int, int]] = {}
    for row in read_minutes(connection):
        if row is None:
            report.note("a row of the minutes is damaged")
        else:
            known[row[0]] = row[1:]
    for minute, (low, high) in minutes.items():
        first, last = known.get(minute, (high + 1, low - 1))
        if not first <= low <= high <= last:
            report.note(f"the events of minute {minute} are not where the table of minutes says")


def _look_at_tables(connection: sqlite3.Connection, report: VerifyReport) -> None:
    for row in connection.execute("SELECT ref, stream, host_id, next, crc FROM streams"):
        if not _reads(read_stream, row):
            report.note(f"row {row[0]} of the streams is damaged")
    for row in connection.execute(
        "SELECT kind, rule, severity, source, techniques, unparsed, crc FROM kinds"
    ):
        if not _reads(read_kind, row):
            report.note(f"row {row[0]} of the kinds is damaged")
    if not read_origins(connection)[1]:
        report.note("a row of the origins is damaged")
    for sink, seq, crc in connection.execute("SELECT sink, seq, crc FROM cursors"):
        if not (isinstance(sink, bytes) and isinstance(seq, int) and crc == cursor_crc(sink, seq)):
            report.note("the cursor of a sink is damaged")
    meta = read_meta(connection)
    if not meta.keys() >= _META:
        report.note(f"the journal's own {', '.join(sorted(_META - meta.keys()))} is damaged")
    if meta.get("schema", str(schema.SCHEMA_VERSION)) != str(schema.SCHEMA_VERSION):
        report.note(f"the schema's version is {meta['schema']}")


def _reads(read: Callable[[Row], object], row: Row) -> bool:
    try:
        read(row)
    except Damaged:
        return False
    return True
