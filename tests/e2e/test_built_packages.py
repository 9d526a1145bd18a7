"""The packages that the hosts get: no error of lintian's, and no larger than promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.lint import lintian

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_the_packages_are_not_large(packages: Path) -> None:
    """With bytecode of both base systems' Pythons; without components."""
    sizes = {path.name.split("_")[0]: path.stat().st_size for path in packages.glob("*.deb")}
    assert sizes["sib-agent"] < 20_000_000
    assert sizes["sib-server"] < 80_000_000


def test_lintian_has_no_error_to_say(packages: Path) -> None:
    assert lintian(sorted(packages.glob("*.deb"))) == ""
