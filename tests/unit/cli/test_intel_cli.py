from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from sib_protocol.errors import ExitCode, FileAccessError
from sib_protocol.ids import HostName, LineNumber, new_host_id, new_stream_id
from sib_protocol.settings import parse_settings
from sib_server.cli import intel_reports as reports
from sib_server.cli.intel import intel
from sib_server.cli.intel_progress import FeedProgress
from sib_server.cli.intel_reports import events_of_file
from sib_server.detection.indicators.annotate import Annotator
from sib_server.detection.indicators.catalogue import built_in, find_feed
from sib_server.detection.indicators.settings import IntelSettings, ShippingSettings
from sib_server.events.incoming import IncomingBatch
from sib_server.events.journal import Journal
from sib_server.events.outbox import Outbox
from sib_server.events.reader import JournalReader
from sib_server.events.settings import JournalSettings
from sib_server.events.stored import Seq

OUTBOX = Path("intel") / "outbox"
FEEDS = Path(__file__).parent.parent / "detection" / "indicators" / "feeds"


def connection_line(far: str) -> bytes:
    """An event of a connection to that address."""
    fields = {"fd.name": f"10.0.0.5:40112->{far}:443"}
    return json.dumps({"hostname": "web-1", "rule": "r", "output_fields": fields}).encode()


class Shell:
    """The command beside a small root group, as the real one will hold it."""

    def __init__(self, directory: Path) -> None:
        text = f"directory: {directory}\nfeeds: {{feodo: {{enabled: false}}}}\n"
        self.settings = parse_settings(text, IntelSettings, Path("server.yaml"))
        self.journal = JournalSettings(path=directory / "journal.db")
        self.events: list[Any] = []
        self.stored: Callable[[int], list[Any]] = lambda since_ns: [
            event for event in self.events if since_ns > 0
        ]

    def __call__(self, *arguments: str) -> Result:
        @click.group()
        @click.pass_context
        def root(context: click.Context) -> None:
            context.obj = SimpleNamespace(
                settings=SimpleNamespace(intel=self.settings, journal=self.journal),
                stored_events=self.stored,
            )

        root.add_command(intel)
        return CliRunner().invoke(root, ["intel", *arguments], catch_exceptions=True)

    @staticmethod
    def recorded(directory: Path) -> Path:
        """A file with one event that meets an indicator of the feed's fixture."""
        path = directory / "events.jsonl"
        path.write_bytes(connection_line("45.66.77.88") + b"\n")
        return path

    def lines(self, *arguments: str) -> list[dict[str, Any]]:
        result = self(*arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.output
        return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "intel")


def test_update_from_a_file_lookup_and_status(shell: Shell) -> None:
    (line,) = shell.lines("update", "--feed", "feodo", "--from", str(FEEDS / "feodo.csv"), "--json")
    assert (line["outcome"], line["indicators"], line["excluded"]) == ("taken", 2, {"reserved": 1})
    known, unknown = shell.lines("lookup", "--json", "45.66.77.88", "8.8.8.8")
    assert known["found"]
    assert known["indicators"][0]["feeds"] == ["feodo"]
    assert known["indicators"][0]["notes"] == ["Dridex"]
    assert unknown == {"value": "8.8.8.8", "kind": "address", "found": False, "indicators": []}
    (status,) = shell.lines("status", "--json")
    assert status["indicators"] == {"address": 2}
    feodo = next(feed for feed in status["feeds"] if feed["feed"] == "feodo")
    assert (feodo["enabled"], feodo["indicators"], feodo["trouble"]) == (False, 2, None)
    assert next(f for f in status["feeds"] if f["feed"] == "urlhaus")["needs_key"]


def test_what_hosts_are_not_given_for_lack_of_room_is_told(shell: Shell) -> None:
    shell.settings = msgspec.structs.replace(shell.settings, shipping=ShippingSettings(addresses=1))
    words = "because 1 are the most: 1 of kind address with confidence 90 and less"
    result = shell("update", "--feed", "feodo", "--from", str(FEEDS / "feodo.csv"), "--json")
    assert words in result.stderr
    assert len(result.stdout.splitlines()) == 1
    assert words in shell("status").output
    (status,) = shell.lines("status", "--json")
    told = {"kind": "address", "limit": 1, "count": 1, "confidence": 90}
    assert status["not_shipped"] == [told]


