from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sib_protocol.errors import ExitCode
from sib_protocol.settings import parse_settings
from sib_server.cli import main
from sib_server.events.journal import Journal
from sib_server.operations.units import UnitState
from sib_server.pki.authority import Authority
from sib_server.settings import ServerSettings
from sib_server.standing import Found, Standing, judge, look, read_metrics

NOW = 1_000_000.0
WELL: dict[str, Any] = {
    "metrics": {
        ("sib_server_connections", ""): 3.0,
        ("sib_server_sink_delivered_total", "loki"): 7.0,
    },
    "has_metrics": True,
    "journal": (10, {"loki": (2, 1.5)}),
    "hosts": {"healthy": 2},
    "certificate_not_after": NOW + 3 * 86400,
    "ca_not_after": NOW + 10**8,
    "ca_pin": "ab",
}


@pytest.mark.parametrize(
    ("changed", "standing", "problem"),
    [
        ({}, Standing.WELL, ""),
        ({"metrics": None}, Standing.STOPPED, "does not answer"),
        ({"metrics": None, "has_metrics": False}, Standing.WELL, ""),
        ({"journal": (10, {"loki": (2, 301.0)})}, Standing.TROUBLED, "loki is 301 s behind"),
        ({"journal": None}, Standing.WELL, ""),
        ({"hosts": {"silent": 3}}, Standing.TROUBLED, "3 hosts are silent"),
        ({"certificate_not_after": NOW + 100}, Standing.TROUBLED, "ends soon"),
        ({"certificate_not_after": None}, Standing.WELL, ""),
        (
            {"units": [UnitState("loki", "sib-loki.service", "failed", "failed", "oom", 3, False)]},
            Standing.TROUBLED,
            "sib-server logs loki",
        ),
        (
            {"metrics": {("sib_server_journal_damaged_events_total", ""): 1.0}},
            Standing.TROUBLED,
            "journal verify",
        ),
    ],
)
def test_each_problem_is_named(changed: dict[str, Any], standing: Standing, problem: str) -> None:
    found = judge(Found(**{**WELL, **changed}), NOW)
    assert found.state is standing
    assert problem in "; ".join(found.problems)
    assert bool(found.problems) is bool(problem)


def test_a_well_server_in_numbers() -> None:
    found = judge(Found(**WELL), NOW)
    assert (found.running, found.events, found.connections) == (True, 10, 3)
    (sink,) = found.sinks
    assert (sink.name, sink.lag_events, sink.lag_seconds, sink.delivered) == ("loki", 2, 1.5, 7)
    quiet = judge(Found(**{**WELL, "metrics": None, "has_metrics": False}), NOW)
    assert (quiet.running, quiet.connections, quiet.sinks[0].delivered) == (None, None, None)


@contextmanager
def page(status: int, body: bytes) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def settings_of(tmp_path: Path, port: int | None, loki: int = 9) -> ServerSettings:
    tree = {
        "pki": {"directory": str(tmp_path / "pki")},
        "state": {"url": f"sqlite:///{tmp_path / 'state.db'}"},
        "journal": {"path": str(tmp_path / "journal.db")},
        "metrics": {"port": port},
        "sinks": {"loki": {"enabled": True, "url": f"http://127.0.0.1:{loki}"}},
        "listen": {"names": ["localhost"]},
    }
    (tmp_path / "server.yaml").write_text(json.dumps(tree))
    return parse_settings(json.dumps(tree), ServerSettings, tmp_path / "server.yaml")


@pytest.mark.parametrize(
    ("status", "body", "known"),
    [
        (200, b'a 1\nb{sink="loki"} 2\n', {("a", ""): 1.0, ("b", "loki"): 2.0}),
        (200, b"a one\n", None),
        (500, b"a 1\n", None),
    ],
)
def test_reading_the_metrics(
    tmp_path: Path, status: int, body: bytes, known: dict[tuple[str, str], float] | None
) -> None:
    with page(status, body) as port:
        assert read_metrics(settings_of(tmp_path, port)) == known
    assert read_metrics(settings_of(tmp_path, port)) is None
    assert read_metrics(settings_of(tmp_path, None)) is None


def test_looking_with_and_without_a_journal(tmp_path: Path) -> None:
    settings = settings_of(tmp_path, None)
    authority = Authority.create(settings.pki.directory, "x")
    found = look(settings, authority, {}, ["loki"])
    assert (found.journal, found.certificate_not_after) == (None, None)
    Journal.open(settings.journal.path).close()
    authority.server_certificate(["localhost"])
    found = look(settings, authority, {}, ["loki"])
    assert found.journal == (0, {"loki": (0, 0.0)})
    assert found.certificate_not_after is not None
    status = ["--config", str(tmp_path / "server.yaml"), "status"]
    done = CliRunner().invoke(main, status)
    assert done.exit_code == ExitCode.INCOMPLETE
    assert "! loki does not say that it is ready" in done.output
    with page(200, b"ready\n") as loki:
        settings_of(tmp_path, None, loki)
        done = CliRunner().invoke(main, status)
        assert done.exit_code == 0, done.output
        assert "sink loki    0 behind, 0 s" in done.output
        assert "store loki          ready" in done.output
        done = CliRunner().invoke(main, [*status, "--json"])
        assert json.loads(done.output)["state"] == "well"
    settings_of(tmp_path, 1)
    done = CliRunner().invoke(main, ["--config", str(tmp_path / "server.yaml"), "status"])
    assert done.exit_code == ExitCode.INCOMPLETE
    assert "! the server does not answer" in done.output


def test_status_shows_what_a_running_server_counts(tmp_path: Path) -> None:
    with page(200, b"sib_server_connections 4\n") as port:
        settings = settings_of(tmp_path, port)
        Authority.create(settings.pki.directory, "x")
        done = CliRunner().invoke(main, ["--config", str(tmp_path / "server.yaml"), "status"])
    assert "connections  4" in done.output
    assert "hosts        none" in done.output
