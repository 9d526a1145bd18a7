"""The journal's file: its tables, how it is opened, and what SQLite's errors mean.

Measured on two cores with 700-byte events, a thousand to a commit, CPU for each event: 5.1 us for
the table alone, 5.6 with the index over (stream, number), 7.6 with the one over kinds too. There is
no index over the received time (``minutes`` bounds a search by it, at one small row a commit), none
over hosts (a host has its streams, and those are indexed), and none over rules, priorities and
techniques, which together are one kind.

Page size 4096: the same CPU as 8192 and 16384 at full load, and half the bytes to write when a lone
event is committed; it is also the most that one damaged page can cost. auto_vacuum is off: pruned
pages are used again, so the file stays at its high-water mark, and no pointer maps are written.
"""

from __future__ import annotations

import os
import sqlite3
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sib_server.events.failures import (
    JournalDamagedError,
    JournalError,
    JournalMissingError,
    JournalTooNewError,
    JournalUnavailableError,
)

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA_VERSION: Final = 1
PAGE_SIZE: Final = 4096
_CHECKPOINT_BYTES: Final = 32 * 1024 * 1024
_WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
_BUSY_MS: Final = 5_000

# Texts are BLOBs throughout: SQLite neither checks nor converts them, so a damaged one is read as
# it is and found by its checksum instead of failing the whole read.
TABLES: Final = """
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, stream INTEGER NOT NULL, number INTEGER NOT NULL,
    identity BLOB NOT NULL, received_ns INTEGER NOT NULL, kind INTEGER NOT NULL,
    time_ns INTEGER, crc INTEGER NOT NULL, line BLOB NOT NULL
);
CREATE UNIQUE INDEX events_by_number ON events (stream, number);
CREATE INDEX events_by_kind ON events (kind);
CREATE TABLE streams (
    ref INTEGER PRIMARY KEY, stream BLOB NOT NULL, host_id BLOB NOT NULL,
    next INTEGER NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE origins (
    ref INTEGER PRIMARY KEY, stream INTEGER NOT NULL, identity BLOB NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE kinds (
    kind INTEGER PRIMARY KEY, rule BLOB NOT NULL, severity INTEGER NOT NULL, source BLOB NOT NULL,
    techniques BLOB NOT NULL, unparsed INTEGER NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE minutes (
    minute INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL, last_seq INTEGER NOT NULL,
    crc INTEGER NOT NULL
);
CREATE TABLE cursors (
    ref INTEGER PRIMARY KEY, sink BLOB NOT NULL UNIQUE, seq INTEGER NOT NULL, crc INTEGER NOT NULL
);
CREATE TABLE meta (
    ref INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE, value BLOB NOT NULL, crc INTEGER NOT NULL
);
"""

EVENT_COLUMNS: Final = "seq, stream, number, identity, received_ns, kind, time_ns, crc, line"
MINUTE_NS: Final = 60 * 1_000_000_000

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_SCHEMA})


SqliteFailure: Final = (sqlite3.Error, UnicodeDecodeError)
"""What a call of SQLite may raise: where a damaged schema holds bytes that are no UTF-8, Python
fails to decode SQLite's message about it and raises that instead."""


def journal_error(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> JournalError:
    """Say what an error of SQLite means for the journal."""
    if isinstance(error, UnicodeDecodeError):
        return JournalDamagedError(path, "its schema is not readable text")
    if is_damage(error):
        return JournalDamagedError(path, str(error))
    name = getattr(error, "sqlite_errorname", None)
    return JournalUnavailableError(path, f"{error} ({name})" if name else str(error))


def is_damage(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    """Whether an error comes from bytes on disk that are not what was written."""
    if isinstance(error, UnicodeDecodeError):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return False
    # SQLITE_ERROR is what a damaged schema gives ("no such table"): our statements are fixed.
    return (code & 0xFF) in _DAMAGE or code == sqlite3.SQLITE_ERROR


def open_for_writing(path: Path, *, max_bytes: int | None = None) -> sqlite3.Connection:
    """Open or create the file for its one writer.

    Args:
        path: the journal's file; its directory must exist.
        max_bytes: SQLite refuses to grow the file above this.

    Raises:
        JournalDamagedError: it is there, but no SQLite database any more.
        JournalUnavailableError: the disk is full or the path cannot be used.
    """
    try:
        # Events tell what hosts do: SQLite itself would let everybody read them.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except OSError as error:
        raise JournalUnavailableError(path, error.strerror or str(error)) from error
    except SqliteFailure as error:
        raise journal_error(path, error) from error
    try:
        connection.text_factory = bytes
        connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute("PRAGMA auto_vacuum = NONE")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cell_size_check = ON")
        # Deleted rows are zeroed where their page is written anyway, and left where it is not.
        connection.execute("PRAGMA secure_delete = FAST")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_BYTES // PAGE_SIZE}")
        if max_bytes is not None:
            connection.execute(f"PRAGMA max_page_count = {max_bytes // PAGE_SIZE}")
    except SqliteFailure as error:
        connection.close()
        raise journal_error(path, error) from error
    return connection


def check_version(path: Path, found: str | None) -> None:
    """Hold what the journal says its schema is against the one that this SIB reads and writes.

    Raises:
        JournalTooNewError: a later SIB wrote it.
        JournalDamagedError: no SIB did.
    """
    if found == str(SCHEMA_VERSION):
        return
    # Later versions are few digits: more would be damage, too.
    if found is not None and len(found) < 6 and found.isdecimal() and int(found) > SCHEMA_VERSION:
        raise JournalTooNewError(path, int(found))
    raise JournalDamagedError(path, f"its schema version reads {found!r}")


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the file beside its writer, or without one; nothing in it is ever changed.

    Raises:
        JournalMissingError: there is none.
        JournalDamagedError: it is no SQLite database any more.
        JournalUnavailableError: it cannot be read by this user.
    """
    if not path.is_file():
        raise JournalMissingError(path)
    # Without its -wal nobody has the file open, and a user who may not write into the directory
    # could not make the shared memory file that a WAL database otherwise needs.
    alone = not path.with_name(path.name + "-wal").exists()
    attempts = ("mode=ro", "mode=ro&immutable=1") if alone else ("mode=ro",)
    failure: sqlite3.Error | UnicodeDecodeError | None = None
    for attempt in attempts:
        connection = None
        try:
            connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?{attempt}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            connection.text_factory = bytes
            connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        except SqliteFailure as error:
            failure = failure or error
            if connection is not None:
                connection.close()
        else:
            return connection
    assert failure is not None  # noqa: S101 -- every attempt failed, and each left its error
    raise journal_error(path, failure) from failure
