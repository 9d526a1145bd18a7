from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sib_server.cli import main
from sib_server.cli import setup as command
from sib_server.stack.layout import Component, Layout
from sib_server.stack.services import Systemd


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with Grafana's and Loki's packages, below a directory."""
    layout = Layout(
        config=tmp_path / "etc",
        state=tmp_path / "var",
        programs=tmp_path / "lib",
        share=tmp_path / "share",
    )
    monkeypatch.setattr(command, "Layout", lambda: layout)
    monkeypatch.setattr(command, "Systemd", lambda: Systemd(tmp_path))
    installed = frozenset({Component.LOKI, Component.GRAFANA})
    monkeypatch.setattr(command, "find_installed", lambda _layout: installed)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("sib_server.stack.setup.find_user", lambda _name: None)
    layout.config.mkdir()
    (layout.config / "server.yaml").write_text(
        f"pki: {{directory: {tmp_path}/pki}}\n"
        f"journal: {{path: {tmp_path}/journal.db, retention_bytes: 1048576}}\n"
        f"bundles: {{directory: {tmp_path}/bundles}}\n"
        "listen: {port: 1}\nmetrics: {port: null}\n"
    )
    return tmp_path


def run(machine: Path, *arguments: str) -> Result:
    config = str(machine / "etc/server.yaml")
    return CliRunner().invoke(main, ["--config", config, "setup", *arguments])


def as_json(machine: Path, *arguments: str) -> Any:
    done = run(machine, "--json", *arguments)
    assert done.exit_code in (0, 11), done.output
    return json.loads(done.stdout)


def test_it_says_what_it_did(machine: Path) -> None:
    planned = run(machine, "--dry-run")
    assert "would be created: " in planned.output
    assert not (machine / "etc/loki.yaml").exists()
    done = run(machine)
    assert done.exit_code in (0, 11), done.output
    assert f"created: {machine}/etc/loki.yaml" in done.output
    assert "Back up the CA" in done.stderr
    assert f"password in {machine}/etc/secrets/grafana-admin-password" in done.output
    password = (machine / "etc/secrets/grafana-admin-password").read_text().strip()
    assert password not in done.output
    again = run(machine)
    assert "created" not in again.output
    (machine / "etc/loki.yaml").write_text("mine: true\n")
    assert f"kept: {machine}/etc/loki.yaml, which you edited" in run(machine).output
    assert f"replaced: {machine}/etc/loki.yaml" in run(machine, "--force").output


def test_a_program_can_read_it(machine: Path) -> None:
    found = as_json(machine)
    assert found["report"]["uses"] == {
        "loki": "local",
        "prometheus": "off",
        "grafana": "local",
        "falcosidekick": "off",
    }
    assert {item["action"] for item in found["report"]["files"]} == {"created"}
    assert len(found["report"]["ca_pin"]) == 64
    assert {item["check"] for item in found["findings"]} >= {"memory", "clock", "port-1"}
    assert as_json(machine, "--renew") == {"made": []}
    assert "report" not in as_json(machine, "--check")


def test_a_check_shows_what_is_well_too_and_changes_nothing(machine: Path) -> None:
    done = run(machine, "--check")
    assert "well" in done.output
    assert sorted(path.name for path in machine.iterdir()) == ["etc"]


def test_renewal_does_nothing_else(machine: Path) -> None:
    with (machine / "etc/server.yaml").open("a") as settings:
        settings.write("stack: {grafana: {address: '::'}}\n")
    done = run(machine, "--renew")
    assert done.output == f"made      {machine}/etc/grafana/tls.pem\n"
    assert not (machine / "etc/loki.yaml").exists()


def test_only_root_can(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    done = run(machine)
    assert done.exit_code == 4
    assert "sudo sib-server setup" in done.output
    assert run(machine, "--dry-run").exit_code in (0, 11)


def test_what_cannot_be_is_told_with_what_to_do(machine: Path) -> None:
    with (machine / "etc/server.yaml").open("a") as settings:
        settings.write("stack: {prometheus: {use: local}}\n")
    done = run(machine)
    assert done.exit_code == 3
    assert "install sib-prometheus" in done.output
