from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sib_packaging.build import Build, build_component
from sib_packaging.components import parse_lock
from sib_packaging.errors import PackagingError
from sib_packaging.fetch import checksum
from sib_packaging.repository.folder import Plan, build_repository, read_deb
from sib_packaging.repository.signing import find_key, make_key

ROOT = Path(__file__).resolve().parents[3]
LOCK = parse_lock((ROOT / "packaging/components.lock").read_text())
EPOCH = 1_700_000_000
OWNER = "Tests <tests@example.org>"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def gnupg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    for program in ("gpg", "dpkg-deb", "rpmsign", "createrepo_c"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} not found: install gpg, rpm, createrepo-c")
    home = tmp_path_factory.mktemp("g")
    yield home
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], timeout=20, check=False)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, gnupg: Path) -> Plan:
    work = tmp_path_factory.mktemp("w")
    for name in ("loki", "prometheus"):
        program = work / "components" / name / name
        program.parent.mkdir(parents=True)
        program.write_bytes(b"\x7fELF" + name.encode())
    for package_format in ("deb", "rpm"):
        build = Build(
            root=ROOT,
            output=work / "dist",
            cache=work / "cache",
            architecture="amd64",
            package_format=package_format,
            version="1.2.3",
            epoch=EPOCH,
            components=work / "components",
            falco=None,
            say=lambda _text: None,
        )
        for name in ("loki", "prometheus"):
            build_component(build, LOCK[name])
    return Plan(
        packages=work / "dist",
        output=work / "repository",
        url=f"file://{work / 'repository'}",
        key=make_key(gnupg, OWNER),
        epoch=EPOCH,
        valid_days=None,
        say=lambda _text: None,
    )


@dataclass(frozen=True)
class Apt:
    """apt with directories of its own, and the repository as its one source."""

    home: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        options = {
            "Dir": self.home,
            "Dir::State::status": self.home / "status",
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
        }
        # Read before this machine's own settings, in whose place it puts none.
        config = self.home / "apt.conf"
        config.write_text("".join(f'{name} "{value}";\n' for name, value in options.items()))
        return subprocess.run(
            ["apt-get", *command],
            cwd=self.home,
            env={**os.environ, "LC_ALL": "C", "APT_CONFIG": str(config)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def apt(tmp_path: Path, plan: Plan) -> Apt:
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get not found: install apt")
    for name in (
        "etc/apt/apt.conf.d",
        "etc/apt/preferences.d",
        "etc/apt/sources.list.d",
        "var/lib/apt/lists/partial",
        "var/cache/apt/archives/partial",
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "status").touch()
    build_repository(plan)
    shutil.copy(plan.output / "deb/sib.sources", tmp_path / "etc/apt/sources.list.d")
    return Apt(tmp_path)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): checksum(path)
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_same_packages_make_the_same_repository(plan: Plan) -> None:
    build_repository(plan)
    first = tree(plan.output)
    build_repository(plan)
    assert tree(plan.output) == first
    assert {
        "README.html",
        "sib.asc",
        "deb/dists/stable/InRelease",
        "deb/pool/main/sib-loki/sib-loki_3.7.8~given-1_amd64.deb",
        "rpm/x86_64/repodata/repomd.xml.asc",
        "rpm/x86_64/sib-loki-3.7.8~given-1.x86_64.rpm",
    } <= first.keys()


def test_apt_takes_what_is_signed(apt: Apt) -> None:
    done = apt.run("update")
    assert (done.returncode, done.stderr) == (0, "")
    done = apt.run("download", "sib-loki")
    assert done.returncode == 0, done.stderr
    assert read_deb(apt.home / "sib-loki_3.7.8~given-1_amd64.deb").version == "3.7.8~given-1"


def test_apt_refuses_what_is_changed_or_signed_by_another(
    apt: Apt, plan: Plan, gnupg: Path
) -> None:
    release = plan.output / "deb/dists/stable"
    for path in (*release.rglob("Packages*"), *release.rglob("by-hash/*/*")):
        if path.is_file():
            path.write_bytes(path.read_bytes() + b"\n")
    assert apt.run("update").returncode == 100

    build_repository(plan)
    text = (release / "InRelease").read_text()
    (release / "InRelease").write_text(text.replace("Label: SIEM", "Label: siem"))
    (release / "Release.gpg").unlink()
    assert apt.run("update").returncode == 100

    other = make_key(gnupg, "Somebody else <else@example.org>")
    source = (apt.home / "etc/apt/sources.list.d/sib.sources").read_text()
    build_repository(replace(plan, key=other))
    assert "NO_PUBKEY" in apt.run("update").stderr
    assert (plan.output / "deb/sib.sources").read_text() != source


def test_apt_refuses_a_package_that_is_not_the_indexed_one(apt: Apt, plan: Plan) -> None:
    assert apt.run("update").returncode == 0
    path = plan.output / "deb/pool/main/sib-loki/sib-loki_3.7.8~given-1_amd64.deb"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    assert apt.run("download", "sib-loki").returncode == 100


def test_apt_refuses_a_repository_that_was_held_back(apt: Apt, plan: Plan) -> None:
    build_repository(replace(plan, valid_days=10))
    assert "expired" in apt.run("update").stderr


def test_a_second_package_of_one_name_is_refused(plan: Plan, tmp_path: Path) -> None:
    for path in plan.packages.glob("sib-loki*.deb"):
        shutil.copy(path, tmp_path / "a.deb")
        shutil.copy(path, tmp_path / "b.deb")
    with pytest.raises(PackagingError, match="which one is meant"):
        build_repository(replace(plan, packages=tmp_path, output=tmp_path / "r"))


def test_nothing_that_is_no_repository_is_replaced(plan: Plan, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter").write_text("dear")
    with pytest.raises(PackagingError, match="is no repository"):
        build_repository(replace(plan, output=tmp_path / "mine"))
    assert (tmp_path / "mine/letter").read_text() == "dear"
    with pytest.raises(PackagingError, match="has no packages"):
        build_repository(replace(plan, packages=tmp_path / "mine"))


def test_a_key_is_named_in_full_and_made_once(plan: Plan, gnupg: Path) -> None:
    assert find_key(gnupg, plan.key.fingerprint.lower()) == plan.key
    with pytest.raises(PackagingError, match="40 hex digits"):
        find_key(gnupg, plan.key.fingerprint[-16:])
    with pytest.raises(PackagingError, match="no secret key"):
        find_key(gnupg, "0" * 40)
    with pytest.raises(PackagingError, match="already"):
        make_key(gnupg, OWNER)


def test_the_command(plan: Plan, gnupg: Path, tmp_path: Path) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sib_packaging.repository.command", *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT / "packaging")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    key = ("--gnupg-home", str(gnupg), "--key", plan.key.fingerprint)
    where = ("--packages", str(plan.packages), "--output", str(tmp_path / "out"))
    done = command(*key, *where, "--url", "https://packages.example.org/sib/")
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "out/rpm/sib.repo").read_text()
    assert "baseurl=https://packages.example.org/sib/rpm/$basearch\n" in text
    assert command(*key, *where, "--url", "ftp://x").returncode == 2
    assert command(*where).returncode == 2
    assert "no secret key" in command("--key", "0" * 40, *key[:2], *where).stderr
