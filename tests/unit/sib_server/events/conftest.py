from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def falco_lines() -> list[bytes]:
    shared = Path(os.environ.get("SIB_SHARED", Path(__file__).parents[5] / "shared"))
    recording = shared / "data" / "falco-events.jsonl"
    if not recording.exists():
        pytest.skip("falco-events.jsonl not found: set SIB_SHARED")
    return recording.read_bytes().splitlines()
