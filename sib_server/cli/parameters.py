"""Kinds of parameters: durations, points in time, shares."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Callable

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART: Final = re.compile(r"(\d{1,9})([smhdw])")
_PERCENT: Final = re.compile(r"(?P<share>[0-9]{1,3}(\.[0-9]{1,4})?) ?%?", re.ASCII)
_DURATION: Final = re.compile(r"(\d{1,9}[smhdw])+")


def parse_duration(text: str) -> timedelta:
    """Read a duration: ``90s``, ``30m``, ``12h``, ``7d``, ``2w``, or several like ``1h30m``.

    Raises:
        ValueError: it is none.
    """
    if not text.isascii() or not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration; write 90s, 30m, 12h, 7d or 1h30m")
    seconds = sum(int(count) * _UNITS[unit] for count, unit in _PART.findall(text))
    try:
        return timedelta(seconds=seconds)
    except OverflowError as error:
        raise ValueError(f"{text!r} is too long a duration") from error


def parse_time(text: str, now: datetime) -> datetime:
    """Read a point in time: ``now``, a duration before now, or ISO 8601.

    Args:
        text: an ISO time without a zone is this machine's local time.
        now: with a time zone.

    Returns:
        A time in UTC.

    Raises:
        ValueError: it is none.
    """
    if text == "now":
        return now.astimezone(timezone.utc)
    try:
        return (now - parse_duration(text)).astimezone(timezone.utc)
    except OverflowError as error:
        raise ValueError(f"{text!r} ago is before all time") from error
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{text!r} is not a time; write 2026-11-25T08:00:00Z, or 1h for an hour ago"
        ) from error


class DurationType(click.ParamType[timedelta]):
    """A duration; the value is a :class:`~datetime.timedelta`."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Read the text; a default may be a timedelta already."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class TimeType(click.ParamType[datetime]):
    """A point in time; the value is a :class:`~datetime.datetime` in UTC.

    Args:
        clock: seconds since 1970 UTC.
    """

    name = "time"

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        """Read the text; a default may be a datetime already."""
        if isinstance(value, datetime):
            return value
        try:
            return parse_time(value, datetime.fromtimestamp(self._clock(), timezone.utc))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class PercentType(click.ParamType[float]):
    """A share like ``5%`` or ``0.5%``; the value is in percent, above 0 and up to 100."""

    name = "percent"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read the text; a default may be a number already."""
        if isinstance(value, float):
            return value
        found = _PERCENT.fullmatch(value)
        share = float(found["share"]) if found else 0.0
        if not 0 < share <= 100:
            self.fail(f"{value!r} is not a share; write 5% or 0.5%", param, ctx)
        return share


DURATION: Final = DurationType()
PERCENT: Final = PercentType()
TIME: Final = TimeType()
