from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import Agent, Server
from tests.support.wire import WRITE, Attacker, Store


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "server") as running:
        running.start()
        yield running


@pytest.fixture
def make_agent(tmp_path: Path) -> Iterator[Callable[..., Agent]]:
    """Makes agents, not enrolled, and stops them at the end."""
    with ExitStack() as made:

        def make(name: str, settings: dict[str, Any] | None = None) -> Agent:
            return made.enter_context(Agent(tmp_path / name, name, settings))

        yield make


@pytest.fixture
def agent(server: Server, make_agent: Callable[..., Agent]) -> Agent:
    """Enrolled, not started."""
    made = make_agent("web-1")
    made.enroll(server.token())
    return made


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, store: Store) -> Iterator[Server]:
    """One server for all attacks that need no other settings; none may make it fail."""
    running = Server(
        tmp_path_factory.mktemp("attacked") / "server",
        {
            "fleet": {"attempts_burst": 10_000},
            "push": {"loki_url": store.url, "metrics_url": f"{store.url}{WRITE}"},
        },
    )
    running.start()
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
def attacker(shared: Server) -> Iterator[Attacker]:
    made = Attacker(shared)
    yield made
    made.close()
