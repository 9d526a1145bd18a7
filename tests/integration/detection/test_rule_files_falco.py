"""Falco itself accepts SIB's rule files (skipped where there is no Falco)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sib_protocol.drills.engine import complaints
from tests.support.components import component
from tests.support.engine import rule_files

if TYPE_CHECKING:
    from pathlib import Path


def test_falco_accepts_all_rule_files(tmp_path: Path) -> None:
    assert complaints(component("falco", "falco"), rule_files(), tmp_path) == []
