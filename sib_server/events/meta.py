"""The journal's small tables: own values, sinks' cursors, minutes; each row with its checksum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sib_server.events.rows import cursor_crc, meta_crc, minute_crc
from sib_server.events.stored import Seq

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Mapping


def write_meta(connection: sqlite3.Connection, name: str, value: str) -> None:
    """Set one of the journal's own values. Raises sqlite3.Error."""
    key, data = name.encode(), value.encode()
    connection.execute(
        "INSERT INTO meta (name, value, crc) VALUES (?1, ?2, ?3) "
        "ON CONFLICT (name) DO UPDATE SET value = ?2, crc = ?3",
        (key, data, meta_crc(key, data)),
    )


def read_meta(connection: sqlite3.Connection) -> dict[str, str]:
    """The journal's own values, without damaged ones. Raises sqlite3.Error."""
    return {
        name.decode(): value.decode()
        for name, value, crc in connection.execute("SELECT name, value, crc FROM meta")
        if isinstance(name, bytes) and isinstance(value, bytes) and crc == meta_crc(name, value)
    }


def write_cursor(connection: sqlite3.Connection, sink: str, seq: Seq) -> None:
    """Note what a sink has delivered. Raises sqlite3.Error."""
    key = sink.encode()
    connection.execute(
        "INSERT INTO cursors (sink, seq, crc) VALUES (?1, ?2, ?3) "
        "ON CONFLICT (sink) DO UPDATE SET seq = ?2, crc = ?3",
        (key, seq, cursor_crc(key, seq)),
    )


def read_cursors(connection: sqlite3.Connection) -> dict[str, Seq]:
    """What each sink has delivered; a damaged cursor reads 0, for a sink may get events twice.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    cursors: dict[str, Seq] = {}
    for sink, seq, crc in connection.execute("SELECT sink, seq, crc FROM cursors"):
        if isinstance(sink, bytes):
            whole = isinstance(seq, int) and crc == cursor_crc(sink, seq)
            cursors[sink.decode(errors="replace")] = Seq(seq if whole else 0)
    return cursors


def highest_seq(connection: sqlite3.Connection, meta: Mapping[str, str]) -> int:
    """The highest place ever given away, even when its event is pruned or damaged."""
    (stored,) = connection.execute("SELECT max(seq) FROM events").fetchone()
    return max(stored or 0, int(meta.get("last_seq", "0")), *read_cursors(connection).values(), 0)


def note_minute(connection: sqlite3.Connection, minute: int, first_seq: int, last_seq: int) -> None:
    """Note that these places were received in a minute since 1970 UTC. Raises sqlite3.Error."""
    known = connection.execute(
        "SELECT first_seq, last_seq FROM minutes WHERE minute = ?", (minute,)
    ).fetchone()
    if known is not None:
        # The server's clock may have been put back: a minute can come again.
        first_seq, last_seq = min(first_seq, known[0]), max(last_seq, known[1])
    crc = minute_crc(minute, first_seq, last_seq)
    connection.execute(
        "INSERT OR REPLACE INTO minutes VALUES (?,?,?,?)", (minute, first_seq, last_seq, crc)
    )


def read_minutes(connection: sqlite3.Connection) -> Iterator[tuple[int, int, int] | None]:
    """(minute, first place, last place) of every minute; ``None`` for a damaged row.

    Raises:
        sqlite3.Error: the table cannot be read.
    """
    for minute, first, last, crc in connection.execute(
        "SELECT minute, first_seq, last_seq, crc FROM minutes"
    ):
        whole = isinstance(first, int) and isinstance(last, int)
        yield (minute, first, last) if whole and crc == minute_crc(minute, first, last) else None
