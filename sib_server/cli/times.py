"""A point in time on the command line: relative, ISO 8601, or seconds since 1970."""

from __future__ import annotations

import re
import time
from datetime import datetime, timezone
from typing import Any, Final

import click

from sib_protocol.events import parse_time_ns

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART: Final = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_DURATION: Final = re.compile(r"(\d{1,9}[smhdw])+", re.ASCII)
_EPOCH: Final = re.compile(r"(\d{9,11})(?:\.(\d{1,9}))?", re.ASCII)
_LAST_SECOND: Final = 9_000_000_000


def iso(seconds: float) -> str:
    """A time in seconds since 1970 UTC as ISO 8601, whole seconds."""
    return datetime.fromtimestamp(int(seconds), timezone.utc).isoformat().replace("+00:00", "Z")


def iso_ns(nanoseconds: int | None) -> str | None:
    """The same from nanoseconds, where there is one."""
    return None if nanoseconds is None else iso(nanoseconds // 10**9)


def parse_moment(text: str, now_ns: int) -> int:
    """Nanoseconds since 1970 UTC of ``1h30m`` (before now), ISO 8601, epoch seconds or ``now``.

    An ISO time without a zone is this machine's local time.

    Raises:
        ValueError: it is none.
    """
    if text == "now":
        return now_ns
    if _DURATION.fullmatch(text):
        seconds = sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(text))
        return max(0, now_ns - seconds * 1_000_000_000)
    epoch = _EPOCH.fullmatch(text)
    if epoch is not None and int(epoch[1]) <= _LAST_SECOND:
        return int(epoch[1]) * 1_000_000_000 + int((epoch[2] or "0").ljust(9, "0"))
    exact = parse_time_ns(text)
    if exact is not None:
        return exact
    try:
        moment = datetime.fromisoformat(text).astimezone(timezone.utc)
    except (ValueError, OverflowError, OSError):
        moment = None
    if moment is None:
        raise ValueError(
            f"{text[:80]!r} is not a time; write 1h (ago), 2026-11-25T08:00:00Z or epoch seconds"
        )
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000


class MomentType(click.ParamType[int]):
    """A point in time; the value is in nanoseconds since 1970 UTC."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the text."""
        try:
            return parse_moment(str(value), time.time_ns())
        except ValueError as error:
            self.fail(str(error), param, ctx)


MOMENT: Final = MomentType()
