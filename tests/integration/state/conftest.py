from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sib_server.pki.authority import Authority
from sib_server.state.database import StateDatabase
from tests.support.fleet import START, World
from tests.support.postgres import Cluster, find_binaries, private_cluster


@pytest.fixture(scope="session")
def postgres() -> Iterator[Cluster]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("PostgreSQL's initdb not found: install Debian's package postgresql")
    with private_cluster(binaries) as cluster:
        yield cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def state_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/state.db"
    cluster: Cluster = request.getfixturevalue("postgres")
    return cluster.empty_database()


@pytest.fixture
def state(state_url: str) -> Iterator[StateDatabase]:
    database = StateDatabase(state_url)
    database.migrate()
    yield database
    database.close()


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("pki"), "Test CA", now=START)


@pytest.fixture
def world(state: StateDatabase, authority: Authority) -> World:
    return World(state, authority)
