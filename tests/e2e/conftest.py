from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from sib_packaging.project import epoch
from sib_packaging.repository.folder import Plan, build_repository
from sib_packaging.repository.signing import make_key
from tests.e2e import built
from tests.e2e.hosts import need

REPOSITORY_URL = "http://10.77.0.9:8000"


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that can be built of what is here, or what SIB_PACKAGES holds."""
    need()
    given = os.environ.get("SIB_PACKAGES")
    if given is not None:
        return Path(given)
    with built.Lock(tmp_path_factory, "packages"):
        folder, empty = built.once(tmp_path_factory, "packages")
        if empty:
            path = built.pythons(folder)
            built.build(folder / "dist", ["server", "agent", *built.found_components()], path=path)
            (folder / "done").touch()
    return folder / "dist"


@pytest.fixture(scope="session")
def older(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Path:
    """The previous state's sib-server and sib-agent, or what SIB_OLDER_PACKAGES holds."""
    given = os.environ.get("SIB_OLDER_PACKAGES")
    if given is not None:
        return Path(given)
    with built.Lock(tmp_path_factory, "older"):
        folder, empty = built.once(tmp_path_factory, "older")
        if empty:
            built.previous(folder / "dist", built.pythons(folder))
            (folder / "done").touch()
    return folder / "dist"


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Path]:
    """A signed repository of the packages, for REPOSITORY_URL."""
    for program in ("gpg", "dpkg-deb"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} not found: install gpg, dpkg")
    home = tmp_path_factory.mktemp("k")
    output = tmp_path_factory.mktemp("published") / "repository"
    build_repository(
        Plan(
            packages=packages,
            output=output,
            url=REPOSITORY_URL,
            key=make_key(home, "Tests <tests@example.org>"),
            epoch=epoch(),
            valid_days=None,
            say=lambda _text: None,
        )
    )
    yield output
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], timeout=20, check=False)
