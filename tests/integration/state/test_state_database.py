from __future__ import annotations

import logging
import sqlite3
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from sib_protocol.errors import ExitCode, FileAccessError
from sib_server.state import database as module
from sib_server.state.database import (
    StateDamagedError,
    StateDatabase,
    StateTooNewError,
    StateUnavailableError,
    StateUrlError,
)
from sib_server.state.schema import HEAD, hosts, metadata, tokens
from tests.support.postgres import Cluster


def _token(name: str) -> dict[str, object]:
    return {
        "id": name,
        "secret_digest": "0" * 64,
        "created_ns": 1,
        "expires_ns": 2**62,
        "uses": 1,
        "uses_left": 1,
        "tags": [],
    }


def test_the_migrated_database_is_what_the_schema_says(state: StateDatabase) -> None:
    with state.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
        # compare_metadata does not look at these two.
        inspector = sa.inspect(connection)
        checks = inspector.get_check_constraints("tokens")
        assert [check["name"] for check in checks] == ["ck_tokens_uses_left"]
        unique = [i for i in inspector.get_indexes("hosts") if i["unique"]]
        assert [index["name"] for index in unique] == ["uq_hosts_enrolled_name"]


def test_head_is_the_newest_migration() -> None:
    script = ScriptDirectory(str(Path(module.__file__).parent / "migrations"))
    assert script.get_current_head() == HEAD


def test_partial_index_frees_the_names_of_removed_hosts(state: StateDatabase) -> None:
    row = {"name": "web", "name_key": "web", "tags": [], "enrolled_ns": 1}
    with state.begin() as connection:
        connection.execute(sa.insert(hosts).values(id="a", removed_ns=5, **row))
        connection.execute(sa.insert(hosts).values(id="b", **row))
    with pytest.raises(sa.exc.IntegrityError), state.begin() as connection:
        connection.execute(sa.insert(hosts).values(id="c", **row))


def test_uses_left_cannot_go_below_zero(state: StateDatabase) -> None:
    with state.begin() as connection:
        connection.execute(sa.insert(tokens).values(_token("a")))
    with pytest.raises(sa.exc.IntegrityError), state.begin() as connection:
        connection.execute(sa.update(tokens).values(uses_left=-1))


def test_many_instances_migrate_at_once(state_url: str) -> None:
    start = threading.Barrier(4)

    def migrate() -> str | None:
        database = StateDatabase(state_url)
        start.wait(10)
        database.migrate()
        with database.read() as connection:
            found: str | None = connection.scalar(
                sa.text("SELECT version_num FROM alembic_version")
            )
        database.close()
        return found

    with ThreadPoolExecutor(4) as pool:
        found = [future.result(60) for future in [pool.submit(migrate) for _ in range(4)]]
    assert found == [HEAD] * 4


def test_migrating_twice_does_nothing(state: StateDatabase) -> None:
    with state.begin() as connection:
        connection.execute(sa.insert(tokens).values(_token("a")))
    state.migrate()
    with state.read() as connection:
        assert connection.scalar(sa.select(tokens.c.id)) == "a"


def test_a_newer_sibs_database_is_refused(state: StateDatabase) -> None:
    with state.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(StateTooNewError, match="9999") as caught:
        state.migrate()
    assert caught.value.exit_code is ExitCode.CONFLICT


def test_an_exception_rolls_back(state: StateDatabase) -> None:
    def fail() -> None:
        with state.begin() as connection:
            connection.execute(sa.insert(tokens).values(_token("a")))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with state.read() as connection:
        assert connection.execute(sa.select(tokens)).all() == []


@pytest.mark.parametrize("durable", [True, False])
def test_writers_in_threads_lose_no_update(state: StateDatabase, durable: bool) -> None:
    with state.begin() as connection:
        connection.execute(sa.insert(tokens).values(_token("a")))

    def add() -> None:
        for _ in range(10):
            with state.begin(durable=durable) as connection:
                left = connection.scalar(sa.select(tokens.c.uses_left).with_for_update())
                connection.execute(sa.update(tokens).values(uses_left=(left or 0) + 1))

    with ThreadPoolExecutor(6) as pool:
        for future in [pool.submit(add) for _ in range(6)]:
            future.result(60)
    with state.read() as connection:
        assert connection.scalar(sa.select(tokens.c.uses_left)) == 61


