from __future__ import annotations

import json
import os
import socket
import urllib.request
from pathlib import Path
from typing import Any
from unittest import mock

import click
import msgspec
import pytest
from click.testing import CliRunner

from sib_agent.cli import main
from sib_agent.cli.context import AgentContext
from sib_agent.health import Snapshot, make_report
from sib_agent.metrics import MetricsPortError, serve_metrics
from sib_agent.settings import AgentSettings
from sib_agent.spool.intake import IntakeState
from sib_agent.spool.spool import Spool
from sib_agent.standing import (
    Standing,
    bundle_problems,
    is_alive,
    judge_standing,
    load_snapshot,
)
from sib_agent.uplink import UplinkState
from sib_protocol.errors import ExitCode, FileAccessError
from sib_protocol.identity import Identity, IdentityStore
from sib_protocol.ids import HostId, HostName
from sib_protocol.messages import BundleEnd, BundleHealth, BundleOutcome

NOW = 1_000_000.0
IDENTITY = Identity(
    HostId("5a2b1a52-0f6f-4b4c-9c80-0a39c0ee2d8d"),
    HostName("web-1"),
    ("https://sib.example:8443",),
    "abc",
    int(NOW) - 10,
    int(NOW) + 1000,
    int(NOW),
)


def snapshot(tmp_path: Path, **changed: Any) -> Snapshot:
    spool = Spool.open(tmp_path / "spool")
    report = make_report(
        stream=spool.stream,
        stats=spool.stats(),
        intake=IntakeState(0, 0, 0, 0, None, None),
        uplink=UplinkState(),
        identity=IDENTITY,
        uptime=5.0,
    )
    spool.close()
    inner = changed.pop("report", {})
    stats = changed.pop("spool", {})
    report = msgspec.structs.replace(
        report, spool=msgspec.structs.replace(report.spool, **stats), **inner
    )
    fields = {
        "report": report,
        "host_id": IDENTITY.host_id,
        "host_name": IDENTITY.host_name,
        "servers": IDENTITY.servers,
        "link": "connected",
        "link_problem": None,
        "lines_sent": 3,
        "batches_sent": 2,
        "bytes_sent": 1,
        "send_failures": 0,
        "gaps_sent": 0,
        "truncations": 0,
        "renewal_problem": None,
        "written": NOW,
        "pid": os.getpid(),
    }
    return Snapshot(**{**fields, **changed})


@pytest.mark.parametrize(
    ("changed", "standing", "problem"),
    [
        ({}, Standing.WELL, ""),
        ({"link": "waiting"}, Standing.TROUBLED, "no answer from the server yet"),
        ({"link": "refused", "link_problem": "revoked"}, Standing.TROUBLED, "revoked"),
        ({"renewal_problem": "no route"}, Standing.TROUBLED, "cannot be renewed: no route"),
        ({"report": {"source_problem": "gone"}}, Standing.TROUBLED, "events file: gone"),
        ({"spool": {"problem": "full"}}, Standing.TROUBLED, "the spool: full"),
        ({"spool": {"bytes": 81, "quota": 100}}, Standing.TROUBLED, "nearly full"),
        ({"spool": {"bytes": 80, "quota": 100}}, Standing.WELL, ""),
        ({"written": NOW - 31}, Standing.STOPPED, "does not run"),
        ({"written": NOW + 31}, Standing.STOPPED, "does not run"),
    ],
)
def test_each_problem_is_named(
    tmp_path: Path, changed: dict[str, Any], standing: Standing, problem: str
) -> None:
    found, problems = judge_standing(IDENTITY, snapshot(tmp_path, **changed), NOW)
    assert found is standing
    assert problem in "; ".join(problems)
    assert bool(problems) is bool(problem)


def test_no_daemon_and_an_ended_certificate(tmp_path: Path) -> None:
    assert judge_standing(IDENTITY, None, NOW)[0] is Standing.STOPPED
    known = snapshot(tmp_path)
    assert judge_standing(IDENTITY, known, NOW, alive=False)[0] is Standing.STOPPED
    _, problems = judge_standing(IDENTITY, None, NOW + 1000)
    assert "sib-agent renew" in problems[0]
    assert is_alive(os.getpid())
    assert not is_alive(2**22 + 1)


def test_snapshots_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    assert load_snapshot(path) is None
    for content in (b"", b"{}", b"\xff"):
        path.write_bytes(content)
        assert load_snapshot(path) is None
    known = snapshot(tmp_path)
    path.write_bytes(msgspec.json.encode(known))
    assert load_snapshot(path) == known
    with (
        mock.patch.object(Path, "open", side_effect=PermissionError(13, "Permission denied")),
        pytest.raises(FileAccessError),
    ):
        load_snapshot(path)


