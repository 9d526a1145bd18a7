from __future__ import annotations

import pytest

from sib_server.events.sinks.http import parse_date_ns


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("Wed, 25 Nov 2026 00:55:18 GMT", 1_795_568_118),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (None, None),
        ("", None),
        ("yesterday", None),
        ("Wed, 25 Nov 99999 00:55:18 GMT", None),
        ("Wed, 99 Nov 2026 00:55:18 GMT", None),
        ("Wed, 25 Nov 2026 00:55:18 GMT" + " " * 60, None),
    ],
)
def test_dates_of_answers(text: str | None, seconds: int | None) -> None:
    assert parse_date_ns(text) == (None if seconds is None else seconds * 10**9)
