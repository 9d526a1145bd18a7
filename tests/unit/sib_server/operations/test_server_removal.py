from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sib_protocol import removal
from sib_protocol.errors import ExitCode
from sib_protocol.removal import carry_out, find_installed, find_manager, plan_removal
from sib_server.cli import main
from sib_server.operations.removal import PACKAGES, TARGET, own_paths
from sib_server.pki.authority import Authority
from sib_server.settings import ServerSettings

APT = Path("/usr/bin/apt-get")
UNITS = Path(__file__).resolve().parents[4] / "systemd"


def test_a_purge_takes_everything_of_the_servers_and_nothing_of_an_agents() -> None:
    paths = own_paths(ServerSettings(), Path("/etc/sib/server.yaml"))
    plan = plan_removal(
        paths, target=TARGET, purge=True, booted=True, manager=APT, installed=PACKAGES
    )
    services = " ".join(f"{package}.service" for package in PACKAGES)
    assert plan.lines()[0] == f"systemctl stop sib-server.target {services}"
    assert all((UNITS / f"{package}.service").is_file() for package in PACKAGES)
    assert plan.lines()[-1].startswith("/usr/bin/apt-get --yes purge sib-loki")
    assert plan.packages is not None
    assert plan.packages[-1] == "sib-server"
    removed = {str(path) for path in plan.remove}
    assert {"/var/lib/sib-server", "/var/lib/sib-loki", "/etc/sib/secrets"} <= removed
    assert "/var/lib/sib-server/pki" not in removed, "what lies in it goes with it"
    kept = {"/etc/sib", "/etc/sib/server.yaml", "/etc/sib/agent.yaml", "/etc/sib/outputs.yaml"}
    assert not removed & {*kept, "/var/lib", "/var/lib/sib-agent"}
    kept_all = plan_removal(
        paths, target=TARGET, purge=False, booted=False, manager=None, installed=[]
    )
    assert kept_all.lines() == []


def run(tmp_path: Path, *arguments: str) -> Result:
    tree = {
        "state": {"url": f"sqlite:///{tmp_path}/home/state.db"},
        "pki": {"directory": str(tmp_path / "home" / "pki")},
        "journal": {"path": str(tmp_path / "home" / "journal" / "journal.db")},
        "sigma": {"directory": str(tmp_path / "home" / "sigma")},
        "intel": {"directory": str(tmp_path / "home" / "intel")},
        "detection": {"directory": str(tmp_path / "home" / "rules")},
        "bundles": {"directory": str(tmp_path / "home" / "bundles")},
    }
    config = tmp_path / "etc" / "server.yaml"
    config.parent.mkdir(exist_ok=True)
    config.write_text(json.dumps(tree))
    return CliRunner().invoke(main, ["--config", str(config), "uninstall", *arguments], input="n\n")


@pytest.fixture
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sib_server.operations.removal._STATE", ())
    monkeypatch.setattr("sib_server.cli.uninstall.PACKAGES", ())
    monkeypatch.setattr("sib_server.cli.uninstall.booted", lambda: False)


@pytest.mark.usefixtures("_nothing_installed")
def test_the_command_asks_and_a_dry_run_does_nothing(tmp_path: Path) -> None:
    assert "nothing of SIB" in run(tmp_path).output
    pki = tmp_path / "home" / "pki"
    Authority.create(pki, "test")
    assert "nothing of SIB" in run(tmp_path).output
    for arguments in (("--purge", "--dry-run"), ("--purge", "--dry-run", "--json"), ("--purge",)):
        assert str(pki) in run(tmp_path, *arguments).output
        assert pki.is_dir()
    assert "backup" in run(tmp_path, "--purge", "--dry-run").output
    done = run(tmp_path, "--purge", "--yes")
    assert done.exit_code == 0, done.output
    assert not pki.exists()
    assert (tmp_path / "etc" / "server.yaml").exists()


@pytest.mark.usefixtures("_nothing_installed")
def test_daemons_that_go_on_keep_everything_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pki = tmp_path / "home" / "pki"
    Authority.create(pki, "test")
    monkeypatch.setattr("sib_server.cli.uninstall.booted", lambda: True)

    def refuse(*_: object, **__: object) -> None:
        raise subprocess.CalledProcessError(1, "systemctl")

    monkeypatch.setattr(subprocess, "run", refuse)
    assert run(tmp_path, "--purge", "--yes").exit_code == ExitCode.CONFLICT
    assert pki.is_dir()


def test_the_package_manager_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []
    monkeypatch.setattr("os.execv", lambda _program, command: ran.append(command))
    carry_out(removal.Removal(None, (), ("/usr/bin/apt-get", "remove", "x")))
    assert ran == [("/usr/bin/apt-get", "remove", "x")]


def test_what_is_installed_here_is_asked_for_real() -> None:
    assert find_installed(["no-such-package-of-sibs"]) == []
    if find_manager() == APT:
        assert find_installed(["dpkg"]) == ["dpkg"]
