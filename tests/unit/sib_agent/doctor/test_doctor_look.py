"""What doctor sees on a host where parts are installed, broken or away."""

from __future__ import annotations

import contextlib
import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from sib_agent.cli import main
from sib_agent.doctor.look import Patient, examine
from sib_agent.settings import AgentSettings
from sib_agent.setup import steps
from sib_protocol.checks import Finding, Verdict
from sib_protocol.identity import IdentityStore
from sib_protocol.settings import parse_settings
from tests.support.ports import free_port


class Place:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree: dict[str, Any] = {
            "identity": {"directory": str(root / "identity")},
            "spool": {"directory": str(root / "spool")},
            "status": {"file": str(root / "status.json")},
            "falco": {
                "home": str(root / "falco"),
                "config": str(root / "falco.yaml"),
                "bundles": str(root / "bundles"),
                "metrics_port": free_port(),
            },
            "alloy": {
                "home": str(root / "alloy"),
                "config": str(root / "config.alloy"),
                "listen": f"127.0.0.1:{free_port()}",
            },
            "logs": {"journal": False, "auth": [str(root / "*.log")], "more": {}},
        }
        for program in ("falco/bin/falco", "alloy/alloy"):
            (root / program).parent.mkdir(parents=True)
            (root / program).touch()

    @property
    def settings(self) -> AgentSettings:
        return parse_settings(yaml.safe_dump(self.tree), AgentSettings, self.root / "agent.yaml")

    def look(self) -> dict[str, Finding]:
        store = IdentityStore(self.root / "identity")
        found = examine(Patient(self.settings, "agent.yaml", store), probe=True, seconds=1)
        return {item.check: item for item in found}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@contextlib.contextmanager
def served(port: int, pages: dict[str, bytes]) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.send_response(200 if page is not None else 404)
            self.end_headers()
            self.wfile.write(page or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_installed_parts_that_do_not_answer_are_named(place: Place) -> None:
    (place.root / "auth.log").touch()
    found = place.look()
    assert found["falco"].verdict is Verdict.FAILED
    assert "sib-agent logs falco" in (found["falco"].remedy or "")
    assert found["alloy"].verdict is Verdict.FAILED
    assert found["logs"].problem == "Alloy may read all 1 log files"
    assert found["file"].verdict is Verdict.FAILED
    assert found["bundle"].verdict is Verdict.FAILED
    assert found["identity"].verdict is Verdict.FAILED
    place.tree["logs"]["more"] = {"many": [str(place.root / "many/*")]}
    (place.root / "many").mkdir()
    for number in range(600):
        (place.root / f"many/{number}").touch()
    assert "500 log files" in place.look()["logs"].problem


def test_what_they_answer_is_judged_and_a_falco_that_runs_proves_its_ground(place: Place) -> None:
    alloy_port = int(place.settings.alloy.listen.rpartition(":")[2])
    health = {"state": "unhealthy", "message": "no such file"}
    component = json.dumps([{"localID": "loki.write.server", "health": health}]).encode()
    pages = {
        "/api/v0/web/components": component,
        "/metrics": b"loki_write_dropped_entries_total 2\n",
    }
    falco = {"/metrics": b"falcosecurity_scap_n_evts_total 5\n"}
    with served(alloy_port, pages), served(place.settings.falco.metrics_port, falco):
        found = place.look()
    assert found["falco"].problem == "5 system calls seen, 0 lost"
    assert "loki.write.server is unhealthy: no such file" in found["alloy"].problem
    assert "2 log lines" in found["pushes"].problem
    assert not {"kernel", "btf", "bpf", "memlock"} & found.keys()


def test_a_damaged_identity_is_a_finding_and_no_traceback(place: Place) -> None:
    (place.root / "identity").mkdir()
    (place.root / "identity/current").symlink_to("gen-gone")
    found = place.look()
    assert "enroll --force" in (found["identity"].remedy or "")
    assert found["configuration"].verdict is Verdict.FAILED


def test_the_command_shows_people_and_programs_the_same(place: Place) -> None:
    config = place.root / "agent.yaml"
    config.write_text(yaml.safe_dump(place.tree))
    steps.make_empty_bundle(place.settings.falco)
    shown = CliRunner().invoke(main, ["--config", str(config), "doctor", "--no-probe"])
    assert shown.exit_code == 11
    assert "sib-agent enroll" in shown.output
    told = CliRunner().invoke(main, ["--config", str(config), "doctor", "--no-probe", "--json"])
    names = {item["check"] for item in json.loads(told.stdout)}
    assert {"falco", "alloy", "identity"} <= names
    assert all(name in shown.output for name in names)
    assert str((place.root / "bundles/current").readlink()) == "0"
