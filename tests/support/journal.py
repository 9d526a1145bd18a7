"""Event lines for tests of the journal."""

from __future__ import annotations

import json


def falco_line(number: int, *, rule: str = "Read ssh information", size: int = 0) -> bytes:
    """A line in Falco's shape, as long as asked."""
    return json.dumps(
        {
            "hostname": "web-1",
            "output": f"event {number} " + "x" * size,
            "priority": "Error",
            "rule": rule,
            "source": "syscall",
            "tags": ["T1005", "host", "T1552.004"],
            "time": "2026-11-25T00:55:18.991961223Z",
        }
    ).encode()
