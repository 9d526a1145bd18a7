from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sib_packaging.scripts import PHASES, maintainer_script

BODY = (Path(__file__).resolve().parents[3] / "packaging/maintain.sh").read_text()
FRESH = "var/lib/sib-packages/sib-x.fresh"


class Host:
    """A root directory and a systemctl that writes down what it was told."""

    def __init__(self, directory: Path, *, booted: bool = True, failing: bool = False) -> None:
        self.root = directory / "root"
        self.log = directory / "log"
        programs = directory / "bin"
        programs.mkdir()
        for name in ("systemctl", "systemd-sysusers", "systemd-tmpfiles"):
            status = 1 if failing else 0
            (programs / name).write_text(
                f'#!/bin/sh\necho "{name} $*" >>"{self.log}"\n'
                # is-failed says 1 for a unit that is well.
                f'case "$1" in is-failed) exit {1 - status} ;; esac\nexit {status}\n'
            )
            (programs / name).chmod(0o755)
        self.environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        for path in ("var/lib/sib-x", "etc/sib", "usr/lib/sysusers.d"):
            (self.root / path).mkdir(parents=True)
        (self.root / "var/lib/sib-x/state").write_text("precious")
        (self.root / "usr/lib/sysusers.d/sib-x.conf").write_text("")
        if booted:
            (self.root / "run/systemd/system").mkdir(parents=True)

    def run(self, package_format: str, phase: str, *arguments: str) -> tuple[list[str], str]:
        """What was called, less the preparations, and what was said; it must succeed."""
        self.log.write_text("")
        script = maintainer_script(
            BODY,
            package="sib-x",
            phase=phase,
            package_format=package_format,
            units=("sib-x.target", "sib-x.service"),
            state=("/var/lib/sib-x",),
            root=str(self.root),
        )
        done = subprocess.run(
            ["sh", "-eu", "-c", script, "script", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        calls = self.log.read_text().replace("systemctl ", "").splitlines()
        return [call.replace("--quiet ", "") for call in calls], done.stderr

    @property
    def state(self) -> bool:
        return (self.root / "var/lib/sib-x/state").exists()

    @property
    def fresh(self) -> bool:
        return (self.root / FRESH).exists()


BEGUN = ["enable sib-x.target", "enable sib-x.service", "start sib-x.target", "start sib-x.service"]
RENEWED = ["is-failed sib-x.target", "is-failed sib-x.service", "try-restart sib-x.service"]
STOPPED = [
    *("stop sib-x.target", "disable sib-x.target"),
    *("stop sib-x.service", "disable sib-x.service"),
]

# Every argument that dpkg (Debian policy 6.5) and rpm give, in the state without a fresh mark.
TABLE: dict[tuple[str, ...], list[str]] = {
    ("deb", "preinst", "install"): [],
    ("deb", "preinst", "install", "1.0"): [],
    ("deb", "preinst", "upgrade", "1.0"): [],
    ("deb", "preinst", "abort-upgrade", "2.0"): [],
    ("deb", "postinst", "configure", "1.0"): RENEWED,
    ("deb", "postinst", "abort-upgrade", "2.0"): [],
    ("deb", "postinst", "abort-remove"): BEGUN,
    ("deb", "postinst", "abort-remove", "in-favour", "other", "1.0"): BEGUN,
    ("deb", "postinst", "abort-deconfigure", "in-favour", "other", "1.0"): BEGUN,
    ("deb", "postinst", "triggered", "name"): [],
    ("deb", "prerm", "remove"): STOPPED,
    ("deb", "prerm", "remove", "in-favour", "other", "1.0"): STOPPED,
    ("deb", "prerm", "deconfigure", "in-favour", "other", "1.0"): STOPPED,
    ("deb", "prerm", "upgrade", "2.0"): [],
    ("deb", "prerm", "failed-upgrade", "1.0"): [],
    ("deb", "postrm", "remove"): ["daemon-reload"],
    ("deb", "postrm", "purge"): ["daemon-reload"],
    ("deb", "postrm", "upgrade", "2.0"): [],
    ("deb", "postrm", "failed-upgrade", "1.0"): [],
    ("deb", "postrm", "abort-install"): [],
    ("deb", "postrm", "abort-install", "1.0"): [],
    ("deb", "postrm", "abort-upgrade", "1.0"): [],
    ("deb", "postrm", "disappear", "other", "1.0"): [],
    ("rpm", "preinst", "1"): [],
    ("rpm", "preinst", "2"): [],
    ("rpm", "posttrans", "1"): RENEWED,
    ("rpm", "posttrans", "2"): RENEWED,
    ("rpm", "posttrans"): RENEWED,
    ("rpm", "prerm", "0"): STOPPED,
    ("rpm", "prerm", "1"): [],
    ("rpm", "postrm", "0"): ["daemon-reload"],
    ("rpm", "postrm", "1"): [],
}


def without_preparations(calls: list[str]) -> list[str]:
    kept = [call for call in calls if not call.startswith("systemd-")]
    return kept[1:] if kept[:1] == ["daemon-reload"] and len(kept) > 1 else kept


@pytest.mark.parametrize("case", TABLE, ids="-".join)
def test_each_argument_does_what_it_should(case: tuple[str, ...], tmp_path: Path) -> None:
    host = Host(tmp_path)
    calls, said = host.run(*case)
    assert without_preparations(calls) == TABLE[case]
    assert said == ""
    assert host.state == (case[1:] != ("postrm", "purge"))
    assert host.fresh == (case[1:3] in {("preinst", "install"), ("preinst", "1")})


@pytest.mark.parametrize("case", TABLE, ids="-".join)
def test_nothing_that_fails_breaks_the_package_manager(
    case: tuple[str, ...], tmp_path: Path
) -> None:
    calls, said = Host(tmp_path, failing=True).run(*case)
    assert bool(said) == bool(calls)
    if any(call.startswith("start") for call in calls):
        assert "journalctl -u sib-x.service" in said


@pytest.mark.parametrize("package_format", PHASES)
def test_a_fresh_installation_starts_and_a_second_configure_only_renews(
    package_format: str, tmp_path: Path
) -> None:
    host = Host(tmp_path)
    first = {"deb": ("preinst", "install"), "rpm": ("preinst", "1")}[package_format]
    settle = {"deb": ("postinst", "configure", ""), "rpm": ("posttrans", "1")}[package_format]
    host.run(package_format, *first)
    calls, _ = host.run(package_format, *settle)
    assert calls[:2] == [
        f"systemd-sysusers {host.root}/usr/lib/sysusers.d/sib-x.conf",
        f"systemd-tmpfiles --create {host.root}/usr/lib/tmpfiles.d/sib-x.conf",
    ]
    assert without_preparations(calls) == BEGUN
    assert without_preparations(host.run(package_format, *settle)[0]) == RENEWED


def test_without_a_running_systemd_units_are_only_enabled(tmp_path: Path) -> None:
    host = Host(tmp_path, booted=False)
    host.run("deb", "preinst", "install")
    calls, said = host.run("deb", "postinst", "configure", "")
    assert without_preparations(calls) == BEGUN[:2]
    assert said == ""


def test_an_installation_given_up_leaves_no_mark(tmp_path: Path) -> None:
    host = Host(tmp_path)
    host.run("deb", "preinst", "install")
    host.run("deb", "postrm", "abort-install")
    assert not host.fresh
