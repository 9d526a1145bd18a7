from __future__ import annotations

import base64
import json
import unicodedata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from sib_protocol.errors import ExitCode
from sib_protocol.events import summarize
from sib_protocol.ids import EventId, HostId, HostName, LineNumber, StreamId
from sib_server.cli import events as events_module
from sib_server.cli.events import events
from sib_server.cli.journal import journal as journal_command
from sib_server.cli.times import parse_moment
from sib_server.events.incoming import IncomingBatch
from sib_server.events.journal import Journal
from sib_server.events.schema import PAGE_SIZE
from sib_server.events.show import event_cells, event_json, plain
from sib_server.events.stored import Seq, StoredEvent
from tests.support.journal import falco_line

STREAM = StreamId("00000000-0000-4000-8000-000000000001")
HOST = HostId("00000000-0000-4000-9000-000000000001")
HOSTILE = json.dumps(
    {"rule": "evil \x1b[2J[red]", "output": "a\x1b]0;owned\x07 \u202e[bold]b[/bold]\nnext",
     "priority": "Critical"}
).encode()  # fmt: skip
LINES = [falco_line(0), HOSTILE, b"not JSON \xff\x1b[31m", b'[1, "an array"]', falco_line(4)]


@click.group()
@click.option("--at", type=click.Path(path_type=Path))
@click.pass_context
def main(ctx: click.Context, at: Path) -> None:
    ctx.obj = SimpleNamespace(settings=SimpleNamespace(journal=SimpleNamespace(path=at)))


main.add_command(events)
main.add_command(journal_command)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db"
    journal = Journal.open(path, clock_ns=lambda: 1_700_000_000_123_456_789)
    journal.append([IncomingBatch(STREAM, HOST, HostName("web-1"), LineNumber(7), LINES)])
    journal.close()
    return path


def run(path: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--at", str(path), *arguments])


def test_json_is_what_falco_wrote(path: Path) -> None:
    result = run(path, "events", "search", "--json")
    assert result.exit_code == 0, result.output
    written = result.stdout_bytes.splitlines()
    found = [json.loads(line) for line in written]
    assert [one["event_id"] for one in found] == [f"{STREAM}/{n}" for n in (11, 10, 9, 8, 7)]
    assert LINES[4] in written[0]
    assert found[0]["event"] == json.loads(LINES[4])
    assert found[0]["host_id"] == HOST
    assert found[0]["host_name"] == "web-1"
    assert found[0]["received"] == "2023-11-14T22:13:20.123456789Z"
    assert found[0]["received_ns"] == 1_700_000_000_123_456_789
    assert found[3]["event"] == json.loads(HOSTILE)
    assert [one["unparsed"] for one in found] == [False, True, True, False, False]
    assert found[1]["event"] == [1, "an array"]
    assert found[2]["event"] == "not JSON \\xff\x1b[31m"
    assert base64.b64decode(found[2]["raw_base64"]) == LINES[2]


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        (["--limit", "2"], [11, 10]),
        (["--oldest-first", "--limit", "1"], [7]),
        (["--priority", "critical"], [8]),
        (["--priority", "error+"], [11, 8, 7]),
        (["--technique", "T1552"], [11, 7]),
        (["--rule", "Read ssh information", "--host", "web-1"], [11, 7]),
        (["--host", "web_1"], []),
        (["--text", "EVENT 4"], [11]),
        (["--since", "1h"], []),
        (["--since", "2023-11-14T22:13:20.123456789Z", "--until", "now"], [11, 10, 9, 8, 7]),
        (["--until", "1700000000.123456789"], []),
    ],
)
def test_options(path: Path, arguments: list[str], numbers: list[int]) -> None:
    result = run(path, "events", "search", "--json", *arguments)
    assert result.exit_code == 0, result.output
    found = [json.loads(line)["event_id"] for line in result.stdout_bytes.splitlines()]
    assert found == [f"{STREAM}/{number}" for number in numbers]


@pytest.mark.parametrize(
    "arguments",
    [["--since", "yesterday-ish"], ["--priority", "loud"], ["--limit", "0"]],
)
def test_bad_options_are_named(path: Path, arguments: list[str]) -> None:
    result = run(path, "events", "search", *arguments)
    assert result.exit_code == ExitCode.USAGE
    assert arguments[1] in result.output


def test_text_for_pipes(path: Path) -> None:
    result = run(path, "events", "search", "--limit", "3")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("2023-11-14T22:13:20Z  web-1  Error")
    assert "T1005 T1552.004" in lines[0]
    assert "There are more" in result.stderr
    everything = run(path, "events", "search")
    assert "\x1b" not in everything.output
    assert "\\x1b]0;owned\\x07 \\u202e[bold]b[/bold]\\x0anext" in everything.stdout


