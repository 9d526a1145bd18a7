"""Indicators on disk: one SQLite file, replaced as a whole by every update.

A new generation is made beside the old one, synced and renamed over it, so that a reader or a crash
sees the old indicators or the new ones. Readers map the file and never lock it.

The file holds the sorted 64-bit fingerprints of all its values as one blob. A reader keeps only
those in memory (8 bytes an indicator) and answers most questions, which are about things that are
no indicators, without touching the table; a hit is confirmed in it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sqlite3
from array import array
from contextlib import closing, contextmanager, suppress
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import ExitCode, FileAccessError, SibError
from sib_protocol.files import sync_directory
from sib_server.detection.indicators.kinds import Kind, Observable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from sib_server.detection.indicators.merge import Sighting

FILE_NAME: Final = "indicators.sqlite"
_LOCK_NAME: Final = "update.lock"
FORMAT: Final = 1
_VERSION: Final = "version:"
"""Begins the key of what is remembered of a feed's last version."""

_SCHEMA: Final = f"""
CREATE TABLE feed (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE sighting (
    kind INTEGER NOT NULL,
    value TEXT NOT NULL,
    feed INTEGER NOT NULL,
    first_seen INTEGER NOT NULL,
    last_seen INTEGER NOT NULL,
    added INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    confidence INTEGER NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (kind, value, feed)
) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""

_UPSERT: Final = """
INSERT INTO sighting VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (kind, value, feed) DO UPDATE SET
    first_seen = min(first_seen, excluded.first_seen),
    last_seen = max(last_seen, excluded.last_seen),
    expires = excluded.expires,
    confidence = excluded.confidence,
    note = CASE excluded.note WHEN '' THEN note ELSE excluded.note END
"""


class DamagedStoreError(SibError):
    """The file of indicators cannot be read."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            f"{path}: the indicators cannot be read: {reason}",
            "remove the file and run 'sib-server intel update': feeds fill it again",
        )
        self.path = path
        self.reason = reason


class BusyStoreError(SibError):
    """Another process is changing the indicators."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"{path}: another update of the indicators is under way", "wait until it has ended"
        )
        self.path = path


def fingerprint(observable: Observable) -> int:
    """64 bits that stand for a value; equal values have equal ones."""
    text = f"{observable.kind.code}:{observable.value}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "little")


class Writer:
    """One new generation of indicators; see :func:`writing`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._feeds: dict[str, int] = dict(
            connection.execute("SELECT name, id FROM feed").fetchall()
        )

    def _feed(self, name: str) -> int:
        if name not in self._feeds:
            row = self._connection.execute("INSERT INTO feed (name) VALUES (?)", (name,))
            self._feeds[name] = row.lastrowid or 0
        return self._feeds[name]

    def merge(self, feed: str, sightings: Mapping[Observable, Sighting]) -> int:
        """Take over what one download says; what it no longer names stays until it expires.

        Returns:
            How many of its indicators are new to the feed.
        """
        number = self._feed(feed)
        count = "SELECT count(*) FROM sighting WHERE feed = ?"
        before = self._connection.execute(count, (number,)).fetchone()[0]
        self._connection.executemany(
            _UPSERT,
            (
                (
                    observable.kind.code,
                    observable.value,
                    number,
                    sighting.first_seen,
                    sighting.last_seen,
                    sighting.added,
                    sighting.expires,
                    sighting.confidence,
                    sighting.note,
                )
                for observable, sighting in sightings.items()
            ),
        )
        return int(self._connection.execute(count, (number,)).fetchone()[0] - before)

    def mark(self, feed: str, *, at: int, life: int) -> None:
        """Remember, with the entries themselves, which of them are of the feed's last version.

        Args:
            feed: its name.
            at: when that version was taken or was unchanged, seconds since 1970 UTC.
            life: how long its entries live, seconds, but for those that end by the feed's word.
        """
        self._connection.execute(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)", (_VERSION + feed, b"%d %d" % (at, life))
        )

    def prolong(self, feed: str, *, now: int, life: int) -> None:
        """The feed still says what it said last: those entries live on as if told again.

        Args:
            feed: its name.
            now: seconds since 1970 UTC.
            life: how long an entry lives from now on, seconds.
        """
        key = (_VERSION + feed,)
        for (mark,) in self._connection.execute("SELECT value FROM meta WHERE key = ?", key):
            since, lived = map(int, mark.split())
            self._connection.execute(
                "UPDATE sighting SET expires = ?1 + ?2, "
                "last_seen = CASE last_seen WHEN ?3 THEN ?1 ELSE last_seen END "
                "WHERE feed = ?4 AND expires = ?3 + ?5",
                (now, life, since, self._feed(feed), lived),
            )
        self.mark(feed, at=now, life=life)

    def forget(self, feed: str) -> int:
        """Drop all that one feed says. Returns how many sightings went."""
        self._connection.execute("DELETE FROM meta WHERE key = ?", (_VERSION + feed,))
        return self._connection.execute(
            "DELETE FROM sighting WHERE feed = ?", (self._feed(feed),)
        ).rowcount

    def expire(self, now: int) -> int:
        """Drop what has expired. Returns how many sightings went."""
        return self._connection.execute("DELETE FROM sighting WHERE expires <= ?", (now,)).rowcount

    def purge(self, unwanted: Callable[[Observable], bool]) -> int:
        """Drop every indicator that is not wanted any more. Returns how many went."""
        gone = [
            (code, value)
            for code, value in self._connection.execute("SELECT DISTINCT kind, value FROM sighting")
            if unwanted(Observable(Kind.from_code(code), value))
        ]
        self._connection.executemany("DELETE FROM sighting WHERE kind = ? AND value = ?", gone)
        return len(gone)

    def finish(self, now: int) -> None:
        """Put the fingerprints and the time into the file."""
        prints = array(
            "Q",
            sorted(
                fingerprint(Observable(Kind.from_code(code), value))
                for code, value in self._connection.execute(
                    "SELECT DISTINCT kind, value FROM sighting"
                )
            ),
        )
        if prints.itemsize != 8 or os.sys.byteorder != "little":  # type: ignore[attr-defined]
            prints.byteswap()  # pragma: no cover - SIB is built for little-endian machines
        meta = [("fingerprints", prints.tobytes()), ("updated", str(now).encode())]
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", meta)


