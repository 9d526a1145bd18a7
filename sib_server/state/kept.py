"""One query that is asked at every request: compiled once, on a connection of its own."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import sqlite

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa


class KeptQuery:
    """Asks SQLite without a pool, a transaction's three statements, or SQLAlchemy in between.

    That takes microseconds and never waits for a lock, so an event loop may ask. Each time it reads
    what is committed then, by whatever process.

    Args:
        path: the database file; opened by the first question.
        statement: with bound parameters; its columns come as SQLite has them.
    """

    def __init__(self, path: Path, statement: sa.Select[Any]) -> None:
        compiled = statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
        self._sql = str(compiled)
        self._names = tuple(compiled.positiontup or ())
        self._path = path
        self._connection: sqlite3.Connection | None = None

    def first(self, **parameters: str) -> tuple[Any, ...] | None:
        """The first row; ``None`` if there is none. From one thread at a time.

        Raises:
            sqlite3.Error: the database is busy, damaged or not there. It was not waited for.
        """
        if self._connection is None:
            self._connection = self._open()
        found: tuple[Any, ...] | None = self._connection.execute(
            self._sql, [parameters[name] for name in self._names]
        ).fetchone()
        return found

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=0.0,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only = ON")
        return connection

    def close(self) -> None:
        """Close the connection; a later question opens another one."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
