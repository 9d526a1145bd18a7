"""What SIB needs to know of an event: a summary of one line that Falco wrote.

The line itself is carried, stored and shown byte for byte; the summary exists only so that events
can be searched, labelled and routed. A line that is not one of Falco's JSON alerts is an event
too, marked ``unparsed``: nothing that a host wrote is thrown away.
"""

from __future__ import annotations

import re
from datetime import datetime, timezone
from enum import Enum
from functools import lru_cache
from typing import Final

import msgspec

from sib_protocol.errors import UNDECODABLE


class Priority(Enum):
    """Falco's priorities, most severe first; the value is the text Falco writes."""

    EMERGENCY = "Emergency"
    ALERT = "Alert"
    CRITICAL = "Critical"
    ERROR = "Error"
    WARNING = "Warning"
    NOTICE = "Notice"
    INFORMATIONAL = "Informational"
    DEBUG = "Debug"

    # Members are singletons, and Enum's own hash is Python code that would run for every event.
    __hash__ = object.__hash__

    @property
    def severity(self) -> int:
        """The syslog number: 0 is the most severe, 7 the least."""
        return _SEVERITY[self]

    @classmethod
    def parse(cls, text: str) -> Priority | None:
        """Find a priority by Falco's name for it, in any case; ``None`` where there is none."""
        return _BY_NAME.get(text.lower())


_SEVERITY: Final = {priority: number for number, priority in enumerate(Priority)}
_BY_NAME: Final = {
    **{priority.value.lower(): priority for priority in Priority},
    **{priority.value: priority for priority in Priority},
    "info": Priority.INFORMATIONAL,
}

TECHNIQUE: Final = re.compile(r"T\d{4}(\.\d{3})?", re.ASCII)
"""An ATT&CK technique or sub-technique id, as Falco's rules carry it among their tags."""

DEMO_TAG: Final = "sib_demo"
"""Among an event's tags: it is stored and found like any other, and alerts nobody."""

UNPARSED_RULE: Final = ""
"""The rule name of an event that names no rule."""


class EventSummary(msgspec.Struct, frozen=True, gc=False):
    """The searchable part of one event line.

    A Struct, because one is made for every event and a frozen dataclass takes 1 us for it.

    Attributes:
        rule: the rule that fired; empty where the line names none.
        priority: ``None`` where the line names none that Falco knows.
        source: Falco's event source (``syscall``, ``k8s_audit``, ...) or ``sib`` for our own.
        techniques: ATT&CK ids among the tags, in the line's order, without repeats.
        time_ns: when it happened, by the host's clock, in nanoseconds since 1970 UTC;
            ``None`` where the line does not say.
        unparsed: the line is not a Falco alert as JSON.
    """

    rule: str
    priority: Priority | None
    source: str
    techniques: tuple[str, ...]
    time_ns: int | None
    unparsed: bool


class _Alert(msgspec.Struct):
    rule: str = UNPARSED_RULE
    priority: str = ""
    source: str = ""
    time: str = ""
    tags: tuple[str, ...] | None = None


_UNPARSED: Final = EventSummary(UNPARSED_RULE, None, "", (), None, unparsed=True)
_alert_decoder: Final = msgspec.json.Decoder(_Alert)
_SECOND: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)
_TIME: Final = re.compile(r"(.{19})(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:?\d\d)", re.ASCII)
_INT64_MAX: Final = 2**63 - 1
_MEMO_LINE_BYTES: Final = 16 * 1024
"""Longer lines are read without the memo, so that hostile ones cannot fill it."""


def _epoch_seconds(second: str, zone: str) -> int | None:
    if not _SECOND.fullmatch(second):
        return None
    try:
        if zone == "Z":
            moment = datetime.fromisoformat(second).replace(tzinfo=timezone.utc)
        else:
            moment = datetime.strptime(second + zone, "%Y-%m-%dT%H:%M:%S%z")
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        return None


_recent_second: Final = lru_cache(256)(_epoch_seconds)


def parse_time_ns(text: str) -> int | None:
    """Nanoseconds since 1970 UTC of an ISO 8601 time with a zone, or ``None``.

    ``datetime`` stops at microseconds, and Falco orders events by nanoseconds. A time that does
    not fit 64 bits signed (before 1677, after 2262) is ``None`` too: no store could keep it.
    """
    fraction: str | None = text[20:29]
    # Falco always writes nine digits and Z; other forms take the longer way.
    if (
        len(text) == 30
        and text[19] == "."
        and text[29] == "Z"
        and text.isascii()
        and (fraction and fraction.isdigit())
    ):
        second, zone = text[:19], "Z"
    else:
        match = _TIME.fullmatch(text)
        if match is None:
            return None
        second, fraction, zone = match.groups()
    seconds = _recent_second(second, zone)
    if seconds is None:
        return None
    nanoseconds = seconds * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))
    return nanoseconds if abs(nanoseconds) <= _INT64_MAX else None


def _techniques(tags: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(tag for tag in tags if TECHNIQUE.fullmatch(tag)))


_recent_techniques: Final = lru_cache(1024)(_techniques)


def summarize(line: bytes) -> EventSummary:
    """Read what SIB needs from one event line; never raises, whatever the line holds."""
    try:
        if not line.isascii():
            line.decode()
        alert = _alert_decoder.decode(line)
    except UNDECODABLE:
        return _UNPARSED
    # A rule has one set of tags and a second has many events: both are read again and again.
    find = _recent_techniques if len(line) <= _MEMO_LINE_BYTES else _techniques
    return EventSummary(
        alert.rule,
        _BY_NAME.get(alert.priority) or Priority.parse(alert.priority),
        alert.source,
        find(alert.tags) if alert.tags else (),
        parse_time_ns(alert.time),
        False,
    )


def sib_event(
    *,
    rule: str,
    priority: Priority,
    time_ns: int,
    output: str,
    fields: dict[str, str | int],
    tags: tuple[str, ...] = (),
    source: str = "sib",
) -> bytes:
    """One record that SIB itself makes, as a line in the shape of a Falco alert.

    Args:
        rule: what happened; all of the source ``sib`` begin with ``SIB``.
        priority: how much it matters.
        time_ns: when, in nanoseconds since 1970 UTC.
        output: one sentence for people.
        fields: the data, under ``output_fields``; keys begin with ``sib.``.
        tags: further ones beside ``source``.
        source: where it comes from; the events of imported rules have their own.
    """
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    second = datetime.fromtimestamp(seconds, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    return msgspec.json.encode(
        {
            "output": output,
            "output_fields": fields,
            "priority": priority.value,
            "rule": rule,
            "source": source,
            "tags": [source, *tags],
            "time": f"{second}.{nanoseconds:09d}Z",
        }
    )