def test_words_for_people(shell: Shell, tmp_path: Path) -> None:
    result = shell("update", "--feed", "feodo", "--from", str(FEEDS / "feodo.csv"))
    assert "feodo: taken, 2 indicators, 2 new, excluded: 1 reserved" in result.output
    result = shell("lookup", "45.66.77.88", "8.8.8.8", "what?")
    assert result.exit_code == 2
    assert "exact address 45.66.77.88, confidence 90 (high), named by feodo" in result.output
    assert "8.8.8.8: not known" in result.output
    assert "what?: no address" in result.output
    page = tmp_path / "page"
    page.write_text("<html>")
    result = shell("update", "--feed", "feodo", "--from", str(page))
    assert result.exit_code == 11
    assert "web page" in result.output
    result = shell("status")
    assert "markup: the feed has turned" in result.output.replace("\n", " ")
    assert "needs a key" in result.output
    assert "2 address" in result.output
    (parcel,) = Outbox(tmp_path / OUTBOX).parcels()
    assert json.loads(parcel.lines[0])["output_fields"]["sib.feed"] == "feodo"


def test_mistakes(shell: Shell) -> None:
    assert shell("update", "--from", "x").exit_code == 2
    assert shell("lookup").exit_code == 2
    assert shell("import", "x", "--feed", "Bad Name").exit_code == 2
    # A file of one's own is not what a feed said, and must not take its place.
    result = shell("import", str(FEEDS / "tor-exits.txt"), "--feed", "feodo")
    assert result.exit_code == 2
    assert "update --feed feodo --from" in result.output
    assert shell("allow", "what?").exit_code == 2
    assert shell("hunt", "what?").exit_code == 2
    result = shell("update", "--feed", "fedo")
    assert result.exit_code == ExitCode.NOT_FOUND
    assert "there is no feed 'fedo'" in result.stderr
    result = shell("import", "/nowhere/at/all")
    assert result.exit_code == ExitCode.FILE_ACCESS
    for command in ("update", "import", "status", "lookup", "allow", "hunt", "rules"):
        assert "Examples:" in shell(command, "--help").output


def test_a_feed_from_a_url(shell: Shell, tmp_path: Path) -> None:
    (line,) = shell.lines(
        "update", "--feed", "feodo", "--from", "http://127.0.0.1:9/feodo.csv", "--json"
    )
    assert (line["outcome"], line["trouble"]) == ("refused", "unreachable")
    (line,) = shell.lines("update", "--feed", "feodo", "--from", "http://8.8.8.8/x", "--json")
    assert line["trouble"] == "redirect"
    feed = find_feed(built_in().feeds, "urlhaus")
    assert reports.moved(feed, "https://mirror.net/x").key is None
    assert reports.moved(feed, feed.url + "?x=1").key == feed.key


def test_import_allow_and_rules(shell: Shell, tmp_path: Path) -> None:
    (line,) = shell.lines("import", str(FEEDS / "stix.json"), "--format", "stix", "--json")
    assert (line["feed"], line["indicators"]) == ("imported", 6)
    document = shell("rules").stdout
    assert "SIB lookup of an indicator (high confidence)" in document
    assert '"45.66.77.88"' in document
    assert "looked up on the server only: 1 sha256" in shell("rules").stderr
    assert shell("rules", "--output", str(tmp_path / "rules.yaml")).exit_code == 0
    assert (tmp_path / "rules.yaml").read_text() == document.removesuffix("\n")
    result = shell("allow", "45.66.77.88", "a.badhost.org", "--reason", "ours")
    assert "2 indicators went" in result.stderr
    assert "45.66.77.88  ours" in result.stdout
    assert [line["value"] for line in shell.lines("allow", "--json")] == [
        "45.66.77.88",
        "a.badhost.org",
    ]
    assert not shell.lines("lookup", "45.66.77.88", "--json")[0]["found"]
    shell("import", str(FEEDS / "stix.json"), "--format", "stix")
    assert not shell.lines("lookup", "45.66.77.88", "--json")[0]["found"]
    shell("allow", "--remove", "45.66.77.88")
    shell("import", str(FEEDS / "stix.json"), "--format", "stix")
    assert shell.lines("lookup", "45.66.77.88", "--json")[0]["found"]
    assert [f for f in shell.lines("status", "--json")[0]["feeds"] if f["feed"] == "imported"]


def test_hunt(shell: Shell, tmp_path: Path) -> None:
    shell("import", str(FEEDS / "stix.json"), "--format", "stix")
    log = tmp_path / "events"
    line = {"hostname": "web-1", "rule": "r", "time": "2026-11-01T00:00:00Z",
            "output_fields": {"fd.sip": "45.66.77.88"}}  # fmt: skip
    log.write_text(json.dumps(line) + "\nnot json\n" + json.dumps({**line, "hostname": ""}) + "\n")
    found = shell.lines("hunt", "--events", str(log), "--json", "--report")
    assert [(f["host"], f["indicator"], f["events"]) for f in found] == [
        ("unknown", "45.66.77.88", 1),
        ("web-1", "45.66.77.88", 1),
    ]
    (parcel,) = Outbox(tmp_path / OUTBOX).parcels()
    assert len(parcel.lines) == 2
    result = shell("hunt", "--events", str(log), "45.66.77.88")
    assert "web-1 met address 45.66.77.88 in 1 events, last 2026-11-01" in result.stdout
    assert "3 events searched, 1 indicators met" in result.stderr
    assert "0 indicators met" in shell("hunt", "--events", str(log), "8.8.8.8").stderr
    shell.events = list(reports.events_of_file(log))
    assert "3 events searched" in shell("hunt").stderr
    with pytest.raises(FileAccessError):
        list(reports.events_of_file(tmp_path / "none"))


