"""The checkout that is built: where it is, its version, its time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import tomllib

from sib_packaging.errors import PackagingError

ROOT: Final = Path(__file__).resolve().parents[2]


def say(text: str) -> None:
    """Tell who builds."""
    sys.stderr.write(text + "\n")


def version() -> str:
    """SIB's own."""
    project: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["version"]


def epoch() -> int:
    """SOURCE_DATE_EPOCH, else when the last commit was made.

    Raises:
        PackagingError: neither is known.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given is not None:
        return int(given)
    done = subprocess.run(
        ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise PackagingError("this is no git checkout: set SOURCE_DATE_EPOCH")
    return int(done.stdout)
