"""Connections and transactions over the state database.

SQLite is for one machine: write-ahead log, foreign keys, one writer at a time, every commit synced.
PostgreSQL is for several instances of the server. Both are behind the same three calls: a write
transaction, a read transaction, and the migration to the newest schema.
"""

from __future__ import annotations

import secrets
import sqlite3
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa
from sqlalchemy import exc

from sib_protocol.errors import ExitCode, FileAccessError, SibError
from sib_protocol.files import write_synced
from sib_server.errors import RefusedError
from sib_server.state.kept import KeptQuery
from sib_server.state.schema import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

_BUSY_SECONDS: Final = 15
_MIGRATION_LOCK: Final = 0x5349_4201  # "SIB", 1: any number that no one else's lock has
# Alembic's environment is the process's: two databases must not migrate in it at once.
_ALEMBIC: Final = threading.Lock()
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


class StateUrlError(SibError):
    """A database URL that SIB cannot use."""

    exit_code = ExitCode.SETTINGS

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"state.url {url!r} cannot be used: {reason}",
            "use sqlite:////absolute/path.db or postgresql://user@host/database",
        )


class StateUnavailableError(RefusedError):
    """The database does not answer, is locked, or has no room left."""

    exit_code = ExitCode.UNREACHABLE
    code = "state_unavailable"
    status = 503

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"the state database {url} is not available: {reason}",
            "see that the database runs, that its disk has room and that this user may write to it",
            retry_after=5.0,
        )
        self.reason = reason

    def refusal(self) -> Any:
        """The body of the HTTP answer; says nothing of where the database is."""
        return type(super().refusal())(
            error=self.code, problem="the server's state is not available", remedy="try again later"
        )


class StateDamagedError(SibError):
    """The database file is not a database, or its content is damaged."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"the state database {url} is damaged: {reason}", "put it back from a backup"
        )


class StateTooNewError(SibError):
    """The database was written by a newer SIB than this one."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, url: str, revision: str) -> None:
        super().__init__(
            f"the state database {url} has schema {revision!r}, which this SIB does not know",
            "upgrade sib-server, or put back the backup made before the upgrade",
        )
        self.revision = revision


