from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from sib_agent.cli import main
from sib_agent.removal import own_paths
from sib_agent.settings import AgentSettings
from sib_agent.setup.units import TARGET
from sib_protocol.errors import ExitCode
from sib_protocol.removal import package_command, plan_removal, remove_paths

APT, DNF, ZYPPER = (Path(f"/usr/bin/{name}") for name in ("apt-get", "dnf", "zypper"))
ALL = ["sib-falco", "sib-alloy", "sib-agent"]


@pytest.mark.parametrize(
    ("manager", "installed", "purge", "command"),
    [
        (APT, ALL, False, "/usr/bin/apt-get --yes remove sib-falco sib-alloy sib-agent"),
        (APT, ["sib-agent"], True, "/usr/bin/apt-get --yes purge sib-agent"),
        (DNF, ALL, True, "/usr/bin/dnf --assumeyes remove sib-falco sib-alloy sib-agent"),
        (ZYPPER, ALL[2:], False, "/usr/bin/zypper --non-interactive remove sib-agent"),
        (Path("/usr/bin/pacman"), ALL, True, ""),
        (APT, [], True, ""),
    ],
)  # fmt: skip
def test_each_package_manager_is_told_in_its_words(
    manager: Path, installed: list[str], purge: bool, command: str
) -> None:
    assert " ".join(package_command(manager, installed, purge=purge)) == command


def test_a_purge_takes_everything_of_sibs_and_nothing_else() -> None:
    paths = own_paths(AgentSettings())
    plan = plan_removal(paths, target=TARGET, purge=True, booted=True, manager=APT, installed=ALL)
    stopped = plan.lines()[0].split()
    assert stopped[:3] == ["systemctl", "stop", "sib-agent.target"]
    assert stopped[3:] == [f"{package}.service" for package in ALL]
    assert plan.lines()[-1].startswith("/usr/bin/apt-get --yes purge")
    removed = {str(path) for path in plan.remove}
    # What lies in a directory that goes is not named again.
    assert {"/var/lib/sib-agent", "/var/lib/sib-falco", "/var/lib/sib-alloy"} <= removed
    assert "/var/lib/sib-agent/spool" not in removed
    assert {"/etc/sib/falco.yaml", "/etc/sib/config.alloy", "/etc/sib/falco.yaml.new"} <= removed
    assert not removed & {"/etc/sib", "/etc/sib/agent.yaml", "/var/lib", "/var/log"}
    kept = plan_removal(paths, target=TARGET, purge=False, booted=False, manager=None, installed=[])
    assert (kept.remove, kept.stop, kept.lines()) == ((), None, [])


def test_what_is_gone_already_is_fine(tmp_path: Path) -> None:
    (tmp_path / "directory/inner").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    remove_paths([tmp_path / name for name in ("directory", "file", "link", "missing")])
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def run(tmp_path: Path, *arguments: str) -> Result:
    tree = {
        "identity": {"directory": str(tmp_path / "identity")},
        "spool": {"directory": str(tmp_path / "spool")},
        "falco": {"config": str(tmp_path / "falco.yaml"), "bundles": str(tmp_path / "bundles")},
        "alloy": {"config": str(tmp_path / "config.alloy")},
        "status": {"file": str(tmp_path / "status.json")},
    }
    config = tmp_path / "agent.yaml"
    config.write_text(yaml.safe_dump(tree))
    return CliRunner().invoke(main, ["--config", str(config), *arguments], input="n\n")


@pytest.fixture
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sib_agent.removal._STATE", ())
    monkeypatch.setattr("sib_agent.cli.uninstall.PACKAGES", ())
    monkeypatch.setattr("sib_agent.cli.uninstall.booted", lambda: False)


@pytest.mark.usefixtures("_nothing_installed")
def test_the_command_asks_and_a_dry_run_does_nothing(tmp_path: Path) -> None:
    assert "nothing of SIB" in run(tmp_path, "uninstall").output
    (tmp_path / "spool").mkdir()
    for arguments in (("--purge", "--dry-run"), ("--purge", "--dry-run", "--json"), ("--purge",)):
        assert str(tmp_path / "spool") in run(tmp_path, "uninstall", *arguments).output
        assert (tmp_path / "spool").is_dir()
    assert run(tmp_path, "uninstall", "--purge", "--yes").exit_code == 0
    assert not (tmp_path / "spool").exists()


@pytest.mark.usefixtures("_nothing_installed")
def test_daemons_that_go_on_keep_everything_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spool").mkdir()
    monkeypatch.setattr("sib_agent.cli.uninstall.booted", lambda: True)

    def refuse(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "systemctl")

    monkeypatch.setattr(subprocess, "run", refuse)
    done = run(tmp_path, "uninstall", "--purge", "--yes")
    assert done.exit_code == ExitCode.CONFLICT
    assert (tmp_path / "spool").is_dir()


def test_logs_are_asked_of_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def execute(program: str, command: tuple[str, ...]) -> None:
        asked.append(command)
        if len(asked) == 2:
            raise FileNotFoundError(program)

    monkeypatch.setattr(os, "execv", execute)
    assert run(tmp_path, "logs", "falco", "--since", "1h").exit_code == 0
    assert "--unit=sib-falco.service" in asked[0]
    assert [part for part in asked[0] if part.startswith("--since=@")]
    missing = run(tmp_path, "logs")
    assert missing.exit_code == ExitCode.NOT_FOUND
    assert {"--lines=200", "--unit=sib-agent.service", "--unit=sib-alloy.service"} <= set(asked[1])
    assert run(tmp_path, "logs", "--since", "yesterday").exit_code == ExitCode.USAGE
