"""What a package takes from elsewhere than wheels: programs, Falco's own rules, SIB's data."""

from __future__ import annotations

import fnmatch
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

from sib_packaging.components import Component
from sib_packaging.errors import PackagingError
from sib_packaging.texts import is_licence

# Where a component's program goes, where that is not its home itself.
_PROGRAM: Final = {"grafana": "bin/grafana", "falco": "bin/falco"}
# ELF's numbers of the architectures that packages are built for.
_MACHINES: Final = {"amd64": 62, "arm64": 183}
# What else of a folder that was given is taken, and where it goes.
_BESIDE: Final = {
    "falco": {"rules": "etc", "plugins": "share/plugins"},
    "grafana": {"public": "public", "conf": "conf"},
    "prometheus": {"promtool": "promtool"},
}


def given_version(component: Component, folder: Path) -> str:
    """What a given program is the version of: what the file VERSION beside it says.

    Without that file it is marked, since it need not be the release that the lock names.
    """
    try:
        return (folder / "VERSION").read_text().strip()
    except FileNotFoundError:
        return f"{component.version}~given"


def take_given(folder: Path, name: str, architecture: str, home: Path) -> Path:
    """Copy a given program and what belongs to it; returns the program's source.

    Raises:
        PackagingError: it is not there, or it is for another architecture.
    """
    program = folder / name
    if not program.is_file():
        raise PackagingError(f"{program} is not there: put the program there, or leave it out")
    with program.open("rb") as opened:
        head = opened.read(20)
    machine = int.from_bytes(head[18:], "little")
    if head[:4] == b"\x7fELF" and len(head) == 20 and machine != _MACHINES[architecture]:
        raise PackagingError(f"{program} is not for {architecture}")
    place = home / _PROGRAM.get(name, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(program, place)
    place.chmod(0o755)
    for source, target in _BESIDE.get(name, {}).items():
        beside = folder / source
        if beside.is_dir():
            shutil.copytree(beside, home / target, dirs_exist_ok=True)
        elif beside.is_file():
            shutil.copy(beside, home / target)
    return program


def given_licences(folder: Path) -> dict[str, bytes]:
    """The licence texts beside a given program, by name."""
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file() and is_licence(path.name)
    }


def archive_licences(archive: Path) -> dict[str, bytes]:
    """The licence texts at the top of an archive, or in its one folder, by name."""
    return {
        name.rsplit("/", 1)[-1]: content()
        for name, _, content in _members(archive)
        if name.count("/") < 2 and is_licence(name.rsplit("/", 1)[-1])
    }


def take(archive: Path, files: dict[str, str], architecture: str, home: Path) -> None:
    """Take the wanted files out of an archive.

    Args:
        archive: .zip or .tar.gz.
        files: as in Component.
        architecture: replaces ``{arch}``.
        home: where they go.

    Raises:
        PackagingError: one is not in it, or leads elsewhere.
    """
    wanted = {name.replace("{arch}", architecture): place for name, place in files.items()}
    missing = set(wanted)
    for name, mode, content in _members(archive):
        if name.startswith("/") or ".." in name.split("/"):
            raise PackagingError(f"{archive.name} has a file {name}")
        for pattern, place in wanted.items():
            target = _target(name, pattern, place)
            if target is None:
                continue
            missing.discard(pattern)
            path = home / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content())
            path.chmod(0o755 if mode & 0o111 or not pattern.endswith("/") else 0o644)
            break
    if missing:
        raise PackagingError(f"{archive.name} has no {', '.join(sorted(missing))}")


def _target(name: str, pattern: str, place: str) -> str | None:
    parts, wanted = name.split("/"), pattern.rstrip("/").split("/")
    if len(parts) < len(wanted) or not all(map(fnmatch.fnmatchcase, parts, wanted)):
        return None
    rest = parts[len(wanted) :]
    if pattern.endswith("/"):
        return place + "/".join(rest) if rest else None
    return None if rest else place


def _members(archive: Path) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    if archive.name.endswith(".zip"):
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                if not entry.is_dir():
                    yield entry.filename, entry.external_attr >> 16, partial(opened.read, entry)
        return
    with tarfile.open(archive) as opened_tar:
        for member in opened_tar:
            if member.isreg():
                file = opened_tar.extractfile(member)
                assert file is not None  # noqa: S101  (a regular file has content)
                yield member.name.removeprefix("./"), member.mode, file.read
