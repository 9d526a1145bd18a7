from __future__ import annotations

from typing import Any


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Bytes by their length: compressed ones hold the time, and a test's name must not change."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) else None
