"""The doctor walks the whole way with a probe, through real processes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sib_protocol.errors import ExitCode
from tests.support.components import (
    FakeFalcosidekickProgram,
    FakeLokiProgram,
    Falcosidekick,
    Loki,
    RealFalcosidekick,
    RealLoki,
)
from tests.support.lab import Agent, Server, event_line
from tests.support.proxy import wait_for

pytestmark = pytest.mark.timeout(240)


class Receiver:
    """What Falcosidekick's output posts to."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers.get("content-length", 0))
                outer.bodies.append(json.loads(self.rfile.read(length)))
                self.send_response(outer.status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)

    def rules(self) -> list[str]:
        return [body["rule"] for body in self.bodies]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture(params=["fake", "real"])
def stack(
    request: pytest.FixtureRequest, tmp_path: Path, receiver: Receiver
) -> Iterator[tuple[Server, Loki, Falcosidekick]]:
    real = request.param == "real"
    loki = RealLoki(tmp_path / "loki") if real else FakeLokiProgram(tmp_path / "loki")
    kind = RealFalcosidekick if real else FakeFalcosidekickProgram
    sidekick = kind(tmp_path / "falcosidekick", receiver.url)
    loki.start()
    sidekick.start()
    server = Server(
        tmp_path / "server",
        {
            "sinks": {
                "loki": {"enabled": True, "url": loki.url},
                "falcosidekick": {
                    "enabled": True,
                    "url": sidekick.url,
                    "outputs": {"webhook": {}},
                    "settle_timeout_seconds": 5.0,
                },
            }
        },
    )
    server.start()
    yield server, loki, sidekick
    if server.running:
        server.stop()
    sidekick.kill()
    loki.kill()


def doctor(server: Server, *arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    done = server.cli("doctor", "--json", *arguments, check=False)
    assert done.returncode in {ExitCode.OK, ExitCode.INCOMPLETE}, done.stderr
    return done.returncode, {found["check"]: found for found in json.loads(done.stdout)}


def loki_ready(server: Server) -> bool:
    return doctor(server, "--patience", "2")[1]["store-loki"]["verdict"] == "well"


def test_a_probe_goes_all_the_way_and_alerts_nobody(
    stack: tuple[Server, Loki, Falcosidekick],
    receiver: Receiver,
    make_agent: Callable[..., Agent],
) -> None:
    server, _loki, _sidekick = stack
    agent = make_agent("web-1")
    agent.enroll(server.token())
    agent.start()
    agent.append(event_line(1))
    wait_for("a real event passes", lambda: len(receiver.bodies) == 1, 40)
    wait_for("Loki is ready", lambda: loki_ready(server), 60)

    _code, findings = doctor(server)
    for check in ("probe-ingest", "probe-journal", "probe-loki", "probe-falcosidekick"):
        assert findings[check]["verdict"] == "well", findings[check]
    assert "withheld" in findings["probe-falcosidekick"]["problem"]
    assert findings["certificate"]["verdict"] == "well"
    assert findings["secrets"]["verdict"] == "well"
    assert findings["journal"]["verdict"] == "well"
    assert findings["fleet"]["verdict"] == "well", findings["fleet"]
    assert findings[f"port-{server.port}"]["verdict"] == "well"
    assert findings["exposed"]["verdict"] == "well"
    failing = {name for name, found in findings.items() if found["verdict"] == "failed"}
    assert failing <= {"memory", "disk", "configuration"}, failing
    assert all(found["remedy"] for found in findings.values() if found["verdict"] == "failed")

    # Nobody was alerted, and nothing of the visits is left but the probes themselves.
    assert "SIB probe" not in receiver.rules()
    assert [host["name"] for host in json.loads(server.cli("host", "list", "--json").stdout)] == [
        "web-1"
    ]
    found = server.cli("events", "search", "--json", "--rule", "SIB probe").stdout.splitlines()
    events = [json.loads(line) for line in found]
    assert {event["host_name"] for event in events} == {"sib-doctor"}
    assert len({event["event_id"].split("/")[0] for event in events}) == 1

    _code, findings = doctor(server, "--alert")
    assert findings["probe-falcosidekick"]["verdict"] == "well"
    assert "webhook" in findings["probe-falcosidekick"]["problem"]
    assert receiver.rules().count("SIB probe of alerts") == 1


def test_what_is_broken_is_found_and_named(
    stack: tuple[Server, Loki, Falcosidekick], receiver: Receiver
) -> None:
    server, loki, sidekick = stack
    loki.kill()
    code, findings = doctor(server, "--patience", "2")
    assert code == ExitCode.INCOMPLETE
    assert findings["probe-journal"]["verdict"] == "well"
    assert findings["probe-loki"]["verdict"] == "failed"
    assert "nothing is lost" in findings["probe-loki"]["remedy"]
    assert findings["store-loki"]["verdict"] == "failed"

    receiver.status = 503
    _code, findings = doctor(server, "--alert", "--patience", "8")
    assert findings["probe-falcosidekick"]["verdict"] == "failed", findings
    sidekick.kill()
    _code, findings = doctor(server, "--patience", "2")
    assert findings["probe-falcosidekick"]["verdict"] == "failed"

    server.kill()
    code, findings = doctor(server, "--patience", "2")
    assert code == ExitCode.INCOMPLETE
    assert findings["probe-ingest"]["verdict"] == "failed"
    assert "systemctl status sib-server" in findings["probe-ingest"]["remedy"]
    assert findings[f"port-{server.port}"]["verdict"] == "failed"
    shown = server.cli("doctor", "--patience", "2", check=False).stdout
    assert "try: " in shown


def test_a_key_that_others_can_read_is_found(server: Server) -> None:
    key = next((server.settings.pki.directory / "ca").glob("gen-*/ca.key"))
    key.chmod(0o644)
    _code, findings = doctor(server)
    assert findings["secrets"]["verdict"] == "failed"
    assert str(key) in findings["secrets"]["problem"]
    assert "chmod" in findings["secrets"]["remedy"]
    assert findings["probe-loki"]["verdict"] == "skipped"


def test_a_server_that_was_never_set_up_is_told_so(tmp_path: Path) -> None:
    server = Server(tmp_path / "server")
    import shutil  # noqa: PLC0415

    shutil.rmtree(server.settings.pki.directory)
    code, findings = doctor(server)
    assert code == ExitCode.INCOMPLETE
    assert "ca init" in findings["ca"]["remedy"]
    assert findings["probe-ingest"]["verdict"] == "skipped"