def test_a_reader_does_not_wait_for_a_writer(state: StateDatabase) -> None:
    with state.begin() as writer:
        writer.execute(sa.insert(tokens).values(_token("a")))
        with state.read() as reader:
            assert reader.execute(sa.select(tokens)).all() == []


def test_durability_is_asked_for_in_each_transaction(state: StateDatabase) -> None:
    sqlite = state.engine.dialect.name == "sqlite"
    question = "PRAGMA synchronous" if sqlite else "SHOW synchronous_commit"
    for durable in (True, False, True):
        with state.begin(durable=durable) as connection:
            answer = connection.exec_driver_sql(question).scalar()
        assert answer == ((2 if durable else 1) if sqlite else ("on" if durable else "off"))


def test_sqlite_is_set_up_as_promised(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state.db"
    database = StateDatabase(f"sqlite:///{path}")
    database.migrate()
    with database.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    database.close()


def test_another_process_holding_the_lock_is_a_503(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 1)
    database = StateDatabase(f"sqlite:///{tmp_path}/state.db")
    database.migrate()
    other = sqlite3.connect(tmp_path / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    with pytest.raises(StateUnavailableError, match="locked") as caught, database.begin():
        pass
    assert time.monotonic() - begun < 10
    assert (caught.value.status, caught.value.retry_after) == (503, 5.0)
    other.execute("ROLLBACK")
    other.close()
    with database.begin():
        pass
    database.close()


def test_a_write_inside_a_write_is_refused_instead_of_hanging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.1)
    database = StateDatabase(f"sqlite:///{tmp_path}/state.db")
    with database.begin():
        inner = database.begin()
        with pytest.raises(StateUnavailableError, match="another thread"):
            inner.__enter__()
    database.close()


def test_many_that_open_a_new_file_at_once_wait_for_its_log(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("CREATE TABLE x (y)")
    other.execute("BEGIN EXCLUSIVE")
    timer = threading.Timer(0.3, lambda: other.execute("COMMIT"))
    timer.start()
    database = StateDatabase(f"sqlite:///{path}")
    database.migrate()
    with database.read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    timer.join(10)
    other.close()
    database.close()


def test_a_damaged_file_is_said_to_be_damaged(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"this is not a database, " * 400)
    database = StateDatabase(f"sqlite:///{tmp_path}/state.db")
    with pytest.raises(StateDamagedError) as caught:
        database.migrate()
    assert caught.value.exit_code is ExitCode.DAMAGED
    database.close()


def test_a_file_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileAccessError, match="file"):
        StateDatabase(f"sqlite:///{tmp_path}/file/state.db")


def test_an_absent_postgresql_is_unavailable_and_its_password_is_not_shown(
    tmp_path: Path,
) -> None:
    database = StateDatabase(f"postgresql://sib:hunter2@/sib?host={tmp_path}")
    with pytest.raises(StateUnavailableError) as caught:
        database.migrate()
    error = caught.value
    assert error.exit_code is ExitCode.UNREACHABLE
    assert "hunter2" not in error.problem
    assert str(tmp_path) not in error.refusal().problem
    assert error.refusal().error == "state_unavailable"
    database.close()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://root@localhost/x",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////tmp/x?mode=ro",
        "not a url with a secret",
    ],
)
def test_urls_that_are_not_spoken(url: str) -> None:
    with pytest.raises(StateUrlError) as caught:
        StateDatabase(url)
    assert "a secret" not in caught.value.problem
    assert caught.value.exit_code is ExitCode.SETTINGS


def test_connections_that_the_server_cut_are_replaced(postgres: Cluster) -> None:
    database = StateDatabase(postgres.empty_database())
    database.migrate()
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE application_name = 'sib-server'"
    )
    with database.read() as connection:
        assert connection.execute(sa.select(tokens)).all() == []
    database.close()


def test_no_logging_is_configured_by_migrations(tmp_path: Path) -> None:
    before = (logging.root.level, list(logging.root.handlers))
    database = StateDatabase(f"sqlite:///{tmp_path}/100%/state.db")
    database.migrate()
    database.close()
    assert (logging.root.level, list(logging.root.handlers)) == before
