"""`sib-server demo` through the real ingest: stored, found, kept from alerts, and taken away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sib_protocol.errors import ExitCode
from tests.support.components import (
    FakeFalcosidekickProgram,
    FakeLokiProgram,
    RealFalcosidekick,
    component,
    get,
)
from tests.support.lab import Server
from tests.support.proxy import wait_for

pytestmark = pytest.mark.timeout(180)


def found(server: Server, *arguments: str) -> list[dict[str, object]]:
    done = server.cli("events", "search", "--json", "--limit", "2000", *arguments)
    return [json.loads(line) for line in done.stdout.splitlines()]


def detection(tmp_path: Path) -> dict[str, object]:
    empty = str(tmp_path / "empty")
    return {"own_rules": empty, "falco_rules": empty, "directory": empty}


def test_demo_comes_and_goes(server: Server) -> None:
    done = server.cli("demo", "--json")
    sent = json.loads(done.stdout)
    assert sent["events"] == sum(sent["hosts"].values()) > 150
    assert len(sent["tactics"]) >= 12
    stored = [event for event in found(server) if str(event["host_name"]).startswith("sib-demo-")]
    assert len(stored) == sent["events"]
    assert all("sib_demo" in event["event"]["tags"] for event in stored)  # type: ignore[index]
    # A second one takes the first one's hosts' place.
    again = json.loads(server.cli("demo", "--quick", "--seed", "3", "--json").stdout)
    assert again["events"] < sent["events"]
    gone = json.loads(server.cli("demo", "--remove", "--json").stdout)
    assert gone["events"] == sent["events"] + again["events"]
    assert gone["hosts"] == sorted(again["hosts"])
    assert gone["loki"] == "off"
    assert [event["host_name"] for event in found(server)] == []
    assert json.loads(server.cli("host", "list", "--json").stdout) == []
    assert json.loads(server.cli("journal", "verify", "--json").stdout)["whole"]
    nothing = json.loads(server.cli("demo", "--remove", "--json").stdout)
    assert (nothing["hosts"], nothing["events"]) == ([], 0)
    # The server goes on as before.
    assert "demo events of" in server.cli("demo", "--quick").stdout
    assert "removed" in server.cli("demo", "--remove").stdout


@pytest.mark.parametrize("real", [False, True], ids=["stand-in", "real"])
def test_nobody_is_woken_up(tmp_path: Path, real: bool) -> None:
    if real:
        component("falcosidekick", "falcosidekick")
    got = FakeFalcosidekickProgram(tmp_path / "sink", "http://127.0.0.1:9")
    sidekick = RealFalcosidekick if real else FakeFalcosidekickProgram
    relay = sidekick(tmp_path / "relay", got.url)
    got.start()
    relay.start()
    server = Server(
        tmp_path / "server",
        {
            "detection": detection(tmp_path),
            "sinks": {"falcosidekick": {"enabled": True, "url": relay.url}},
        },
    )
    server.start()
    try:
        assert server.cli("demo", "--quick").returncode == ExitCode.OK

        def caught_up() -> bool:
            page = get(f"http://127.0.0.1:{server.metrics_port}/metrics").decode()
            lines = [line for line in page.splitlines() if line.startswith("sib_server_sink_")]
            delivered = [line for line in lines if "delivered" in line and "falcosidekick" in line]
            return bool(delivered) and float(delivered[0].split()[-1]) >= 13

        wait_for("the demo passed the sink", caught_up, 40)
        counted = get(f"{relay.url}/metrics").decode()
        posted = [
            line
            for line in counted.splitlines()
            if line.startswith("falcosecurity_falcosidekick_inputs_total") and "http" in line
        ]
        assert all(float(line.split()[-1]) == 0 for line in posted), posted
    finally:
        server.stop()
        relay.kill()
        got.kill()


def test_loki_is_asked_and_what_it_says_is_told(tmp_path: Path) -> None:
    loki = FakeLokiProgram(tmp_path / "loki")
    loki.start()
    server = Server(
        tmp_path / "server",
        {
            "detection": detection(tmp_path),
            "sinks": {"loki": {"enabled": True, "url": loki.url}},
        },
    )
    server.start()
    try:
        server.cli("demo", "--quick")
        done = server.cli("demo", "--remove", check=False)
        # The stand-in has no delete API, as a Loki whose compactor deletes nothing.
        assert done.returncode == ExitCode.INCOMPLETE
        assert "Loki keeps its copies" in done.stderr
    finally:
        server.stop()
        loki.kill()


def test_a_server_that_does_not_run_is_told(tmp_path: Path) -> None:
    server = Server(tmp_path / "server", {"detection": detection(tmp_path)})
    done = server.cli("demo", "--quick", check=False)
    assert done.returncode == ExitCode.UNREACHABLE
    assert "systemctl start sib-server" in done.stderr
