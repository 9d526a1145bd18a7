"""`sib-agent drill` on an enrolled host: a real Falco, a real agent, a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sib_protocol.drills.engine import Falco
from sib_protocol.drills.records import DrillRecord, read_drill_event
from sib_protocol.drills.verdicts import Result
from sib_protocol.errors import ExitCode
from tests.support.engine import SHIPPED, live_falco, rule_files
from tests.support.lab import Agent, Server
from tests.support.proxy import wait_for

pytestmark = pytest.mark.timeout(240)


class HostFalco(Falco):
    """Writes its alerts as a host's does: to the file that the agent takes over."""

    def __init__(self, program: Path, rules: list[Path], folder: Path, events: Path) -> None:
        super().__init__(program, rules, folder)
        self.more = {"file_output": {"enabled": True, "keep_alive": False, "filename": str(events)}}

    def settings(self) -> dict[str, object]:
        return {**super().settings(), **self.more}


def test_drills_are_followed_to_the_server(
    server: Server, make_agent: Callable[..., Agent], tmp_path: Path
) -> None:
    falco = live_falco()
    agent = make_agent("web-1", {"falco": {"home": str(tmp_path / "none")}})
    agent.enroll(server.token())
    agent.start()
    drills = tmp_path / "mute.drills.yaml"
    entries = yaml.safe_load((SHIPPED / "credential_access.drills.yaml").read_text())[:3]
    (tmp_path / "drills").mkdir()
    (tmp_path / "drills" / "some.drills.yaml").write_text(yaml.safe_dump(entries))
    mute = {key: value for key, value in entries[0].items() if key not in {"drill", "drills"}}
    drills.write_text(yaml.safe_dump([{**mute, "id": "x-1", "drill": {"run": "true"}}]))
    folder = tmp_path / "falco"
    folder.mkdir()
    with HostFalco(falco, rule_files(), folder, agent.events_file):
        done = agent.cli(
            "drill", "--all", "--quiet-cases", "--json", "--from", str(tmp_path / "drills"),
            check=False,
        )  # fmt: skip
        assert done.returncode == ExitCode.OK, done.stdout + done.stderr
        silent = agent.cli("drill", "--rule", "x-1", "--from", str(drills), check=False)
    found = json.loads(done.stdout)["drills"]
    fired = [one for one in found if one["kind"] == "drill"]
    wanted = [
        (entry["id"], drill.get("name", ""))
        for entry in entries
        for drill in entry.get("drills", [{}])
    ]
    assert len(wanted) > len(entries), "no rule with several drills is among these"
    assert [(one["id"], one["name"]) for one in fired] == wanted
    assert all(0 < one["seconds_to_spool"] <= one["seconds_to_server"] < 10 for one in fired)
    assert {one["result"] for one in found} == {"fired", "quiet"}
    assert silent.returncode == ExitCode.INCOMPLETE
    assert "silent" in silent.stdout

    def records() -> list[DrillRecord]:
        done = server.cli("events", "search", "--json", "--rule", "SIB drill result")
        lines = [json.loads(line)["event"] for line in done.stdout.splitlines()]
        read = [read_drill_event(json.dumps(line).encode()) for line in lines]
        return [one for one in read if one is not None]

    wait_for("results on the server", lambda: len(records()) == len(wanted) + 1, 40)
    results = {record.id: record.result for record in records()}
    assert results["x-1"] is Result.SILENT
    assert results[entries[0]["id"]] is Result.FIRED
    assert {(record.id, record.name) for record in records()} == {*wanted, ("x-1", "")}


def test_what_is_missing_is_said(agent: Agent, tmp_path: Path) -> None:
    assert agent.cli("drill", check=False).returncode == ExitCode.USAGE
    missing = agent.cli("drill", "--all", check=False)
    assert missing.returncode == ExitCode.NOT_FOUND
    assert "--from" in missing.stderr
    some = ("--from", str(SHIPPED))
    # A name that is not known does not pass beside one that is.
    unknown = agent.cli("drill", "--rule", "sib-ca-001", "--rule", "nothing", *some, check=False)
    assert unknown.returncode == ExitCode.NOT_FOUND
    assert "no drill for nothing in" in unknown.stderr
    no_spool = agent.cli("drill", "--rule", "sib-ca-001", *some, check=False)
    assert no_spool.returncode == ExitCode.FILE_ACCESS
    assert "does sib-agent run" in no_spool.stderr
