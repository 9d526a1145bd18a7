"""Threat intelligence through real processes: from a feed to an event in Loki."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.components import FakeLokiProgram, Loki, RealLoki
from tests.support.lab import Agent, Server, event_line
from tests.support.proxy import wait_for

FEODO = Path(__file__).parents[1] / "unit/detection/indicators/feeds/feodo.csv"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(params=["fake", "real"])
def loki(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Loki]:
    made = (RealLoki if request.param == "real" else FakeLokiProgram)(tmp_path / "loki")
    made.start()
    yield made
    made.kill()


def met(number: int, far: str) -> bytes:
    event = json.loads(event_line(number))
    event["output_fields"]["fd.name"] = f"10.0.0.5:40112->{far}:443"
    return json.dumps(event).encode()


def test_an_event_that_meets_an_indicator_says_so_in_loki(loki: Loki, tmp_path: Path) -> None:
    server = Server(
        tmp_path / "server",
        {
            "intel": {
                "directory": str(tmp_path / "intel"),
                "feeds": {"feodo": {"enabled": False}},
            },
            "sinks": {"loki": {"enabled": True, "url": loki.url}},
        },
    )
    server.start()
    agent = Agent(tmp_path / "web-1", "web-1", None)
    agent.enroll(server.token())
    agent.start()
    try:
        agent.append(met(1, "45.66.77.88"))
        wait_for("an event", lambda: len(loki.held('{source="syscall"}')) == 1, 60)
        server.cli("intel", "update", "--feed", "feodo", "--from", str(FEODO))
        page = tmp_path / "page.html"
        page.write_text("<html>")
        # A refused feed is an event of the server's, by way of the outbox.
        server.cli("intel", "update", "--feed", "feodo", "--from", str(page), check=False)
        wait_for("the alarm", lambda: len(loki.held('{source="sib"}')) == 1, 60)

        agent.append(met(2, "45.66.77.88"), met(3, "9.9.9.9"), met(4, "45.66.77.88"))
        wait_for("all events", lambda: len(loki.held('{source="syscall"}')) == 4, 60)
        told = {
            json.loads(line)["output_fields"]["lab.n"]: metadata
            for _, line, metadata in loki.held('{source="syscall"}')
        }
        assert {number for number, data in told.items() if "sib_intel_indicator" in data} == {2, 4}
        assert told[2]["sib_intel_feeds"] == "feodo"
        assert told[2]["sib_intel_confidence"] == "90"
        assert "sib_intel_seen_before" not in told[2]
        assert told[4]["sib_intel_seen_before"].startswith("web-1: 1 since ")

        hunted = server.cli("intel", "hunt", "--days", "1", "--json").stdout.splitlines()
        assert [json.loads(line)["events"] for line in hunted] == [3]
    finally:
        agent.stop()
        server.stop()