def read_versions(directory: Path) -> dict[str, int]:
    """When each feed's version that the present generation has was taken or was unchanged.

    Returns:
        Seconds since 1970 UTC, by the feed's name.

    Raises:
        DamagedStoreError: the present generation cannot be read.
    """
    path = directory / FILE_NAME
    if not path.exists():
        return {}
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
        ) as connection:
            return {
                key.removeprefix(_VERSION): int(value.split()[0])
                for key, value in connection.execute("SELECT key, value FROM meta")
                if key.startswith(_VERSION)
            }
    except (sqlite3.Error, ValueError) as error:
        raise DamagedStoreError(path, str(error)) from error


@contextmanager
def update_lock(directory: Path) -> Iterator[None]:
    """Only one process at a time changes a directory of indicators.

    Raises:
        BusyStoreError: another one does.
        FileAccessError: the directory cannot be written.
    """
    path = directory / _LOCK_NAME
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise FileAccessError(directory, error.strerror or str(error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyStoreError(directory) from error
        for left in directory.glob(f".{FILE_NAME}.*"):
            # Only a killed update leaves one, and we hold the lock.
            left.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def writing(directory: Path, now: int) -> Iterator[Writer]:
    """A new generation; it takes the old one's place when the block ends without an error.

    The caller holds :func:`update_lock`.

    Raises:
        DamagedStoreError: the present generation cannot be read.
        FileAccessError: no room, or not writable.
    """
    target = directory / FILE_NAME
    temporary = directory / f".{FILE_NAME}.{secrets.token_hex(6)}"
    try:
        try:
            fresh = not target.exists()
            if not fresh:
                shutil.copyfile(target, temporary)
            connection = sqlite3.connect(temporary)
            try:
                # The file is thrown away after a crash, so it needs no journal of its own.
                connection.execute("PRAGMA journal_mode = OFF")
                connection.execute("PRAGMA synchronous = OFF")
                if fresh:
                    connection.executescript(_SCHEMA)
                writer = Writer(connection)
                yield writer
                writer.finish(now)
                connection.commit()
            finally:
                connection.close()
        except sqlite3.DatabaseError as error:
            raise DamagedStoreError(target, str(error)) from error
        temporary.chmod(0o640)
        descriptor = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(target)
        sync_directory(directory)
    except OSError as error:
        raise FileAccessError(target, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