def test_sentences() -> None:
    now = int(time.time())
    line = {"feed": "f", "enabled": True, "indicators": 3, "succeeded": now - 120,
            "trouble": None, "reason": None, "needs_key": False}  # fmt: skip
    assert reports.status_cells(line, now) == ("f", "yes", "3", "2 min ago", "ok")
    never = {**line, "succeeded": None, "indicators": None, "enabled": False}
    assert reports.status_cells(never, now) == ("f", "no", "", "never", "")
    with FeedProgress() as screen:
        screen.begin("feodo")
        screen.progress(5, 10)


def test_hunting_for_what_is_new_reads_the_journal_only_where_something_is(
    shell: Shell, tmp_path: Path
) -> None:
    def asked(_since: int) -> list[Any]:
        raise AssertionError("the journal was read")

    assert shell("hunt", "--new", "198.51.100.7").exit_code == 2
    shell.stored = asked
    assert shell.lines("hunt", "--new", "--json") == []
    shell("update", "--feed", "feodo", "--from", str(FEEDS / "feodo.csv"))
    # Times of indicators are whole seconds, and one of the same second is looked for twice.
    time.sleep(1.1)
    shell.stored = lambda _since: list(events_of_file(shell.recorded(tmp_path)))
    (met,) = shell.lines("hunt", "--new", "--report", "--json")
    assert (met["indicator"], met["host"]) == ("45.66.77.88", "web-1")
    (parcel,) = Outbox(tmp_path / OUTBOX).parcels()
    assert json.loads(parcel.lines[0])["rule"] == "SIB intel seen before"
    shell.stored = asked
    assert shell.lines("hunt", "--new", "--json") == []


def test_an_event_is_explained_with_where_the_fleet_met_its_indicator(shell: Shell) -> None:
    shell("update", "--feed", "feodo", "--from", str(FEEDS / "feodo.csv"))
    stream, host = new_stream_id(), new_host_id()
    journal = Journal.open(shell.journal.path)
    lines = [connection_line("45.66.77.88"), connection_line("9.9.9.9")]
    journal.append(
        [
            IncomingBatch(stream, host, HostName("web-1"), LineNumber(0), lines),
            IncomingBatch(new_stream_id(), host, HostName("db-1"), LineNumber(0), lines[:1]),
        ]
    )
    journal.close()
    with JournalReader(shell.journal.path) as reader:
        *_, last = events = reader.read(Seq(0))
    bare = shell("explain", str(last.event_id)).output
    assert "confidence 90" in bare
    assert "seen before" not in bare
    annotate = Annotator(shell.settings.directory, "journal")
    annotate(events)
    annotate.close()
    said = shell("explain", str(last.event_id)).output
    assert "fd.name: 45.66.77.88: exact address 45.66.77.88" in said
    assert "seen before on web-1: 1 events" in said
    (line,) = shell.lines("explain", f"{stream}/0", "--json")
    assert line["indicators"][0]["seen_before"] == []
    assert shell("explain", f"{stream}/1").output == "no indicator stands in this event\n"
    unknown = shell("explain", f"{stream}/9")
    assert unknown.exit_code == ExitCode.NOT_FOUND
    assert "the journal has no event" in unknown.stderr


def test_what_one_feed_said_is_forgotten(shell: Shell, tmp_path: Path) -> None:
    empty = shell("lookup", "45.66.77.88")
    assert "no feed was taken yet" in empty.stderr
    own = tmp_path / "own.txt"
    own.write_text("45.66.77.88\n45.66.77.89\n")
    shell("import", str(own), "--feed", "mine", "--kind", "address")
    shell("update", "--feed", "feodo", "--from", str(FEEDS / "feodo.csv"))
    assert "no feed" not in shell("lookup", "45.66.77.88").stderr
    assert shell("forget", "mine", "--dry-run").stdout == "2 indicators of mine would go\n"
    assert shell("forget", "mine").stdout == "2 indicators of mine went\n"
    both, own_only = shell.lines("lookup", "--json", "45.66.77.88", "45.66.77.89")
    assert both["indicators"][0]["feeds"] == ["feodo"]
    assert not own_only["found"]
    again = shell("forget", "mine")
    assert again.exit_code == ExitCode.NOT_FOUND
    assert "there is no feed 'mine'" in again.stderr
