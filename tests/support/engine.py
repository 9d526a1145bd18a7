"""The real Falco for tests: where there is one, and this machine can run it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.support.components import component

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "rules" / "falco"


def live_falco() -> Path:
    """The program; skips by name where it cannot watch this machine."""
    falco = component("falco", "falco")
    if os.geteuid() != 0:
        pytest.skip("Falco loads its probe as root alone")
    return falco


def rule_files() -> list[Path]:
    """SIB's own, in the order of loading."""
    others = [path for path in sorted(SHIPPED.glob("*.yaml")) if "drills" not in path.name]
    macros = SHIPPED / "macros.yaml"
    return [macros, *(path for path in others if path != macros)]
