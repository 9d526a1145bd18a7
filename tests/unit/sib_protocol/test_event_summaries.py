from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.events import Priority, parse_time_ns, summarize

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@given(
    st.datetimes(min_value=datetime(1700, 1, 1), max_value=datetime(2261, 1, 1)),  # noqa: DTZ001
    st.integers(0, 999_999_999),
    st.integers(0, 9),
    st.sampled_from(["Z", "+00:00", "+0530", "-11:45"]),
)
def test_times_to_the_nanosecond(
    moment: datetime, nanoseconds: int, digits: int, zone: str
) -> None:
    second = moment.replace(microsecond=0)
    fraction = f"{nanoseconds:09d}"[:digits]
    text = second.isoformat() + (f".{fraction}" if digits else "") + zone
    offset = timedelta(0)
    if zone != "Z":
        hours, minutes = int(zone[:3]), int(zone[-2:])
        offset = timedelta(hours=hours, minutes=minutes if hours >= 0 else -minutes)
    seconds = (second.replace(tzinfo=timezone.utc) - offset - EPOCH) // timedelta(seconds=1)
    assert parse_time_ns(text) == seconds * 10**9 + int(fraction.ljust(9, "0"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-25",
        "2026-11-25T00:55:18.991961223",
        "2026-11-25T00:55:18.99196122_Z",
        "2026-11-25T00:55:18.99196122\u0661Z",
        "2026-W48-3T00:55:18.991961223Z"[:30],
        "2026-13-25T00:55:18.991961223Z",
        "2026-11-25T00:55:61.991961223Z",
        "2026-11-25 00:55:18.991961223Z",
        "0001-01-01T00:00:00+23:59",
        "1600-01-01T00:00:00Z",
        "9999-12-31T23:59:59.999999999Z",
    ],
)
def test_what_is_no_time(text: str) -> None:
    assert parse_time_ns(text) is None


@pytest.mark.parametrize("padding", [0, 20_000])
def test_long_lines_are_read_like_short_ones(padding: int) -> None:
    line = json.dumps(
        {
            "output": "\u00e9" * padding,
            "priority": "warning",
            "rule": "r",
            "source": "syscall",
            "tags": ["T1003", "x", "T1003.008", "T1003", "T\u0661\u0661\u0661\u0661"],
            "time": "2026-11-25T00:55:18.5Z",
        },
        ensure_ascii=False,
    ).encode()
    summary = summarize(line)
    assert summary.priority is Priority.WARNING
    assert summary.techniques == ("T1003", "T1003.008")
    assert summary.time_ns == parse_time_ns("2026-11-25T00:55:18.5Z")
    assert not summary.unparsed


def test_priorities_can_be_keys() -> None:
    assert {priority: priority.value for priority in Priority}[Priority.ALERT] == "Alert"
