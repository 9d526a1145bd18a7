from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import Agent, Server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "server")
    running.start()
    try:
        yield running
    finally:
        if running.running:
            running.stop()


@pytest.fixture
def agent(server: Server, tmp_path: Path) -> Iterator[Agent]:
    """Enrolled, not started."""
    made = Agent(tmp_path / "agent")
    made.enroll(server.token())
    try:
        yield made
    finally:
        if made.running:
            made.stop()
