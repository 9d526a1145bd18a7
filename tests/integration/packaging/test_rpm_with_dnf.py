"""The rpm packages, resolved and verified by a real dnf in a root of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sib_packaging.build import Build, build_component, build_python
from sib_packaging.components import parse_lock
from sib_packaging.packages import AGENT, SERVER
from sib_packaging.repository.folder import Plan, build_repository
from sib_packaging.repository.signing import make_key, run
from tests.support.lint import rpmlint

ROOT = Path(__file__).resolve().parents[3]
LOCK = parse_lock((ROOT / "packaging/components.lock").read_text())
# What each distribution's base has: package -> what it provides.
BASES = {
    "el9": {
        "systemd": [],
        "glibc": [],
        "python3": ["python(abi) = 3.9"],
        "python3.12": ["python(abi) = 3.12"],
    },
    "fedora": {"systemd": [], "glibc": [], "python3": ["python(abi) = 3.13"]},
    "el9-without-python": {"systemd": [], "glibc": [], "python3": ["python(abi) = 3.9"]},
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for program in ("dnf", "rpm", "rpmsign", "createrepo_c"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} not found: install dnf, rpm, createrepo-c")
    return tmp_path_factory.mktemp("dnf")


@pytest.fixture(scope="module")
def plan(work: Path) -> Iterator[Plan]:
    program = work / "components/loki/loki"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/true", program)
    build = Build(
        root=ROOT,
        output=work / "dist",
        cache=Path.home() / ".cache/sib-packages",
        architecture="amd64",
        package_format="rpm",
        version="1.2.3",
        epoch=1_700_000_000,
        components=work / "components",
        falco=None,
        say=lambda _text: None,
    )
    build_component(build, LOCK["loki"])
    for package in (SERVER, AGENT):
        build_python(build, package)
    for base, packages in BASES.items():
        for name, provides in packages.items():
            dummy(work / "bases" / base, name, provides)
        run(["createrepo_c", "--quiet", str(work / "bases" / base)])
    home = work / "g"
    yield Plan(
        packages=work / "dist",
        output=work / "repository",
        url=f"file://{work / 'repository'}",
        key=make_key(home, "Tests <tests@example.org>"),
        epoch=1_700_000_000,
        valid_days=None,
        say=lambda _text: None,
    )
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], timeout=20, check=False)


def dummy(folder: Path, name: str, provides: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "nfpm.json"
    config.write_text(
        json.dumps(
            {
                "name": name,
                "arch": "amd64",
                "version": "999",
                "maintainer": "x <x@localhost>",
                "description": name,
                "provides": [*provides, "/bin/sh"],
            }
        )
    )
    nfpm = ROOT / ".venv/bin/nfpm"
    target = str(folder / f"{name}.rpm")
    run([str(nfpm), "package", "--config", str(config), "--packager", "rpm", "--target", target])


def dnf(
    work: Path, root: Path, base: str, *command: str, packages: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run dnf with the published sib.repo and a base as its only repositories."""
    config = root.with_name(root.name + "-repos")
    config.mkdir(exist_ok=True)
    published = (work / "repository/rpm/sib.repo").read_text()
    key = "gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-sib"
    assert key in published
    text = published.replace(key, f"gpgkey=file://{work}/repository/sib.asc")
    if packages is not None:
        text = text.replace(f"file://{work}/repository/rpm/$basearch", packages)
    (config / "sib.repo").write_text(
        f"{text}[base]\nname=base\nbaseurl=file://{work}/bases/{base}\ngpgcheck=0\n"
    )
    return subprocess.run(
        [
            *("dnf", "-y", f"--installroot={root}", "--releasever=9", "--disableplugin=*"),
            *(f"--setopt=reposdir={config}", f"--setopt=cachedir={root}-cache"),
            *("--setopt=tsflags=noscripts", *command),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_packages_are_not_large_and_rpmlint_has_no_error_to_say(plan: Plan) -> None:
    packages = {path.name.split("_")[0]: path for path in plan.packages.glob("*.rpm")}
    assert packages["sib-agent"].stat().st_size < 20_000_000
    assert packages["sib-server"].stat().st_size < 80_000_000
    assert rpmlint(list(packages.values())) == []


@pytest.mark.parametrize("base", ["el9", "fedora"])
def test_dependencies_resolve(plan: Plan, work: Path, tmp_path: Path, base: str) -> None:
    build_repository(plan)
    done = dnf(work, tmp_path / "root", base, "install", "sib-server", "sib-agent", "sib-loki")
    assert done.returncode == 0, done.stdout + done.stderr
    listed = run(["rpm", "--root", str(tmp_path / "root"), "-qa"]).decode()
    assert {"sib-server-1.2.3-1.x86_64", "sib-agent-1.2.3-1.x86_64"} <= set(listed.split())
    assert ("python3.12-" in listed) == (base == "el9")
    owner = run(["rpm", "--root", str(tmp_path / "root"), "-V", "--noscripts", "sib-agent"])
    assert owner == b""


def test_without_a_python_that_fits_it_says_so(plan: Plan, work: Path, tmp_path: Path) -> None:
    build_repository(plan)
    done = dnf(work, tmp_path / "root", "el9-without-python", "install", "sib-agent")
    assert done.returncode != 0
    assert "python(abi) = 3.12" in done.stderr


def test_what_is_not_signed_by_the_key_is_refused(plan: Plan, work: Path, tmp_path: Path) -> None:
    build_repository(plan)
    # A repository whose index is signed, as a thief of the web server's disk could not make it,
    # over packages that are not.
    folder = work / "unsigned"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in plan.packages.glob("*.rpm"):
        shutil.copy(path, folder)
    run(["createrepo_c", "--quiet", str(folder)])
    where = f"file://{folder}"
    done = dnf(work, tmp_path / "a", "el9", "install", "sib-agent", packages=where)
    assert done.returncode != 0
    assert "repomd.xml.asc" in done.stdout + done.stderr
    unchecked = "--setopt=sib.repo_gpgcheck=0"
    done = dnf(work, tmp_path / "b", "el9", unchecked, "install", "sib-agent", packages=where)
    assert done.returncode != 0
    assert "is not signed" in done.stdout + done.stderr

    index = plan.output / "rpm/x86_64/repodata/repomd.xml"
    index.write_text(index.read_text().replace("</repomd>", "<!-- --></repomd>"))
    done = dnf(work, tmp_path / "c", "el9", "install", "sib-agent")
    assert done.returncode != 0
    assert "repomd.xml" in done.stdout + done.stderr

    build_repository(replace(plan, key=make_key(plan.key.home, "Else <else@example.org>")))
    signed_by_another = plan.output.with_name("other")
    shutil.rmtree(signed_by_another, ignore_errors=True)
    plan.output.rename(signed_by_another)
    build_repository(plan)
    where = f"file://{signed_by_another}/rpm/x86_64"
    done = dnf(work, tmp_path / "d", "el9", unchecked, "install", "sib-agent", packages=where)
    assert done.returncode != 0
    assert "GPG" in done.stdout + done.stderr
