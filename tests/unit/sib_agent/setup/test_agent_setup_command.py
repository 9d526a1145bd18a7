from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from sib_agent.cli import main
from sib_agent.settings import AgentSettings
from sib_agent.setup import steps
from sib_agent.setup.facts import ask, gather
from sib_agent.setup.falco_config import FalcoFiles
from sib_agent.setup.units import unit_states
from sib_protocol.errors import ExitCode
from sib_protocol.generated import Action, FileChange
from sib_protocol.identity import Identity, IdentityStore
from sib_protocol.ids import HostName, new_host_id
from sib_protocol.units import booted


class Place:
    """A host's directories, all below one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.falco, self.probe = root / "falco.yaml", root / "falco-probe.yaml"
        self.alloy = root / "config.alloy"
        self.settings: dict[str, Any] = {
            "identity": {"directory": str(root / "identity")},
            "spool": {"directory": str(root / "spool")},
            "events": {"file": str(root / "events/events.json")},
            "falco": {"config": str(self.falco), "bundles": str(root / "bundles")},
            "alloy": {"config": str(self.alloy)},
        }

    def run(self, *arguments: str) -> Result:
        config = self.root / "agent.yaml"
        config.write_text(yaml.safe_dump(self.settings))
        return CliRunner().invoke(main, ["--config", str(config), "setup", *arguments])

    def actions(self, *arguments: str) -> dict[str, str]:
        done = self.run("--json", *arguments)
        assert done.exit_code in (0, ExitCode.INCOMPLETE), done.output
        changes = json.loads(done.output)["files"]
        return {Path(change["path"]).name: change["action"] for change in changes}

    def enroll(self, server: str) -> None:
        identity = Identity(
            new_host_id(), HostName("web-1"), (server,), os.urandom(4).hex(), 0, 1, 0
        )
        IdentityStore(self.root / "identity").store(identity, key=b"k", certificate=b"c", ca=b"a")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_from_installation_to_another_server(place: Place) -> None:
    assert place.actions("--dry-run") == {"falco-probe.yaml": "created", "falco.yaml": "created"}
    assert not place.falco.exists()
    assert place.actions() == {"falco-probe.yaml": "created", "falco.yaml": "created"}
    assert (place.root / "bundles/current/rules").is_dir()
    assert place.falco.stat().st_mode & 0o777 == 0o640
    # Without an identity nobody knows where to send.
    assert not place.alloy.exists()
    place.enroll("https://one:8443")
    assert place.actions()["config.alloy"] == "created"
    assert set(place.actions().values()) == {"unchanged"}
    place.enroll("https://two:8443")
    assert place.actions()["config.alloy"] == "updated"
    assert "https://two:8443/" in place.alloy.read_text()
    place.settings["alloy"]["server"] = "https://balancer:8443"
    place.run()
    assert "https://balancer:8443/" in place.alloy.read_text()


def test_an_edit_is_kept_told_and_given_up_by_force_alone(place: Place) -> None:
    place.run()
    edited = place.falco.read_text() + "\nlog_level: debug\n"
    place.falco.write_text(edited)
    place.settings["falco"]["metrics_port"] = 9999
    done = place.run("--quiet")
    assert done.exit_code == 0
    assert "was edited, so it is kept" in done.output
    assert place.falco.read_text() == edited
    assert "9999" in (place.root / "falco.yaml.new").read_text()
    assert place.actions("--force")["falco.yaml"] == "replaced"
    assert "9999" in place.falco.read_text()
    assert (place.root / "falco.yaml.old").read_text() == edited


def test_check_writes_nothing_and_says_so_by_its_exit_code(place: Place) -> None:
    done = place.run("--check")
    assert done.exit_code == ExitCode.INCOMPLETE
    assert f"{place.falco} would be created" in done.output
    assert not place.falco.exists()


def test_parts_that_are_not_wanted_are_not_written(place: Place) -> None:
    place.enroll("https://one:8443")
    place.settings["falco"]["enabled"] = place.settings["alloy"]["enabled"] = False
    assert place.actions() == {}
    assert not (place.root / "bundles").exists()


def test_a_place_that_cannot_be_written_is_an_error_in_words(place: Place) -> None:
    place.settings["falco"]["config"] = str(place.root / "missing/falco.yaml")
    done = place.run()
    assert done.exit_code == ExitCode.FILE_ACCESS
    assert "missing" in done.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has something to fear")
def test_root_makes_nothing_in_a_directory_of_somebody_else(place: Place) -> None:
    bundles = place.root / "bundles"
    bundles.mkdir()
    os.chown(bundles, 65534, 65534)
    done = place.run()
    assert list(bundles.iterdir()) == []
    assert "systemd-tmpfiles --create" in done.output


@pytest.mark.parametrize(
    ("actions", "told"),
    [
        (("created", "created", "unchanged"), [("start", "sib-falco.service")]),
        (("updated", "unchanged", "created"), [
            ("try-reload-or-restart", "sib-falco.service"), ("start", "sib-alloy.service"),
        ]),
        (("unchanged", "replaced", "updated"), [
            ("try-reload-or-restart", "sib-falco.service"),
            ("try-reload-or-restart", "sib-alloy.service"),
        ]),
        (("unchanged", "kept", "kept"), []),
    ],
)  # fmt: skip
def test_systemd_is_told_of_what_is_different(
    actions: tuple[str, ...], told: list[tuple[str, str]]
) -> None:
    paths = ("/etc/sib/falco-probe.yaml", "/etc/sib/falco.yaml", "/etc/sib/config.alloy")
    changes = [
        FileChange(path, Action(action)) for path, action in zip(paths, actions, strict=True)
    ]
    facts = dataclasses.replace(
        gather(AgentSettings()), falco=FalcoFiles(True, None, None), alloy=True
    )
    found = steps.unit_steps(AgentSettings(), facts, changes)
    assert [(step.verb, step.unit) for step in found] == told
    bare = dataclasses.replace(facts, falco=FalcoFiles(False, None, None), alloy=False)
    assert steps.unit_steps(AgentSettings(), bare, changes) == []


def test_systemd_is_told_without_waiting_for_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "systemctl"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/said\n[ "$3" != sib-alloy.service ]\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(steps, "booted", lambda: True)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    wanted = [steps.UnitStep("start", unit) for unit in ("sib-falco.service", "sib-alloy.service")]
    first, second = steps.tell_systemd(wanted)
    assert (first.verdict.value, second.verdict.value) == ("well", "warning")
    assert second.remedy == "systemctl start sib-alloy.service"
    assert (tmp_path / "said").read_text().splitlines()[0] == "--no-block start sib-falco.service"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert steps.tell_systemd(wanted) == []


def test_programs_that_are_not_there_fail_or_hang_say_nothing() -> None:
    assert ask("/nonexistent/program") is None
    assert ask("false") is None
    assert ask("printf", "x") == "x"
    assert booted() or unit_states() is None
