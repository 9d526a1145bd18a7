"""Stage a package's files, and have nfpm make deb or rpm of them."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Final

from sib_packaging.components import Component
from sib_packaging.errors import PackagingError
from sib_packaging.fetch import checksum, fetch
from sib_packaging.given import (
    archive_licences,
    given_licences,
    given_version,
    take,
    take_given,
)
from sib_packaging.gomodules import go_modules
from sib_packaging.manual import manual_files
from sib_packaging.packages import Package, component_package
from sib_packaging.sbom import Material, render
from sib_packaging.scripts import PHASES, maintainer_script
from sib_packaging.texts import DESCRIPTION, MAINTAINER, changelog, copyright_text
from sib_packaging.trees import build_trees, compile_trees, fetch_wheels, find_pythons

_NFPM_PHASE: Final = {"preinst": "preinstall", "prerm": "preremove", "postrm": "postremove"}


@dataclass(frozen=True, slots=True)
class Build:
    """How to build.

    Attributes:
        root: SIB's checkout.
        output: where packages go.
        cache: verified archives and wheels.
        architecture: Debian's name.
        package_format: deb or rpm.
        version: SIB's.
        epoch: SOURCE_DATE_EPOCH.
        components: a folder ``NAME/NAME`` of programs, or None to fetch.
        falco: whose own rules go to the server, or None.
        say: told what happens.
    """

    root: Path
    output: Path
    cache: Path
    architecture: str
    package_format: str
    version: str
    epoch: int
    components: Path | None
    falco: Component | None
    say: Callable[[str], None]


def build_python(build: Build, package: Package) -> Path:
    """Build sib-server or sib-agent.

    Raises:
        PackagingError: something that it needs cannot be had.
    """
    lock = build.root / "requirements" / f"{package.name.removeprefix('sib-')}.txt"
    wheels = fetch_wheels(lock, build.architecture, build.cache)
    with tempfile.TemporaryDirectory(prefix="sib-build-") as temporary:
        stage = Path(temporary) / "stage"
        home = stage / "usr/lib" / package.name
        found = build_trees(wheels, [build.root / name for name in package.own], home)
        command = stage / "usr/bin" / package.name
        command.parent.mkdir(parents=True)
        for source, target in (("command.sh", command), ("launch.py", home / "launch.py")):
            text = (build.root / "packaging/launch" / source).read_text()
            text = text.replace("@PACKAGE@", package.name).replace("@MODULE@", package.module)
            target.write_text(text)
        command.chmod(0o755)
        compile_trees(home, f"/usr/lib/{package.name}", find_pythons())
        manual = manual_files(package.name, build.version, build.epoch, build.package_format)
        for name, content in manual.items():
            _made((stage / name).parent).joinpath(Path(name).name).write_bytes(content)
        doc = stage / "usr/share/doc" / package.name
        for item in found:
            texts = {**_known_texts(build, item.licence), **item.texts}
            _write(doc / "licences" / item.name, texts)
        materials = [
            Material(
                item.name,
                item.version,
                f"pkg:pypi/{item.name}@{item.version}",
                item.licence,
                item.sha256,
            )
            for item in found
        ]
        for guide in sorted((build.root / "docs").glob("*.md")):
            shutil.copy(guide, _made(doc) / guide.name)
        share = stage / "usr/share" / package.name
        for name in package.data:
            if (build.root / name).is_dir():
                shutil.copytree(build.root / name, share / name)
        if "rules" in package.data and build.falco is not None:
            materials += _falco_rules(build, build.falco, share / "falco-rules")
        return _pack(
            build,
            package,
            version=build.version,
            licence="Apache-2.0",
            source="",
            stage=stage,
            materials=materials,
        )


def build_component(build: Build, component: Component) -> Path:
    """Build a component's package, of a given program or of the locked archive.

    Raises:
        PackagingError: neither can be had.
    """
    package = component_package(component.name, component.description)
    with tempfile.TemporaryDirectory(prefix="sib-build-") as temporary:
        stage = Path(temporary) / "stage"
        home = _made(stage / "usr/lib" / package.name)
        if build.components is not None:
            folder = build.components / component.name
            version = given_version(component, folder)
            given = take_given(folder, component.name, build.architecture, home)
            sha256 = checksum(given)
            texts = given_licences(folder)
            purl = f"pkg:generic/{component.name}@{version}"
        else:
            version = component.version
            archive = _fetched(build, component)
            take(archive, component.files, build.architecture, home)
            texts = archive_licences(archive)
            sha256 = component.archive(build.architecture).sha256
            purl = _purl(component)
        texts = {**_known_texts(build, component.licence), **texts}
        _write(stage / "usr/share/doc" / package.name / "licences" / component.name, texts)
        materials = [Material(component.name, version, purl, component.licence, sha256)]
        for path in sorted(path for path in home.rglob("*") if path.is_file()):
            materials += [
                Material(part.path, part.version, part.purl, "", "") for part in go_modules(path)
            ]
        return _pack(
            build,
            package,
            version=version,
            licence=component.licence,
            source=component.source,
            stage=stage,
            materials=list(dict.fromkeys(materials)),
        )


def _known_texts(build: Build, licence: str) -> dict[str, bytes]:
    """The texts of licences that ask for a copy to go along, which not every release has.

    That of Apache-2.0 is in every package, as SIB's own.
    """
    return {
        path.name: path.read_bytes()
        for path in sorted((build.root / "packaging/licences").glob("*.txt"))
        if path.stem in licence.split()
    }


def _write(folder: Path, texts: Mapping[str, bytes]) -> None:
    for name, content in texts.items():
        _made(folder).joinpath(name).write_bytes(content)


def _purl(component: Component) -> str:
    repository = component.source.removeprefix("https://github.com/")
    return f"pkg:github/{repository}@v{component.version}"


def _fetched(build: Build, component: Component) -> Path:
    archive = component.archive(build.architecture)
    return fetch(archive, build.cache, lambda here, all_: _progress(archive.name, here, all_))


def _falco_rules(build: Build, falco: Component, place: Path) -> list[Material]:
    """Falco's own rules, which rules are checked against; without them the server says so."""
    if build.components is None:
        rules = {"*/etc/falco/falco_rules.yaml": "falco_rules.yaml"}
        try:
            take(_fetched(build, falco), rules, build.architecture, place)
        except PackagingError as error:
            build.say(f"sib-server is built without Falco's own rules: {error}")
            return []
        sha256 = falco.archive(build.architecture).sha256
        return [Material("falco-rules", falco.version, _purl(falco), falco.licence, sha256)]
    folder = build.components / "falco"
    found = sorted((folder / "rules").glob("*.yaml"))
    if not found:
        build.say(f"sib-server is built without Falco's own rules: none in {folder / 'rules'}")
    version = given_version(falco, folder)
    for path in found:
        shutil.copy(path, _made(place) / path.name)
    return [
        Material(
            path.name, version, f"pkg:generic/{path.name}@{version}", falco.licence, checksum(path)
        )
        for path in found
    ]


