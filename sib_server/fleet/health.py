"""How a host is, judged by when it last reported. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class HealthState(Enum):
    """A host's state."""

    HEALTHY = "healthy"
    """It reported in time."""

    LATE = "late"
    """A report or two are missing."""

    SILENT = "silent"
    """It has stopped reporting: down, cut off, or made silent."""

    NEVER = "never"
    """It enrolled and has not reported yet."""


@dataclass(frozen=True, slots=True)
class HealthLimits:
    """From when on a host is not healthy.

    Attributes:
        late_seconds: since its last report.
        silent_seconds: since its last report; more than ``late_seconds``.
    """

    late_seconds: float
    silent_seconds: float


def health_state(last_seen_ns: int | None, now_ns: int, limits: HealthLimits) -> HealthState:
    """Judge a host.

    Args:
        last_seen_ns: when its last report was received, nanoseconds since 1970 UTC, if ever.
        now_ns: the same clock now.
        limits: from when on it is not healthy.
    """
    if last_seen_ns is None:
        return HealthState.NEVER
    age = (now_ns - last_seen_ns) / 1e9
    if age < limits.late_seconds:
        return HealthState.HEALTHY
    return HealthState.LATE if age < limits.silent_seconds else HealthState.SILENT
