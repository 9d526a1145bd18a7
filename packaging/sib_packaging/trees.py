"""The private dependency trees: one for all CPythons, and one for each beside it.

Compiled modules carry their CPython in their file name, so most wheels of one release for several
CPythons lie in one tree side by side. Only a release whose wheels disagree in a file goes into a
tree for each.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from sib_packaging.errors import PackagingError
from sib_packaging.fetch import alone, checksum
from sib_packaging.texts import is_licence

PYTHONS: Final = ("3.11", "3.12", "3.13")
COMMON: Final = "common"
_PLATFORMS: Final = {"amd64": "x86_64", "arm64": "aarch64"}
# Of these there is no wheel; they are pure Python, and built here.
_SOURCE_ONLY: Final = ("sdnotify",)
# Changed when what is kept beside the wheels does.
_LAYOUT: Final = b"2"
# Ends the name of a file beside a wheel that was built here: the checksum of what it was built of.
_SOURCE: Final = ".source"
# What modules are made of and checked with, and no Python reads.
_SOURCES: Final = frozenset({".c", ".h", ".pxd", ".pxi", ".pyi", ".pyx"})


@dataclass(frozen=True, slots=True)
class Distribution:
    """One dependency, as its wheel says.

    Attributes:
        name: normalized.
        version: as released.
        licence: as its metadata says, or ''.
        texts: name -> licence text.
        sha256: of the archive that the lock names.
    """

    name: str
    version: str
    licence: str
    texts: dict[str, bytes]
    sha256: str


def plan(wheels: Mapping[str, Sequence[Path]]) -> dict[str, list[Path]]:
    """Which wheel goes into which tree: shared where no two disagree in a file.

    Args:
        wheels: CPython's version -> its wheels.

    Returns:
        Tree's name -> wheels, sorted by name.
    """
    trees: dict[str, dict[str, Path]] = {tree: {} for tree in (COMMON, *wheels)}
    releases: dict[str, dict[str, Path]] = {}
    for version, paths in wheels.items():
        for path in paths:
            releases.setdefault("-".join(path.name.split("-")[:2]), {})[version] = path
    for found in releases.values():
        if found.keys() == wheels.keys() and _agree(list(found.values())):
            trees[COMMON] |= {path.name: path for path in found.values()}
            continue
        for version, path in found.items():
            trees[version][path.name] = path
    return {tree: [paths[name] for name in sorted(paths)] for tree, paths in trees.items()}


def _agree(wheels: Sequence[Path]) -> bool:
    contents: dict[str, int] = {}
    for wheel in {path.name: path for path in wheels}.values():
        with zipfile.ZipFile(wheel) as opened:
            for entry in opened.infolist():
                top = entry.filename.split("/", 1)[0]
                if top.endswith(".dist-info"):
                    continue
                if contents.setdefault(entry.filename, entry.CRC) != entry.CRC:
                    return False
    return True


def fetch_wheels(lock: Path, architecture: str, cache: Path) -> dict[str, list[Path]]:
    """Have the locked wheels of every CPython in the cache, by pip, which checks their hashes.

    Raises:
        PackagingError: pip cannot.
    """
    stamp = hashlib.sha256(_LAYOUT + lock.read_bytes()).hexdigest()[:16]
    wheels = {}
    for version in PYTHONS:
        target = cache / "wheels" / f"{lock.stem}-{stamp}-{architecture}-{version}"
        with alone(cache):
            if not target.is_dir():
                partial = target.with_name(target.name + ".part")
                shutil.rmtree(partial, ignore_errors=True)
                _download(lock, architecture, version, partial)
                partial.rename(target)
        wheels[version] = sorted(target.glob("*.whl"))
    return wheels


def _download(lock: Path, architecture: str, version: str, target: Path) -> None:
    machine = _PLATFORMS[architecture]
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in (28, 24, 17)]
    _pip(
        *("download", "--require-hashes", "--no-deps", "--no-build-isolation"),
        *("--only-binary", ":all:", "--no-binary", ",".join(_SOURCE_ONLY)),
        *("--python-version", version, "--implementation", "cp"),
        *(
            part
            for name in (*platforms, f"manylinux2014_{machine}")
            for part in ("--platform", name)
        ),
        *("--requirement", str(lock), "--dest", str(target)),
    )
    for source in target.glob("*.tar.gz"):
        known = set(target.glob("*.whl"))
        _pip(
            *("wheel", "--no-deps", "--no-index", "--no-build-isolation"),
            *("--wheel-dir", str(target), str(source)),
        )
        for wheel in set(target.glob("*.whl")) - known:
            wheel.with_name(wheel.name + _SOURCE).write_text(checksum(source))
        source.unlink()
    if strange := [path.name for path in target.iterdir() if path.suffix not in {".whl", _SOURCE}]:
        raise PackagingError(f"pip left {', '.join(strange)}, which is no wheel")


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--no-input", *arguments],
        # Wheels that are built here have the same bytes each time.
        env={**os.environ, "SOURCE_DATE_EPOCH": "315532800"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PackagingError(f"pip {arguments[0]} failed: {done.stderr.strip()[-2000:]}")


def unpack(wheel: Path, target: Path) -> Distribution:
    """Lay a wheel's modules into a tree, and read what it says of itself.

    Its scripts, headers and stubs are left out: nothing runs or compiles in the tree.

    Raises:
        PackagingError: a path in it leads elsewhere.
    """
    metadata = ""
    texts: dict[str, bytes] = {}
    with zipfile.ZipFile(wheel) as opened:
        for entry in opened.infolist():
            path = PurePosixPath(entry.filename)
            if entry.is_dir() or path.suffix in _SOURCES:
                continue
            if path.is_absolute() or ".." in path.parts:
                raise PackagingError(f"{wheel.name} has a file {entry.filename}")
            if path.parts[0].endswith(".data"):
                if path.parts[1] not in {"purelib", "platlib"}:
                    continue
                path = PurePosixPath(*path.parts[2:])
            content = opened.read(entry)
            if path.parts[0].endswith(".dist-info"):
                if path.name == "METADATA":
                    metadata = content.decode("utf-8", "replace")
                elif is_licence(path.name) or "licenses" in path.parts:
                    texts["-".join(path.parts[1:]).removeprefix("licenses-")] = content
                    continue
                elif path.name in {"RECORD", "INSTALLER", "direct_url.json"} or "sboms" in str(
                    path
                ):
                    continue
            place = target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    head = metadata.split("\n\n", 1)[0]
    return Distribution(
        name=_field(head, "Name").lower().replace("_", "-"),
        version=_field(head, "Version"),
        licence=_field(head, "License-Expression")
        or _field(head, "License")
        or _field(head, "Classifier: License :: OSI Approved :"),
        texts=texts,
        sha256=_published_checksum(wheel),
    )


def _published_checksum(wheel: Path) -> str:
    """Of what is locked: the wheel, or the source that it was built of here."""
    source = wheel.with_name(wheel.name + _SOURCE)
    return source.read_text() if source.is_file() else checksum(wheel)


def _field(head: str, name: str) -> str:
    found = re.search(rf"(?m)^{name}: (.*)$", head)
    return found[1].strip() if found else ""


def build_trees(
    wheels: Mapping[str, Sequence[Path]], own: Sequence[Path], stage: Path
) -> list[Distribution]:
    """Make all trees of one package below ``stage``.

    Args:
        wheels: CPython's version -> its wheels.
        own: SIB's own packages, as source directories.
        stage: becomes the package's directory in /usr/lib.

    Returns:
        Each dependency once, by name.
    """
    known: dict[tuple[str, str], Distribution] = {}
    for tree, paths in plan(wheels).items():
        (stage / tree).mkdir(parents=True, exist_ok=True)
        for path in paths:
            found = unpack(path, stage / tree)
            known.setdefault((found.name, found.version), found)
    for source in own:
        shutil.copytree(
            source, stage / COMMON / source.name, ignore=shutil.ignore_patterns("__pycache__")
        )
    return [known[key] for key in sorted(known)]


def find_pythons() -> dict[str, str]:
    """The CPythons of this machine that can compile bytecode: version -> command."""
    found: dict[str, str] = {}
    for version in PYTHONS:
        command = shutil.which(f"python{version}")
        if command is None:
            continue
        done = subprocess.run(
            [command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.stdout.strip() == version:
            found[version] = command
    return found


def compile_trees(stage: Path, installed: str, pythons: Mapping[str, str]) -> None:
    """Put bytecode beside the modules that is used without a look at the source's time.

    Args:
        stage: the trees.
        installed: where they will be, for tracebacks.
        pythons: version -> command.

    Raises:
        PackagingError: one of SIB's own modules cannot be compiled.
    """
    for version, command in pythons.items():
        done = subprocess.run(
            [
                *(command, "-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"),
                *("-s", str(stage), "-p", installed, str(stage / COMMON), str(stage / version)),
            ],
            env={"PATH": os.environ["PATH"], "PYTHONHASHSEED": "0", "HOME": os.environ["HOME"]},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise PackagingError(f"{command} cannot compile: {done.stdout.strip()[-2000:]}")