def _progress(name: str, here: int, all_: int | None) -> None:
    if sys.stderr.isatty():
        share = f"{100 * here // all_:3d} %" if all_ else ""
        sys.stderr.write(f"\r{name}: {here >> 20} MiB {share}")


def _made(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _pack(
    build: Build,
    package: Package,
    *,
    version: str,
    licence: str,
    source: str,
    stage: Path,
    materials: list[Material],
) -> Path:
    systemd = build.root / "systemd"
    for unit in (*package.units, *package.unit_files):
        shutil.copy(systemd / unit, _made(stage / "usr/lib/systemd/system") / unit)
    for kind in ("sysusers.d", "tmpfiles.d"):
        snippet = systemd / kind / f"{package.name}.conf"
        if snippet.exists():
            shutil.copy(snippet, _made(stage / "usr/lib" / kind) / snippet.name)
    doc = _made(stage / "usr/share/doc" / package.name)
    shutil.copy(build.root / "LICENSE", doc / "LICENSE")
    (doc / "copyright").write_text(copyright_text(package.name, version, licence, source))
    if build.package_format == "deb":
        overrides = _made(stage / "usr/share/lintian/overrides") / package.name
        shutil.copy(build.root / "packaging/lint/lintian.overrides", overrides)
        log = changelog(package.name, f"{version}-1", build.epoch)
        (doc / "changelog.Debian.gz").write_bytes(gzip.compress(log, 9, mtime=0))
    (doc / "sbom.cdx.json").write_text(render(package.name, version, materials, build.epoch))
    for name, place in package.config:
        target = stage / place.removeprefix("/")
        shutil.copy(build.root / "packaging/etc" / name, _made(target.parent) / target.name)
    config = {place for _, place in package.config}
    contents = _contents(stage, config, build.epoch, rpm=build.package_format == "rpm")
    scripts = _scripts(build, package, stage.parent)
    suffix = {"deb": "deb", "rpm": "rpm"}[build.package_format]
    recipe = _nfpm(
        build, package, version=version, licence=licence, contents=contents, scripts=scripts
    )
    path = stage.parent / "nfpm.json"
    path.write_text(json.dumps(recipe))
    output = _made(build.output) / f"{package.name}_{version}_{build.architecture}.{suffix}"
    done = subprocess.run(
        [
            *(_find_nfpm(), "package", "--config", str(path)),
            *("--packager", build.package_format, "--target", str(output)),
        ],
        env={**os.environ, "SOURCE_DATE_EPOCH": str(build.epoch)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PackagingError(f"nfpm failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    build.say(f"{output}  {output.stat().st_size / 1e6:.1f} MB")
    return output


def _find_nfpm() -> str:
    beside = Path(sys.executable).with_name("nfpm")
    found = str(beside) if beside.is_file() else shutil.which("nfpm")
    if found is None:
        raise PackagingError("nfpm is not there: pip install nfpm")
    return found


def _contents(stage: Path, config: set[str], epoch: int, *, rpm: bool) -> list[dict[str, object]]:
    entries: list[dict[str, object]] = []
    for path in sorted(stage.rglob("*")):
        if not path.is_file():
            continue
        place = "/" + str(path.relative_to(stage))
        program = path.stat().st_mode & 0o111 and path.suffix != ".so"
        mode = 0o640 if place in config else 0o755 if program else 0o644
        os.utime(path, (epoch, epoch))
        entry: dict[str, object] = {
            "src": str(path),
            "dst": place,
            "file_info": {"mode": mode, "owner": "root", "group": "root", "mtime": _iso(epoch)},
        }
        if place in config:
            entry["type"] = "config|noreplace"
        elif rpm and place.startswith(("/usr/share/doc/", "/usr/share/man/")):
            # nfpm leaves files of this type out of a deb.
            entry["type"] = "doc"
        entries.append(entry)
    return entries


def _iso(epoch: int) -> str:
    return datetime.fromtimestamp(epoch, tz=timezone.utc).isoformat()


def _scripts(build: Build, package: Package, directory: Path) -> dict[str, str]:
    body = (build.root / "packaging/maintain.sh").read_text()
    paths = {}
    for phase in PHASES[build.package_format]:
        path = directory / phase
        path.write_text(
            maintainer_script(
                body,
                package=package.name,
                phase=phase,
                package_format=build.package_format,
                units=package.units,
                state=package.state,
            )
        )
        paths[phase] = str(path)
    return paths


def _nfpm(
    build: Build,
    package: Package,
    *,
    version: str,
    licence: str,
    contents: list[dict[str, object]],
    scripts: dict[str, str],
) -> dict[str, object]:
    rpm = build.package_format == "rpm"
    common = {_NFPM_PHASE[phase]: path for phase, path in scripts.items() if phase in _NFPM_PHASE}
    if not rpm:
        common["postinstall"] = scripts["postinst"]
    return {
        "name": package.name,
        "arch": build.architecture,
        "platform": "linux",
        "version": version,
        "version_schema": "none",
        "release": "1",
        "section": "admin",
        "priority": "optional",
        "maintainer": MAINTAINER,
        "description": f"{package.summary}\n{DESCRIPTION}",
        "license": licence,
        "mtime": _iso(build.epoch),
        "depends": list(package.depends_rpm if rpm else package.depends_deb),
        "recommends": list(package.recommends),
        "contents": contents,
        "scripts": common,
        "deb": {"compression": "zstd"},
        "rpm": {
            "buildhost": "sib",
            "group": "System Environment/Daemons",
            "compression": "zstd:19",
            "summary": package.summary,
            "scripts": {"posttrans": scripts["posttrans"]} if rpm else {},
        },
    }
