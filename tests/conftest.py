from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings

# A busy machine is slow in places that no test is about. In CI the examples are the same each
# time, so that a change is judged by itself; everywhere else they are new ones.
_SLOW_MACHINE: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("ci", derandomize=True, **_SLOW_MACHINE)
settings.register_profile("default-here", **_SLOW_MACHINE)
settings.load_profile("ci" if os.environ.get("CI") else "default-here")


def pytest_make_parametrize_id(val: Any) -> str | None:
    """Bytes by their length: compressed ones hold the time, and a test's name must not change."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) else None
