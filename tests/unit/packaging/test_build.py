from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sib_packaging.build import Build, _falco_rules, build_component, build_python
from sib_packaging.components import Archive, parse_lock
from sib_packaging.errors import PackagingError
from sib_packaging.fetch import checksum
from sib_packaging.packages import AGENT, SERVER
from sib_packaging.trees import fetch_wheels, find_pythons, plan, unpack

ROOT = Path(__file__).resolve().parents[3]
# As much of a program as is looked at.
PROGRAM = b"\x7fELF" + bytes(14) + (62).to_bytes(2, "little")
LOCK = parse_lock((ROOT / "packaging/components.lock").read_text())


@pytest.fixture
def build(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Build:
    folder = tmp_path / "components" / "loki"
    folder.mkdir(parents=True)
    (folder / "loki").write_bytes(PROGRAM)
    (folder / "NOTICE").write_text("mind this")
    return Build(
        root=ROOT,
        output=tmp_path / "a",
        cache=tmp_path_factory.getbasetemp() / "package-cache",
        architecture="amd64",
        package_format="deb",
        version="1.2.3",
        epoch=1_700_000_000,
        components=tmp_path / "components",
        falco=LOCK["falco"],
        say=lambda _text: None,
    )


# Every module of SIB's in a package, each with all that it needs, from the package's trees alone.
IMPORT_ALL = """
import importlib, pkgutil, sys
home, *packages = sys.argv[1:]
sys.path[:0] = [f"{home}/{sys.version_info[0]}.{sys.version_info[1]}", f"{home}/common"]
for package in packages:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith(".__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)
elsewhere = [path for path in sys.path if "site-packages" in path or "dist-packages" in path]
strange = [
    module.__file__
    for module in sys.modules.values()
    if "-packages/" in (getattr(module, "__file__", None) or "")
]
print(len(sys.modules), elsewhere, strange)
"""


def check_pythons(home: Path, *packages: str) -> None:
    """Every Python of this machine runs what is in the trees, and writes nothing there."""
    before = sorted(home.rglob("*"))
    assert find_pythons()
    for python in find_pythons().values():
        started = subprocess.run(
            [python, "-I", "-S", "-B", str(home / "launch.py"), "--version"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert home.name in started.stdout
        done = subprocess.run(
            [python, "-I", "-S", "-B", "-W", "error", "-c", IMPORT_ALL, str(home), *packages],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{python}: {done.stderr}"
        count, rest = done.stdout.split(" ", 1)
        assert int(count) > 200
        assert rest == "[] []\n"
    assert sorted(home.rglob("*")) == before


def contents(package: Path, target: Path) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb not found: install dpkg")
    subprocess.run(["dpkg-deb", "-R", str(package), str(target)], check=True, timeout=60)
    return target


@pytest.mark.parametrize("package_format", ["deb", "rpm"])
def test_a_components_package_is_the_same_each_time(build: Build, package_format: str) -> None:
    one = replace(build, package_format=package_format)
    two = replace(one, output=build.output.with_name("b"))
    first, second = build_component(one, LOCK["loki"]), build_component(two, LOCK["loki"])
    assert checksum(first) == checksum(second)


def test_a_components_package_holds_what_it_should(build: Build, tmp_path: Path) -> None:
    found = contents(build_component(build, LOCK["loki"]), tmp_path / "x")
    assert (found / "usr/lib/sib-loki/loki").stat().st_mode & 0o777 == 0o755
    for path in ("systemd/system/sib-loki.service", "sysusers.d/sib-loki.conf"):
        assert (found / "usr/lib" / path).is_file()
    bill = json.loads((found / "usr/share/doc/sib-loki/sbom.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    given = bill["components"][0]
    assert (given["version"], given["purl"]) == ("3.7.8~given", "pkg:generic/loki@3.7.8~given")
    assert given["hashes"][0]["content"] == hashlib.sha256(PROGRAM).hexdigest()
    licences = found / "usr/share/doc/sib-loki/licences/loki"
    assert "AFFERO" in (licences / "AGPL-3.0-only.txt").read_text()
    assert (licences / "NOTICE").read_text() == "mind this"
    assert (
        "\nSource: https://github.com/grafana/loki\n" in (licences / "../../copyright").read_text()
    )
    for script in ("preinst", "postinst", "prerm", "postrm"):
        assert f"phase={script}\n" in (found / "DEBIAN" / script).read_text()


def test_a_program_that_is_not_there_is_named(build: Build) -> None:
    with pytest.raises(PackagingError, match="alloy/alloy is not there"):
        build_component(build, LOCK["alloy"])
    with pytest.raises(PackagingError, match="loki/loki is not for arm64"):
        build_component(replace(build, architecture="arm64"), LOCK["loki"])
    fetching = replace(build, components=None, architecture="arm64")
    with pytest.raises(PackagingError, match=r"alloy 1\.18\.1 on arm64"):
        build_component(fetching, LOCK["alloy"])


def test_what_belongs_to_a_given_program_is_taken_along(build: Build, tmp_path: Path) -> None:
    for name in (
        *("falco/falco", "falco/rules/falco_rules.yaml", "falco/plugins/libcontainer.so"),
        *("grafana/grafana", "grafana/public/a/b.js", "grafana/conf/defaults.ini"),
    ):
        path = tmp_path / "components" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "components/falco/VERSION").write_text("0.44.9\n")
    falco = build_component(build, LOCK["falco"])
    assert falco.name == "sib-falco_0.44.9_amd64.deb"
    home = contents(falco, tmp_path / "f") / "usr/lib/sib-falco"
    assert (home / "etc/falco_rules.yaml").is_file()
    assert (home / "share/plugins/libcontainer.so").is_file()
    home = contents(build_component(build, LOCK["grafana"]), tmp_path / "g") / "usr/lib/sib-grafana"
    files = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert files == {"bin/grafana", "public/a/b.js", "conf/defaults.ini"}


def test_falcos_archive_gives_its_rules_to_both_sides(build: Build, tmp_path: Path) -> None:
    top = "falco-0.44.1-x86_64"
    archive = tmp_path / "falco.tar.gz"
    with tarfile.open(archive, "w:gz") as opened:
        for name in (
            *("usr/bin/falco", "usr/share/falco/plugins/libcontainer.so"),
            *("etc/falco/falco_rules.yaml", "etc/falco/falco.yaml", "usr/src/x", "COPYING"),
        ):
            entry = tarfile.TarInfo(f"{top}/{name}")
            entry.size = 1
            opened.addfile(entry, io.BytesIO(b"x"))
    sha256 = checksum(archive)
    locked = replace(
        LOCK["falco"], archives={"amd64": Archive("https://x.example/falco.tar.gz", sha256)}
    )
    cache = tmp_path / "cache"
    cache.mkdir()
    archive.rename(cache / f"{sha256[:16]}-falco.tar.gz")
    fetching = replace(build, components=None, cache=cache, falco=locked)
    package = contents(build_component(fetching, locked), tmp_path / "f")
    licences = package / "usr/share/doc/sib-falco/licences/falco"
    assert [path.name for path in licences.iterdir()] == ["COPYING"]
    assert (licences / "../../LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    home = package / "usr/lib/sib-falco"
    files = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert files == {
        *("bin/falco", "share/plugins/libcontainer.so"),
        *("etc/falco_rules.yaml", "etc/falco.yaml"),
    }
    place = tmp_path / "rules"
    assert [item.name for item in _falco_rules(fetching, locked, place)] == ["falco-rules"]
    assert [path.name for path in place.iterdir()] == ["falco_rules.yaml"]
    said: list[str] = []
    lacking = replace(fetching, architecture="arm64", say=said.append)
    assert _falco_rules(lacking, locked, tmp_path / "none") == []
    assert "without Falco's own rules" in said[0]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_servers_package_is_complete_and_not_large(build: Build, tmp_path: Path) -> None:
    rules = tmp_path / "components/falco/rules/falco_rules.yaml"
    rules.parent.mkdir(parents=True)
    rules.write_text("[]\n")
    package = build_python(build, SERVER)
    assert package.stat().st_size < 80_000_000
    found = contents(package, tmp_path / "x")
    share = found / "usr/share/sib-server"
    assert (share / "falco-rules/falco_rules.yaml").is_file()
    shipped = {path.relative_to(share) for path in (share / "rules").rglob("*") if path.is_file()}
    ours = {path.relative_to(ROOT) for path in (ROOT / "rules").rglob("*") if path.is_file()}
    assert shipped == ours
    doc = found / "usr/share/doc/sib-server"
    bill = json.loads((doc / "sbom.cdx.json").read_text())
    assert {"falco_rules.yaml", "starlette"} <= {item["name"] for item in bill["components"]}
    # What a unit points to as its documentation is there.
    for unit in (found / "usr/lib/systemd/system").iterdir():
        for place in re.findall(r"(?m)^Documentation=file://(\S+)$", unit.read_text()):
            assert (found / place.removeprefix("/")).is_file(), unit
    check_pythons(found / "usr/lib/sib-server", *SERVER.own)
    command = (found / "usr/bin/sib-server").read_text()
    assert 'exec "/usr/bin/python$version" -I -S -B ' in command
    # Not one file of the distribution's, nor a place to write to.
    assert {path.name for path in (found / "usr/lib").iterdir()} == {
        *("sib-server", "systemd", "sysusers.d", "tmpfiles.d")
    }


def test_two_builds_at_once_fill_the_cache_of_wheels_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "part-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        about = "Metadata-Version: 2.1\nName: part\nVersion: 1.0\n"
        archive.writestr("part-1.0.dist-info/METADATA", about)
        archive.writestr("part-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("part-1.0.dist-info/RECORD", "")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"part==1.0 --hash=sha256:{checksum(wheel)}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with ThreadPoolExecutor(3) as threads:
        again = [threads.submit(fetch_wheels, lock, "amd64", tmp_path / "cache") for _ in range(3)]
        found = [one.result(100) for one in again]
    assert found[0] == found[1] == found[2]
    assert [[path.name for path in paths] for paths in found[0].values()] == [[wheel.name]] * 3


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("package_format", ["deb", "rpm"])
def test_another_checkout_elsewhere_makes_the_same_bytes(
    build: Build, tmp_path: Path, package_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = replace(build, package_format=package_format)
    first = build_python(here, AGENT)
    assert first.stat().st_size < 20_000_000
    for name in ("packaging", "systemd", "docs", "requirements", *AGENT.own):
        shutil.copytree(
            ROOT / name,
            tmp_path / "elsewhere" / name,
            ignore=shutil.ignore_patterns("__pycache__"),
            copy_function=shutil.copyfile,
        )
    shutil.copyfile(ROOT / "LICENSE", tmp_path / "elsewhere/LICENSE")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    mask = os.umask(0o077)
    try:
        there = replace(
            here,
            root=tmp_path / "elsewhere",
            output=build.output.with_name("b"),
            cache=build.cache.with_name("another-cache"),
        )
        second = build_python(there, AGENT)
    finally:
        os.umask(mask)
    assert checksum(first) == checksum(second)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_agents_package_holds_what_it_should(build: Build, tmp_path: Path) -> None:
    found = contents(build_python(build, AGENT), tmp_path / "x")
    assert (found / "DEBIAN/conffiles").read_text() == "/etc/sib/agent.yaml\n"
    assert (found / "etc/sib/agent.yaml").stat().st_mode & 0o777 == 0o640
    doc = found / "usr/share/doc/sib-agent"
    bill = json.loads((doc / "sbom.cdx.json").read_text())
    assert {"cryptography", "msgspec", "sdnotify"} <= {item["name"] for item in bill["components"]}
    assert all(item["licenses"] for item in bill["components"])
    # What each came in is what the lock allows, one that was built here included.
    lock = (ROOT / "requirements/agent.txt").read_text()
    assert all(item["hashes"][0]["content"] in lock for item in bill["components"])
    home = found / "usr/lib/sib-agent"
    assert not (home / "common/sib_server").exists()
    check_pythons(home, *AGENT.own)
    # Of every dependency its licence, and of every Python on this machine the bytecode.
    assert {path.name for path in (doc / "licences").iterdir()} == {
        item["name"] for item in bill["components"]
    }
    modules = [path for path in home.rglob("*.py") if path.name != "launch.py"]
    for version in find_pythons():
        tag = f"cpython-{version.replace('.', '')}"
        lacking = [
            path
            for path in modules
            if path.relative_to(home).parts[0] in {"common", version}
            and not (path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc").is_file()
        ]
        assert lacking == []


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in files.items():
            opened.writestr(name, content)
    return path


def test_wheels_share_a_tree_unless_they_disagree(tmp_path: Path) -> None:
    wheels = {}
    for version in ("3.11", "3.12"):
        tag = f"cp{version.replace('.', '')}"
        here = tmp_path / version
        wheels[version] = [
            wheel(here / "pure-1-py3-none-any.whl", {"pure.py": b"1"}),
            wheel(here / f"fast-1-{tag}-{tag}-any.whl", {"f.py": b"", f"f.{tag}.so": tag.encode()}),
            wheel(here / f"odd-1-{tag}-{tag}-any.whl", {"odd.py": tag.encode()}),
        ]
    trees = plan(wheels)
    names = {tree: [path.name.split("-")[0] for path in paths] for tree, paths in trees.items()}
    assert names == {"common": ["fast", "fast", "pure"], "3.11": ["odd"], "3.12": ["odd"]}


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../../x.py"])
def test_a_wheel_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    path = wheel(tmp_path / "w" / "bad-1-py3-none-any.whl", {name: b""})
    with pytest.raises(PackagingError, match="has a file"):
        unpack(path, tmp_path / "tree")


def test_a_wheels_data_and_licences_go_to_their_places(tmp_path: Path) -> None:
    path = wheel(
        tmp_path / "w" / "x-1-py3-none-any.whl",
        {
            "x-1.data/platlib/x.py": b"1",
            "x-1.data/scripts/x": b"no",
            "x-1.dist-info/METADATA": b"Name: X\nVersion: 1\nLicense-Expression: MIT\n\nbody",
            "x-1.dist-info/licenses/LICENSE": b"text",
            "x-1.dist-info/RECORD": b"",
        },
    )
    found = unpack(path, tmp_path / "tree")
    assert (found.name, found.version, found.licence) == ("x", "1", "MIT")
    assert found.texts == {"LICENSE": b"text"}
    files = {item.name for item in (tmp_path / "tree").rglob("*") if item.is_file()}
    assert files == {"x.py", "METADATA"}
