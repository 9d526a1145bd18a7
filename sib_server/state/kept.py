"""One query that is asked at every request: compiled once, on a connection of its own."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.dialects import sqlite

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class _Opened:
    connection: sqlite3.Connection
    sql: str
    names: tuple[str, ...]


class KeptQuery:
    """Asks SQLite without a pool, a transaction's three statements, or SQLAlchemy in between.

    That takes microseconds and never waits for a lock, so an event loop may ask. Each time it reads
    what is committed then, by whatever process.

    Args:
        path: the database file.
        statement: with bound parameters; its columns come as SQLite has them. Compiled, and the
            file opened, by the first question.
    """

    def __init__(self, path: Path, statement: sa.Select[Any]) -> None:
        self._path = path
        self._statement = statement
        self._opened: _Opened | None = None

    def first(self, **parameters: str) -> tuple[Any, ...] | None:
        """The first row; ``None`` if there is none. From one thread at a time.

        Raises:
            sqlite3.Error: the database is busy, damaged or not there. It was not waited for.
        """
        opened = self._opened = self._opened or self._open()
        values = [parameters[name] for name in opened.names]
        found: tuple[Any, ...] | None = opened.connection.execute(opened.sql, values).fetchone()
        return found

    def _open(self) -> _Opened:
        compiled = self._statement.compile(dialect=sqlite.dialect(paramstyle="qmark"))
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?mode=rw",
            uri=True,
            timeout=0.0,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA query_only = ON")
        return _Opened(connection, str(compiled), tuple(compiled.positiontup or ()))

    def close(self) -> None:
        """Close the connection; a later question opens another one."""
        opened, self._opened = self._opened, None
        if opened is not None:
            opened.connection.close()