def test_metrics_are_read_from_a_snapshot(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    stop = serve_metrics("127.0.0.1", port, lambda: snapshot(tmp_path, spool={"lost": 4}))
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            page = answer.read().decode()
        with pytest.raises(MetricsPortError, match=f"port {port}") as caught:
            serve_metrics("127.0.0.1", port, lambda: snapshot(tmp_path))
        assert caught.value.exit_code is ExitCode.CONFLICT
    finally:
        stop()
    for line in (
        "sib_agent_lines_sent_total 3.0",
        "sib_agent_lines_lost_total 4.0",
        "sib_agent_connected 1.0",
    ):
        assert line in page
    found = dict(line.rsplit(" ", 1) for line in page.splitlines() if not line.startswith("#"))
    assert float(found["sib_agent_certificate_not_after_seconds"]) == IDENTITY.not_after


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.yaml"
    tree = {
        "identity": {"directory": str(tmp_path / "identity")},
        "spool": {"directory": str(tmp_path / "spool")},
        "status": {"file": str(tmp_path / "status.json")},
        "events": {"file": str(tmp_path / "events.json")},
        "metrics": {"port": None},
    }
    path.write_text(json.dumps(tree))
    return path


def run(config: Path, *arguments: str, text: str = "") -> tuple[int, str]:
    done = CliRunner().invoke(main, ["--config", str(config), *arguments], input=text)
    return done.exit_code, done.output


def put(tmp_path: Path, **changed: Any) -> None:
    identity = msgspec.structs.replace(IDENTITY, **changed)
    IdentityStore(tmp_path / "identity").store(identity, key=b"k", certificate=b"c", ca=b"a")


def test_status_for_people_and_programs(config: Path, tmp_path: Path) -> None:
    assert run(config, "status")[0] == ExitCode.NOT_FOUND
    put(tmp_path, not_after=2**40)
    code, text = run(config, "status")
    assert code == ExitCode.INCOMPLETE
    assert "stopped" in text
    with mock.patch("time.time", return_value=NOW):
        (tmp_path / "status.json").write_bytes(msgspec.json.encode(snapshot(tmp_path)))
        code, text = run(config, "status")
        assert code == 0, text
        assert "0 waiting" in text
        code, text = run(config, "status", "--json")
        assert (code, json.loads(text)["spool"]["waiting"]) == (0, 0)
        steering = snapshot(tmp_path, link="waiting", link_problem="\x1b[31mred")
        (tmp_path / "status.json").write_bytes(msgspec.json.encode(steering))
        code, text = run(config, "status")
        assert code == ExitCode.INCOMPLETE
        assert "\x1b[31m" not in text


def test_unenrolling_asks_and_says_what_goes(config: Path, tmp_path: Path) -> None:
    put(tmp_path)
    snapshot(tmp_path)
    code, text = run(config, "unenroll", "--spool", "--dry-run")
    assert (code, "spool in" in text) == (0, True)
    assert run(config, "unenroll", text="n\n")[0] == 1
    assert IdentityStore(tmp_path / "identity").load().host_name == "web-1"
    assert run(config, "unenroll", "--spool", text="y\n")[0] == 0
    assert not (tmp_path / "spool").exists()


def test_tokens_come_by_file_or_by_standard_input(config: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    assert run(config, "enroll", "--token-file", str(token))[0] == ExitCode.FILE_ACCESS
    token.write_text("sib1.x")
    assert run(config, "enroll", "--token-file", str(token))[0] == ExitCode.USAGE
    code, text = run(config, "enroll", text="\n")
    assert (code, "nothing was given" in text) == (ExitCode.USAGE, True)
    assert run(config, "enroll", "--name", "a/b", text="x")[0] == ExitCode.REFUSED
    put(tmp_path)
    assert run(config, "enroll", text="x")[0] == ExitCode.CONFLICT
    with mock.patch("sib_agent.enrollment.renew", return_value=IDENTITY):
        assert "renewed until 1970-01-12" in run(config, "renew")[1]
        assert json.loads(run(config, "renew", "--json")[1])["host_name"] == "web-1"
    real = "sib1." + "A" * 60
    with mock.patch("sib_agent.enrollment.enroll", return_value=IDENTITY):
        assert run(config, "enroll", "--force", text=real)[0] == ExitCode.USAGE


def test_without_a_settings_file_the_defaults_hold(tmp_path: Path) -> None:
    with mock.patch("sib_agent.cli.context.DEFAULT_PATH", tmp_path / "none.yaml"):
        assert AgentContext(None).settings == AgentSettings()
    assert CliRunner().invoke(main, ["--config", "/nonexistent", "status"]).exit_code == (
        ExitCode.FILE_ACCESS
    )


def test_help_is_there_where_the_settings_are_broken(tmp_path: Path) -> None:
    config = tmp_path / "agent.yaml"
    config.write_text("no: [settings")
    for name in main.list_commands(click.Context(main)):
        done = CliRunner().invoke(main, ["--config", str(config), name, "--help"])
        assert done.exit_code == 0, name
        assert done.stdout.startswith("Usage: ")
    done = CliRunner().invoke(main, ["--config", str(config), "status"])
    assert done.exit_code == ExitCode.SETTINGS


def test_what_a_person_should_know_of_the_bundle() -> None:
    assert bundle_problems(None) == []
    assert bundle_problems(BundleHealth(7)) == []

    def ended(outcome: BundleOutcome) -> BundleHealth:
        return BundleHealth(7, BundleEnd(8, outcome, "why", 0))

    told = {outcome: bundle_problems(ended(outcome)) for outcome in BundleOutcome}
    assert told == {
        BundleOutcome.ACCEPTED: [],
        BundleOutcome.UNWATCHED: [],
        BundleOutcome.UNPROVEN: ["bundle 8 could not be proven: why"],
        BundleOutcome.REFUSED: ["bundle 8 was refused: why"],
        BundleOutcome.ROLLED_BACK: ["bundle 8 was taken back: why"],
    }
    frozen = BundleHealth(7, withheld="timestamp.json is expired")
    assert bundle_problems(frozen) == [
        "new bundles may be kept from this host: timestamp.json is expired"
    ]