def _parse_url(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except exc.ArgumentError as error:
        # A text that does not parse may still hold a password: it is not repeated.
        raise StateUrlError("…", "it is not a database URL") from error
    shown = url.render_as_string(hide_password=True)
    if url.drivername in ("postgresql", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg")
    if url.drivername != "sqlite":
        raise StateUrlError(shown, f"SIB does not speak {url.drivername}")
    if not url.database or url.database == ":memory:" or url.query:
        raise StateUrlError(shown, "SQLite needs a file's path and takes no options")
    return url


def _prepare_file(path: Path) -> None:
    """Make an empty database file that only its owner may read; SQLite would let all."""
    if path.exists():
        # Never opened by ourselves: closing it would drop the locks that SQLite holds on it.
        return
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_synced(temporary, b"", 0o600)
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
        temporary.unlink()
    except OSError as error:
        raise FileAccessError(
            path, error.strerror or str(error), "see state.url in the settings, and who may write"
        ) from error


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Go over to the write-ahead log; SQLite does not wait here when several do so at once."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _set_up_sqlite(engine: sa.Engine) -> None:
    @sa.event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own transaction control cannot say BEGIN IMMEDIATE.
        connection.isolation_level = None
        _enter_wal(connection)
        connection.execute("PRAGMA foreign_keys = ON")

    @sa.event.listens_for(engine, "begin")
    def begun(connection: sa.Connection) -> None:
        options = connection.get_execution_options()
        if options.get("sib_write"):
            level = "FULL" if options["sib_durable"] else "NORMAL"
            connection.exec_driver_sql(f"PRAGMA synchronous = {level}")
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            connection.exec_driver_sql("BEGIN")


class StateDatabase:
    """The state database; safe to share between threads.

    Args:
        url: ``sqlite:////path/state.db`` or ``postgresql://user@host/database``.

    Raises:
        StateUrlError: neither of the two.
        FileAccessError: the SQLite file cannot be made or opened.
    """

    def __init__(self, url: str) -> None:
        parsed = _parse_url(url)
        self.shown_url = parsed.render_as_string(hide_password=True)
        self._sqlite = parsed.drivername == "sqlite"
        self._path = Path(parsed.database or "")
        self._kept: list[KeptQuery] = []
        self._writer = threading.Lock()
        if self._sqlite:
            _prepare_file(self._path)
            self.engine = sa.create_engine(
                parsed,
                pool_size=8,
                max_overflow=56,
                pool_timeout=_BUSY_SECONDS,
                connect_args={"timeout": _BUSY_SECONDS},
            )
            _set_up_sqlite(self.engine)
        else:
            self.engine = sa.create_engine(
                parsed,
                pool_size=8,
                max_overflow=8,
                pool_timeout=_BUSY_SECONDS,
                pool_pre_ping=True,
                connect_args={"connect_timeout": _BUSY_SECONDS, "application_name": "sib-server"},
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (exc.OperationalError, exc.InterfaceError, exc.TimeoutError) as error:
            reason = str(getattr(error, "orig", None) or error).strip().replace("\n", "; ")
            raise StateUnavailableError(self.shown_url, reason) from error
        except exc.DatabaseError as error:
            # Only the bare class: its subclasses (a broken constraint, a wrong statement) are
            # the caller's.
            if type(error) is exc.DatabaseError:
                raise StateDamagedError(self.shown_url, str(error.orig)) from error
            raise

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        """Queue this process's threads for SQLite, whose own waiting polls."""
        if not self._sqlite:
            yield
            return
        if not self._writer.acquire(timeout=_BUSY_SECONDS):
            raise StateUnavailableError(self.shown_url, "another thread is writing for too long")
        try:
            yield
        finally:
            self._writer.release()

    @contextmanager
    def begin(self, *, durable: bool = True) -> Iterator[sa.Connection]:
        """A write transaction: commits at the end, rolls back on an exception.

        Args:
            durable: whether the commit must survive a power failure. What is sent again anyway
                (health) need not, and then costs no disk sync; it is consistent either way.

        Raises:
            StateUnavailableError: no connection, no lock in time, or no room.
            StateDamagedError: the SQLite file is not one.
        """
        with self._explained(), self._one_writer(), self.engine.connect() as connection:
            connection = connection.execution_options(sib_write=True, sib_durable=durable)  # noqa: PLW2901  (the same object)
            with connection.begin():
                if not durable and not self._sqlite:
                    connection.exec_driver_sql("SET LOCAL synchronous_commit = off")
                yield connection

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """A transaction that only reads and never waits for a writer. Raises like ``begin``."""
        with self._explained(), self.engine.connect() as connection, connection.begin():
            yield connection

    def keep(self, statement: sa.Select[Any]) -> KeptQuery | None:
        """A query for which nothing need be waited; ``None`` if the database is a network away."""
        if not self._sqlite:
            return None
        kept = KeptQuery(self._path, statement)
        self._kept.append(kept)
        return kept

    def migrate(self) -> None:
        """Bring the schema to this version's; several instances may do so at once.

        Raises:
            StateTooNewError: the database is a newer SIB's.
            StateUnavailableError, StateDamagedError: as for ``begin``.
        """
        if self._revision() == HEAD:
            return
        with self.begin() as connection:
            if not self._sqlite:
                connection.execute(
                    sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK}
                )
            self._upgrade(connection)

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            found: str | None = connection.scalar(
                sa.text("SELECT version_num FROM alembic_version")
            )
            return found

    def _upgrade(self, connection: sa.Connection) -> None:
        # Here, because they cost a tenth of a second that an up-to-date database does not need.
        from alembic import command  # noqa: PLC0415
        from alembic.config import Config  # noqa: PLC0415
        from alembic.runtime.migration import MigrationContext  # noqa: PLC0415
        from alembic.script import ScriptDirectory  # noqa: PLC0415

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        current = MigrationContext.configure(connection).get_current_revision()
        if current is not None and current not in known:
            raise StateTooNewError(self.shown_url, current)
        config.attributes["connection"] = connection
        with _ALEMBIC:
            command.upgrade(config, "head")

    def close(self) -> None:
        """Close every connection."""
        for kept in self._kept:
            kept.close()
        self.engine.dispose()