def test_table_for_terminals(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(Console):
        def __init__(self, **_options: Any) -> None:
            super().__init__(force_terminal=True, width=200, color_system="truecolor")

    monkeypatch.setattr(events_module, "Console", Terminal)
    monkeypatch.setattr(events_module, "_is_terminal", lambda: True)
    result = run(path, "events", "search")
    assert result.exit_code == 0
    assert "[bold]b[/bold]" in result.stdout
    assert "\\x1b]0;owned" in result.stdout
    assert "\x1b]0;" not in result.stdout
    assert "\x1b[2J" not in result.stdout
    assert "\x1b[1;31mCritical" in result.stdout


@pytest.mark.parametrize(
    ("by", "first"),
    [
        ("rule", "         2  -"),
        ("host", "         5  web-1"),
        ("priority", "         2  -"),
        ("technique", "         2  T1005"),
    ],
)
def test_count(path: Path, by: str, first: str) -> None:
    result = run(path, "events", "count", "--by", by)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == first
    as_json = run(path, "events", "count", "--by", by, "--json", "--host", "web-1")
    assert json.loads(as_json.stdout.splitlines()[0])["count"] == int(first[:10])


def test_damage_on_the_command_line(path: Path, tmp_path: Path) -> None:
    whole = run(path, "journal", "verify")
    assert whole.exit_code == 0
    assert whole.stdout == "5 events are whole, 0 are damaged.\n"
    content = bytearray(path.read_bytes())
    content[content.index(b"event 4")] ^= 1
    path.write_bytes(content)
    found = run(path, "events", "search", "--json")
    assert len(found.stdout.splitlines()) == 4
    assert "1 damaged events are left out" in found.stderr
    verified = run(path, "journal", "verify")
    assert verified.exit_code == ExitCode.DAMAGED
    assert "event 5: its checksum" in verified.stdout
    assert "journal salvage" in verified.stderr
    as_json = run(path, "journal", "verify", "--json", "--path", str(path))
    assert as_json.exit_code == ExitCode.DAMAGED
    assert json.loads(as_json.stdout)["damaged_events"] == 1
    fresh = tmp_path / "fresh.db"
    salvaged = run(path, "journal", "salvage", str(path), str(fresh))
    assert salvaged.exit_code == 0
    assert salvaged.stdout.startswith(f"4 events are in {fresh}")
    content[:PAGE_SIZE] = bytes(PAGE_SIZE)
    path.write_bytes(content)
    broken = run(path, "journal", "verify")
    assert broken.exit_code == ExitCode.DAMAGED
    assert "not a database" in broken.stdout
    again = run(path, "journal", "salvage", "--json", str(path), str(tmp_path / "second.db"))
    assert json.loads(again.stdout)["events"] == 4


@given(st.text())
def test_nothing_hidden_is_printed(text: str) -> None:
    shown = plain(text)
    assert all(unicodedata.category(one)[0] != "C" for one in shown)
    assert "\n" not in shown
    assert "\u2028" not in shown


@given(st.binary())
def test_every_line_can_be_shown(line: bytes) -> None:
    event = StoredEvent(
        Seq(1), EventId(STREAM, LineNumber(0)), HOST, HostName("h"), 0, summarize(line), line
    )
    written = event_json(event)
    assert b"\n" not in written
    whole = json.loads(written)
    if "raw_base64" in whole:
        assert base64.b64decode(whole["raw_base64"]) == line
    event_cells(event)


def test_a_line_whose_output_is_no_text_is_shown_as_it_is() -> None:
    line = b'{"rule": "r", "output": 5}'
    event = StoredEvent(
        Seq(1), EventId(STREAM, LineNumber(0)), HOST, HostName("h"), 0, summarize(line), line
    )
    assert event_cells(event).output == line.decode()


NOW = 1_700_000_000 * 10**9


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", 1_700_000_000),
        ("1h30m", 1_700_000_000 - 5400),
        ("999999999w", 0),
        ("1600000000", 1_600_000_000),
        ("1600000000.5", 1_600_000_000.5),
        ("2020-09-13T12:26:40Z", 1_600_000_000),
        ("2020-09-13T14:26:40.25+02:00", 1_600_000_000.25),
        ("2020-09-13 12:26:40.000001+00:00", 1_600_000_000.000001),
    ],
)
def test_moments(text: str, seconds: float) -> None:
    assert parse_moment(text, NOW) == round(seconds * 10**6) * 1000


@pytest.mark.parametrize("text", ["", "1x", "h", "20201", "2020-13-01", "99999999999", "\u0661h"])
def test_no_moments(text: str) -> None:
    with pytest.raises(ValueError, match="is not a time"):
        parse_moment(text, NOW)
