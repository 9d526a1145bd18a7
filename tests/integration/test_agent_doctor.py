"""``sib-agent doctor`` against a real agent and a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from sib_protocol.errors import ExitCode
from tests.support.lab import Agent, Server
from tests.support.proxy import wait_for

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def patient(server: Server, make_agent: Callable[..., Agent]) -> Agent:
    made = make_agent("patient-1", {"falco": {"enabled": False}, "alloy": {"enabled": False}})
    made.enroll(server.token())
    return made


def doctor(agent: Agent, *arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = agent.cli("doctor", "--json", *arguments, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, {item["check"]: item for item in json.loads(done.stdout)}


def test_an_event_is_followed_home(server: Server, patient: Agent) -> None:
    patient.start()
    wait_for("connected", lambda: patient.status()["state"] == "well", 30)
    code, found = doctor(patient)
    assert code == 0, found
    assert found["event"]["verdict"] == "well", found["event"]
    assert "written in Falco's place" in found["event"]["problem"]
    assert found["server"]["verdict"] == found["identity"]["verdict"] == "well"
    assert "this clock is 0.0 s" in found["clock"]["problem"]
    done = server.cli("events", "search", "--json", "--rule", "SIB probe")
    (event,) = [json.loads(text)["event"] for text in done.stdout.splitlines()]
    assert event["output_fields"]["sib.probe"].startswith("sib-probe-")
    assert "sib_demo" in event["tags"]
    before = len(done.stdout.splitlines())
    assert doctor(patient, "--no-probe")[1].get("event") is None
    done = server.cli("events", "search", "--json", "--rule", "SIB probe")
    assert len(done.stdout.splitlines()) == before


def test_whoever_is_missing_is_named(server: Server, patient: Agent) -> None:
    code, found = doctor(patient)
    assert code == ExitCode.INCOMPLETE
    assert found["agent"]["verdict"] == "failed"
    assert found["agent"]["remedy"] == "systemctl start sib-agent"
    assert found["event"]["verdict"] == "skipped"
    patient.start()
    wait_for("connected", lambda: patient.status()["state"] == "well", 30)
    server.stop()
    code, found = doctor(patient)
    assert code == ExitCode.INCOMPLETE
    assert found["server"]["verdict"] == "failed"
    assert "cannot be reached" in found["server"]["problem"]
    assert "without a server" in found["event"]["problem"]


def test_a_host_that_has_not_joined_is_told_how(make_agent: Callable[..., Agent]) -> None:
    fresh = make_agent("fresh-2", {"falco": {"enabled": False}, "alloy": {"enabled": False}})
    code, found = doctor(fresh)
    assert code == ExitCode.INCOMPLETE
    assert "sib-agent enroll" in found["identity"]["remedy"]
