from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from sib_protocol.errors import ExitCode
from sib_protocol.journalctl import PROGRAM, journalctl
from sib_protocol.settings import parse_settings
from sib_protocol.units import parse_show, show_command
from sib_server.cli import logs as logs_module
from sib_server.cli.logs import logs
from sib_server.operations.stores import ask, store_urls
from sib_server.operations.units import UNITS
from sib_server.settings import ServerSettings

SHOWN = """\
Id=sib-server.service
LoadState=loaded
ActiveState=active
SubState=running
Result=success
NRestarts=2
Type=notify

Id=sib-loki.service
LoadState=loaded
ActiveState=failed
SubState=failed
Result=oom-kill
NRestarts=10
Type=simple

Id=sib-grafana.service
LoadState=not-found
ActiveState=inactive
SubState=dead

Id=ssh.service
LoadState=loaded
ActiveState=active
"""


def test_units_that_are_installed_and_ours_are_read() -> None:
    server, loki = parse_show(SHOWN, UNITS)
    assert (server.component, server.active, server.restarts, server.troubled) == (
        "server",
        "active",
        2,
        False,
    )
    assert (loki.unit, loki.result, loki.troubled) == ("sib-loki.service", "oom-kill", True)


def test_what_systemd_says_in_truth_can_be_read() -> None:
    # Without a running systemd the real program answers nothing; with one, it knows no such unit.
    done = subprocess.run(
        show_command(tuple(UNITS.values())), capture_output=True, text=True, check=False
    )
    assert isinstance(parse_show(done.stdout, UNITS), list)


def test_a_log_command_is_put_together() -> None:
    assert journalctl(["a.service", "b.service"], follow=True, since_ns=1_700_000_000_999) == (
        PROGRAM,
        "--output=short-iso",
        "--unit=a.service",
        "--unit=b.service",
        "--follow",
        "--since=@1700",
    )
    assert journalctl(["a.service"], lines=7, as_json=True)[1:] == (
        "--output=json",
        "--unit=a.service",
        "--lines=7",
    )


def test_the_real_journalctl_takes_the_command(tmp_path: Path) -> None:
    command = journalctl(["sib-server.service"], since_ns=10**18, lines=5, as_json=True)
    if not Path(command[0]).exists():
        pytest.skip(f"{command[0]} not found: install systemd")
    # An empty directory of journals, so that it is the options that are tried.
    done = subprocess.run(
        [*command, f"--directory={tmp_path}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_logs_becomes_journalctl(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr(os, "execv", lambda _path, command: ran.append(command))
    for arguments in ([], ["loki", "server", "-f"], ["--since", "1h"]):
        assert CliRunner().invoke(logs, arguments).exit_code == 0
    assert ran[0] == journalctl(list(UNITS.values()), lines=200)
    assert ran[1] == journalctl(["sib-loki.service", "sib-server.service"], follow=True, lines=200)
    assert "--lines=200" not in ran[2]
    assert CliRunner().invoke(logs, ["sshd"]).exit_code == ExitCode.USAGE


def test_without_journalctl_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs_module, "journalctl", lambda *_args, **_options: ("/no/such",))
    result = CliRunner().invoke(logs, [])
    assert isinstance(result.exception, logs_module.NoJournalctlError)


def test_the_stores_in_use_are_asked_and_no_others() -> None:
    settings = parse_settings(
        "sinks: {loki: {enabled: true}, falcosidekick: {enabled: true}}\n"
        "push: {metrics_url: 'http://127.0.0.1:9090/api/v1/write'}\n",
        ServerSettings,
        Path("x"),
    )
    assert store_urls(settings) == {
        "loki": "http://127.0.0.1:3100/ready",
        "falcosidekick": "http://127.0.0.1:2801/ping",
        "prometheus": "http://127.0.0.1:9090/-/ready",
    }
    assert set(store_urls(ServerSettings())) <= {"loki", "prometheus"}


def test_a_store_that_is_not_there_is_not_ready() -> None:
    state = ask("loki", "http://127.0.0.1:1/ready", 0.5)
    assert not state.ready
    assert state.answer
