"""The real Alloy under the configuration of ``sib-agent setup``, to real server and stores."""

from __future__ import annotations

import json
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from sib_agent.settings import AgentSettings
from sib_agent.setup.alloy_config import render_alloy
from tests.support.components import RealLoki, RealPrometheus, component, get
from tests.support.lab import Agent, Server
from tests.support.ports import free_port
from tests.support.proxy import wait_for

pytestmark = pytest.mark.timeout(300)


class RealAlloy:
    def __init__(self, agent: Agent, port: int) -> None:
        self.program = component("alloy", "alloy")
        self.config = agent.directory / "config.alloy"
        self.directory, self.port = agent.directory, port
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "alloy.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(self.program, "run", "--disable-reporting"),
                    f"--storage.path={self.directory / 'alloy'}",
                    f"--server.http.listen-addr=127.0.0.1:{self.port}",
                    self.config,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_for("alloy to be ready", self._ready, 60)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.said()
        with suppress(OSError):
            return b"ready" in get(f"http://127.0.0.1:{self.port}/-/ready")
        return False

    def said(self) -> str:
        return (self.directory / "alloy.log").read_text(errors="replace")[-3000:]

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)


@pytest.mark.parametrize("journald", [True, False])
def test_alloy_takes_the_configuration_and_would_write_it_the_same(
    tmp_path: Path, journald: bool
) -> None:
    program = component("alloy", "alloy")
    path = tmp_path / "config.alloy"
    text = render_alloy(AgentSettings(), "https://sib.example:8443", journald=journald)
    path.write_text(text)
    done = subprocess.run(
        [program, "validate", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run(
        [program, "fmt", path], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == text


class Fleet:
    """A server with real stores, and an enrolled host with its logs."""

    def __init__(self, tmp_path: Path, make_agent: Callable[..., Agent]) -> None:
        component("alloy", "alloy")
        self.loki, self.prometheus = RealLoki(tmp_path / "l"), RealPrometheus(tmp_path / "p")
        self.loki.start()
        self.prometheus.start()
        self.server = Server(
            tmp_path / "server",
            {
                "push": {
                    "loki_url": self.loki.url,
                    "metrics_url": f"{self.prometheus.url}/api/v1/write",
                }
            },
        )
        self.server.start()
        self.logs = tmp_path / "log"
        self.logs.mkdir()
        port = free_port()
        self.agent = make_agent(
            "shipping-1",
            {
                "metrics": {"port": free_port()},
                "falco": {"enabled": False},
                "alloy": {
                    "config": str(tmp_path / "shipping-1/config.alloy"),
                    "home": str(component("alloy", "alloy").parent),
                    "listen": f"127.0.0.1:{port}",
                    "scrape_seconds": 5,
                },
                "logs": {
                    "journal": False,
                    "auth": [str(self.logs / "auth.log")],
                    "cron": [],
                    "syslog": [],
                    "web": [str(self.logs / "*access.log")],
                },
            },
        )
        for name in ("auth.log", "access.log"):
            (self.logs / name).write_text("from before Alloy came\n")
        self.agent.enroll(self.server.token())
        self.agent.cli("setup", "--no-units")
        self.alloy = RealAlloy(self.agent, port)

    def write(self, name: str, line: str) -> None:
        with (self.logs / name).open("a") as file:
            file.write(line + "\n")

    def held(self, selector: str) -> list[tuple[str, dict[str, str]]]:
        return [(line, labels) for _, line, labels in self.loki.held(selector)]

    def samples(self, query: str) -> list[dict[str, Any]]:
        text = urllib.parse.urlencode({"query": query})
        answer = json.loads(get(f"{self.prometheus.url}/api/v1/query?{text}"))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def close(self) -> None:
        self.alloy.stop()
        if self.server.running:
            self.server.stop()
        self.loki.kill()
        self.prometheus.kill()


@pytest.fixture
def fleet(tmp_path: Path, make_agent: Callable[..., Agent]) -> Iterator[Fleet]:
    made = Fleet(tmp_path, make_agent)
    yield made
    made.close()


def test_logs_and_metrics_come_home_also_under_a_renewed_certificate(fleet: Fleet) -> None:
    agent, server = fleet.agent, fleet.server
    agent.start()
    fleet.alloy.start()
    stamp = datetime.now(timezone.utc).isoformat()
    fleet.write("auth.log", f"{stamp} web sshd[7]: Accepted publickey for root")
    fleet.write("access.log", '192.0.2.1 - - [25/Nov/2026] "GET /a HTTP/1.1" 200 5')
    fleet.write("auth.log", "x" * 300_000)
    everything = '{source=~"auth|web"}'
    wait_for("three lines", lambda: len(fleet.held(everything)) >= 3, 60)
    held = fleet.held(everything)
    assert not [line for line, _ in held if "before" in line]
    by_line = dict(held)
    sshd = by_line["Accepted publickey for root"]
    assert (sshd["host"], sshd["source"], sshd["identifier"]) == ("shipping-1", "auth", "sshd")
    assert any(line.endswith("[cut by sib]") for line in by_line)
    # Labels are few; the file's name is beside the line and makes no stream of its own.
    series = json.loads(get(f"{fleet.loki.url}/loki/api/v1/series"))["data"]
    assert {frozenset(labels) for labels in series if "host" in labels} == {
        frozenset({"source", "host"})
    }
    # What the Sigma streams query finds.
    assert fleet.held('{source=~"auth|journal|syslog"} | identifier=~`(?i)sshd.*`')
    wait_for("host metrics", lambda: fleet.samples('node_load1{host="shipping-1"}') != [], 60)
    (load,) = fleet.samples('node_load1{host="shipping-1"}')
    assert load["metric"]["job"] == "host"
    wait_for(
        "the agent's",
        lambda: fleet.samples('sib_agent_lines_sent_total{job="sib-agent"}') != [],
        30,
    )
    assert fleet.samples('{__name__=~"go_.+", job="alloy"}') == []

    found = {
        item["check"]: item
        for item in json.loads(agent.cli("doctor", "--json", check=False).stdout)
    }
    assert found["alloy"]["verdict"] == "well", found["alloy"]
    assert found["pushes"]["verdict"] == "well", found["pushes"]
    assert found["logs"]["verdict"] == "well", found["logs"]

    before = agent.status()["certificate"]["serial"]
    agent.cli("renew")
    fleet.write("auth.log", f"{stamp} web sudo: first after the renewal")
    wait_for("a line", lambda: "first after" in str(fleet.held('{source="auth"}')), 60)
    server.cli("ca", "revoke", before)
    fleet.write("auth.log", f"{stamp} web sudo: second after the renewal")
    wait_for("another", lambda: "second after" in str(fleet.held('{source="auth"}')), 60)


def test_what_is_written_while_the_server_is_away_comes_later(fleet: Fleet) -> None:
    fleet.agent.start()
    fleet.alloy.start()
    fleet.write("access.log", "one")
    wait_for("a line", lambda: len(fleet.held('{source="web"}')) == 1, 60)
    fleet.server.stop()
    for number in range(50):
        fleet.write("access.log", f"while away {number}")
    wait_for(
        "a failed push", lambda: "error" in fleet.alloy.said() or "warn" in fleet.alloy.said(), 60
    )
    fleet.server.start()
    wait_for("all lines", lambda: len(fleet.held('{source="web"}')) == 51, 90)
