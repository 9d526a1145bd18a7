"""Folders of rules for tests of what is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.rules import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)
