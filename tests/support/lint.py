"""lintian and rpmlint over packages, with the exceptions that packaging/lint explains."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

LINT = Path(__file__).resolve().parents[2] / "packaging/lint"


def lintian(packages: Sequence[Path]) -> str:
    """The errors that lintian finds in debs; empty if all is well."""
    if shutil.which("lintian") is None:
        pytest.skip("lintian not found: install lintian")
    done = subprocess.run(
        [
            *("lintian", "--no-cfg", "--allow-root", "--display-level", ">=error"),
            *("--fail-on", "error", *map(str, packages)),
        ],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    return done.stdout + (done.stderr if done.returncode else "")


def rpmlint(packages: Sequence[Path]) -> list[str]:
    """The errors that rpmlint finds in rpms."""
    if shutil.which("rpmlint") is None:
        pytest.skip("rpmlint not found: install rpmlint")
    done = subprocess.run(
        ["rpmlint", "-c", str(LINT / "rpmlint.toml"), *map(str, packages)],
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    checked = f"{len(packages)} packages and 0 specfiles checked"
    assert checked in done.stdout, done.stdout + done.stderr
    return re.findall(r"(?m)^.*: E: .*$", done.stdout)
