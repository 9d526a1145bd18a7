from __future__ import annotations

from datetime import datetime, timedelta, timezone

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sib_server.cli.parameters import DURATION, TimeType, parse_duration, parse_time

NOW = datetime(2026, 11, 25, 8, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("12h", 43200), ("7d", 604800), ("2w", 1209600), ("1h30m", 5400)],
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@given(st.text())
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        assert parse_duration(text) >= timedelta(0)
    except ValueError as error:
        assert "duration" in str(error)  # noqa: PT017  (both outcomes are right)


@given(st.text())
def test_any_text_is_a_time_or_a_value_error(text: str) -> None:
    try:
        assert parse_time(text, NOW).tzinfo is timezone.utc
    except ValueError as error:
        assert repr(text) in str(error)  # noqa: PT017  (both outcomes are right)


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "1.5h", "5m ", "٣m", "999999999w"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("now", NOW),
        ("1h", NOW - timedelta(hours=1)),
        ("2026-11-25T07:00:00Z", NOW - timedelta(hours=1)),
        ("2026-11-25T09:00:00+02:00", NOW - timedelta(hours=1)),
        ("2026-11-25", datetime(2026, 11, 25).astimezone(timezone.utc)),
    ],
)
def test_times(text: str, wanted: datetime) -> None:
    assert parse_time(text, NOW) == wanted


@pytest.mark.parametrize("text", ["yesterday", "", "0001-01-01T00:00:00+14:00", "160000w"])
def test_no_times(text: str) -> None:
    with pytest.raises(ValueError, match="time"):
        parse_time(text, NOW)


def test_as_parameters() -> None:
    @click.command()
    @click.option("--for", "span", type=DURATION, default=timedelta(minutes=5))
    @click.option("--since", type=TimeType(clock=NOW.timestamp), default=NOW)
    def command(span: timedelta, since: datetime) -> None:
        click.echo(f"{span} {since.isoformat()}")

    run = CliRunner().invoke
    assert run(command, []).output == "0:05:00 2026-11-25T08:00:00+00:00\n"
    said = run(command, ["--for", "1h", "--since", "1h"]).output
    assert said == "1:00:00 2026-11-25T07:00:00+00:00\n"
    for arguments in (["--for", "x"], ["--since", "x"]):
        result = run(command, arguments)
        assert result.exit_code == 2
        assert "'x' is not a" in result.stderr
