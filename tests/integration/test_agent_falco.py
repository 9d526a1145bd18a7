"""The real Falco under the configuration of ``sib-agent setup``, with a real agent and server."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sib_agent.setup.falco_config import PROBE_RULE
from tests.support.components import component
from tests.support.falco import RealFalco
from tests.support.lab import Agent, Server
from tests.support.ports import free_port
from tests.support.proxy import wait_for

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def falco(tmp_path: Path, make_agent: Callable[..., Agent]) -> Iterator[RealFalco]:
    component("falco", "falco")
    port = free_port()
    agent = make_agent("watched-1", RealFalco.settings(tmp_path / "watched-1", port))
    made = RealFalco(agent, port)
    agent.cli("setup", "--no-units")
    yield made
    made.stop()


def search(server: Server, rule: str) -> list[dict[str, Any]]:
    done = server.cli("events", "search", "--json", "--rule", rule)
    return [json.loads(line)["event"] for line in done.stdout.splitlines()]


def started(marker: str, rule: str) -> dict[str, Any]:
    act = "evt.type in (execve, execveat) and evt.res = SUCCESS"
    return {
        "rule": rule,
        "desc": "a program with this test's marker",
        "condition": f"{act} and proc.args = {marker}",
        "output": "seen %proc.cmdline",
        "priority": "WARNING",
        "tags": ["T1059"],
    }


def test_every_key_and_field_is_known_to_falco(falco: RealFalco) -> None:
    falco.put_in_force("1", [started("x", "One of a bundle")])
    said = falco.dry_run()
    # An unknown key would be a warning there, and an unknown field an error.
    assert f"{falco.config} | schema validation: ok" in said
    assert "falco-probe.yaml | schema validation: ok" in said
    assert "50-test.yaml | schema validation: ok" in said


def test_an_act_is_seen_read_sent_and_stored_with_what_triage_needs(
    falco: RealFalco, server: Server
) -> None:
    agent = falco.agent
    agent.enroll(server.token())
    falco.start()
    agent.start()
    wait_for("connected", lambda: agent.status()["state"] == "well", 30)
    done = agent.cli("doctor", "--json", check=False)
    found = {item["check"]: item for item in json.loads(done.stdout)}
    assert found["event"]["verdict"] == "well", found["event"]
    assert "Falco saw it after" in found["event"]["problem"]
    assert "system calls seen" in found["falco"]["problem"]
    (event,) = [
        item
        for item in search(server, PROBE_RULE)
        if "sib-probe-start" not in item["output_fields"]["proc.cmdline"]
    ]
    fields = event["output_fields"]
    assert event["source"] == "syscall"
    assert fields["proc.exepath"].endswith("/true")
    assert fields["proc.cmdline"].startswith("true sib-probe-")
    assert "sib_agent" in fields["proc.pcmdline"]
    assert fields["user.uid"] == 0
    missing = {"proc.pid", "proc.ppid", "proc.cwd", "proc.aname[2]", "user.loginuid"} - {*fields}
    assert not missing


def test_a_switched_bundle_is_taken_up_by_a_reload(falco: RealFalco, server: Server) -> None:
    agent = falco.agent
    agent.enroll(server.token())
    first, second = f"m{uuid.uuid4().hex}", f"m{uuid.uuid4().hex}"
    falco.put_in_force("1", [started(first, "First bundle")])
    falco.start()
    agent.start()

    def act(marker: str) -> None:
        subprocess.run(["/bin/true", marker], check=True)

    act(first)
    act(second)
    wait_for("the first rule", lambda: len(search(server, "First bundle")) == 1, 30)
    falco.put_in_force("2", [started(second, "Second bundle")])
    falco.reload()

    def taken_up() -> bool:
        act(second)
        return search(server, "Second bundle") != []

    wait_for("the second rule", taken_up, 60)
    before = len(search(server, "First bundle"))
    act(first)
    act(second)
    wait_for("an event", lambda: len(search(server, "Second bundle")) > 1, 30)
    assert len(search(server, "First bundle")) == before


def test_a_broken_bundle_does_not_blind_falco(falco: RealFalco) -> None:
    marker = f"m{uuid.uuid4().hex}"
    falco.put_in_force("1", [started(marker, "Good bundle")])
    falco.start()
    broken = {**started(marker, "Broken"), "condition": "no.such.field = 1"}
    falco.put_in_force("2", [broken])
    falco.reload()
    events = falco.agent.events_file
    wait_for("a complaint", lambda: b"hot restart failure" in events.read_bytes(), 30)
    falco.wait_until_it_sees()
