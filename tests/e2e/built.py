"""The packages that hosts are tried with, built once in a test run."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from sib_packaging.project import epoch
from tests.e2e.hosts import base

ROOT = Path(__file__).resolve().parents[2]
COMPONENTS = ("loki", "prometheus", "falcosidekick", "grafana", "falco", "alloy")
OLDER = "0.0.1"


def found_components() -> list[str]:
    """Those whose program is in SIB_COMPONENTS."""
    folder = os.environ.get("SIB_COMPONENTS")
    if folder is None:
        return []
    return [name for name in COMPONENTS if (Path(folder) / name / name).is_file()]


def pythons(work: Path) -> Path:
    """A folder with the Pythons of the base systems, so that bytecode is shipped for each."""
    folder = work / "pythons"
    folder.mkdir()
    for suite, version in (("bookworm", "3.11"), ("trixie", "3.13")):
        root = base(suite)
        libraries = root / "usr/lib/x86_64-linux-gnu"
        program = folder / f"python{version}"
        program.write_text(
            "#!/bin/sh\n"
            f"export PYTHONHOME={root}/usr\n"
            f"exec {libraries}/ld-linux-x86-64.so.2 --library-path {libraries}"
            f' {root}/usr/bin/python{version} "$@"\n'
        )
        program.chmod(0o755)
    return folder


def build(
    output: Path,
    names: Sequence[str],
    *more: str,
    tree: Path = ROOT,
    path: Path | None = None,
) -> None:
    """Run scripts/build-packages' program in the environment of the tests."""
    given = ("--components", os.environ["SIB_COMPONENTS"]) if found_components() else ()
    search = os.environ["PATH"] if path is None else f"{path}:{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-m", "sib_packaging", "--output", str(output), *given, *more, *names],
        env={
            **os.environ,
            "PYTHONPATH": str(tree / "packaging"),
            "PATH": search,
            # An exported tree knows no commit.
            "SOURCE_DATE_EPOCH": str(epoch()),
        },
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def previous(output: Path, path: Path, revision: str | None = None) -> str:
    """Packages of an earlier state.

    Args:
        output: folder for them.
        path: as of pythons().
        revision: which state, built as version OLDER; None: the newest tag as what it is, or, as
            long as there is none, this tree as version OLDER.

    Returns:
        Their version.
    """
    tags = _git("tag", "--list", "v*", "--sort=-version:refname").decode().split()
    if revision is None and not tags:
        build(output, ["server", "agent"], "--version", OLDER, path=path)
        return OLDER
    tree = output / "tree"
    tree.mkdir(parents=True)
    archive = _git("archive", revision or tags[0])
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)
    version = tags[0].removeprefix("v") if revision is None else OLDER
    build(output, ["server", "agent"], "--version", version, tree=tree, path=path)
    return version


def _git(*arguments: str) -> bytes:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, check=True
    ).stdout


def once(factory: pytest.TempPathFactory, name: str) -> tuple[Path, bool]:
    """A folder that all workers of this run share, and whether it has yet to be filled.

    The lock on it is held until the caller's process says ``done``.
    """
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / name
    folder.mkdir(exist_ok=True)
    return folder, not (folder / "done").exists()


class Lock:
    """One worker at a time."""

    def __init__(self, factory: pytest.TempPathFactory, name: str) -> None:
        folder, _ = once(factory, "locks")
        self._file = (folder / name).open("w")

    def __enter__(self) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        self._file.close()
