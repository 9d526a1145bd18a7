"""A spool is read from outside just as its daemon writes it, and drills are told to the server."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from hypothesis import given, settings
from hypothesis import strategies as st

from sib_agent.cli import main
from sib_agent.drilling.drilling import Drilled, choose, report, unknown_names
from sib_agent.drilling.follower import SpooledLine, SpoolFollower
from sib_agent.spool.records import SourcePosition
from sib_agent.spool.spool import Spool
from sib_protocol.drills.model import Act, Drill, Kind, QuietCase, RuleDrill
from sib_protocol.drills.records import DrillRecord, drill_event, read_drill_event
from sib_protocol.drills.verdicts import Result, Verdict
from sib_protocol.errors import FileAccessError
from sib_protocol.events import summarize

LINES = st.lists(st.binary(max_size=60).filter(lambda line: b"\n" not in line), max_size=5)


@given(
    before=st.lists(LINES.filter(bool), max_size=3),
    after=st.lists(LINES.filter(bool), max_size=8),
    segment=st.sampled_from([4096, 100_000]),
    long=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_lines_are_read_once_in_order_with_their_numbers(
    before: list[list[bytes]], after: list[list[bytes]], segment: int, long: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / "spool"
        spool = Spool.open(directory, quota_bytes=1 << 20, segment_bytes=segment)
        with closing(spool):
            for lines in before:
                spool.append(lines, SourcePosition(1, 1, 0, b""))
            first = spool.stats().next
            written: list[bytes] = []
            read: list[SpooledLine] = []
            with closing(SpoolFollower(directory)) as follower:
                for some in after:
                    lines = [line + b"x" * 3000 for line in some] if long else some
                    spool.append(lines, SourcePosition(1, 1, 0, b""))
                    written += lines
                    read += follower.new_lines()
                    # What is acknowledged may be deleted meanwhile.
                    spool.acknowledge(spool.stats().next)
                assert list(follower.new_lines()) == []
            assert [line.line for line in read] == written
            assert [line.number for line in read] == list(range(first, first + len(written)))
            assert {line.stream for line in read} <= {spool.stream}


def test_a_spool_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="does sib-agent run"):
        SpoolFollower(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(FileAccessError):
        SpoolFollower(tmp_path / "file")


TEXT = st.text(max_size=30)
RECORDS = st.builds(
    DrillRecord,
    id=st.text(min_size=1, max_size=20),
    rule=TEXT,
    result=st.sampled_from(Result),
    engine=TEXT,
    kernel=TEXT,
    bundle=TEXT,
    to_spool_s=st.none() | st.integers(0, 10**6).map(lambda ms: ms / 1000),
    to_server_s=st.none() | st.integers(0, 10**6).map(lambda ms: ms / 1000),
    why=st.none() | st.text(min_size=1, max_size=30),
)


@given(RECORDS, st.integers(0, 2**62))
def test_records_come_back_from_their_event(record: DrillRecord, time_ns: int) -> None:
    line = drill_event(record, time_ns)
    assert read_drill_event(line) == record
    summary = summarize(line)
    assert (summary.source, summary.time_ns) == ("sib", time_ns)


@given(st.binary(max_size=60))
def test_other_lines_are_no_records(line: bytes) -> None:
    assert read_drill_event(line) is None


def test_half_a_record_is_none() -> None:
    assert read_drill_event(b'{"rule":"SIB drill result","source":"sib"}') is None
    assert read_drill_event(b'{"rule":"SIB drill result","source":"syscall"}') is None


def entry(identity: str) -> RuleDrill:
    drills, quiet = (Drill(Act("x")),), (QuietCase("y", Act("y")),)
    return RuleDrill(identity, f"Rule {identity}", ("x",), drills, quiet)


def test_drills_are_chosen_by_rule_and_tactic() -> None:
    drills = [entry("a-1"), entry("a-2"), entry("b-1")]
    files = {"a-1": "impact", "a-2": "impact", "b-1": "discovery"}

    def chosen(*rules: str, tactics: frozenset[str] = frozenset()) -> list[str]:
        return [one.id for one in choose(drills, rules, tactics, files)]

    assert chosen() == ["a-1", "a-2", "b-1"]
    assert chosen("a-2", "Rule b-1") == ["a-2", "b-1"]
    assert chosen(tactics=frozenset({"impact"})) == ["a-1", "a-2"]
    assert chosen("b-1", tactics=frozenset({"impact"})) == []


def test_what_was_asked_for_and_has_no_drill_is_told() -> None:
    drills, files = [entry("a-1"), entry("b-1")], {"a-1": "impact", "b-1": "discovery"}

    def unknown(*rules: str, tactics: frozenset[str] = frozenset()) -> list[str]:
        return unknown_names(drills, rules, tactics, files)

    assert unknown() == unknown("a-1", "Rule b-1", tactics=frozenset({"impact"})) == []
    assert unknown("a-1", "a-2") == ["a-2"]
    assert unknown("b-2", tactics=frozenset({"impact", "impakt"})) == ["b-2", "impakt"]


def test_a_shell_completes_the_bundles_drills(tmp_path: Path) -> None:
    folder = tmp_path / "bundles/current/drills"
    folder.mkdir(parents=True)
    config = tmp_path / "agent.yaml"
    config.write_text(f"falco: {{bundles: {tmp_path}/bundles}}\n")

    def completed(*words: str) -> list[str]:
        asked = ShellComplete(main, {}, "sib-agent", "_X")
        found = asked.get_completions(["--config", str(config), "drill", *words[:-1]], words[-1])
        return [item.value for item in found]

    act = "drill: {{run: x}}, quiet: [{{name: x, run: x}}]"
    drill = f"- {{{{id: {{0}}, rule: R {{0}}, false_positives: [x], {act}}}}}\n"
    (folder / "impact.drills.yaml").write_text(drill.format("sib-im-001") + drill.format("x-1"))
    (folder / "discovery.drills.yaml").write_text(drill.format("sib-di-001"))
    assert completed("--rule", "sib") == ["sib-di-001", "sib-im-001"]
    assert completed("--rule", "x-1", "--tactic", "i") == ["impact"]
    (folder / "impact.drills.yaml").write_text("[")
    assert completed("--rule", "sib") == []
    config.write_text("no: [settings")
    assert completed("--tactic", "i") == []


def test_results_are_appended_as_falco_does(tmp_path: Path) -> None:
    events = tmp_path / "events.json"
    events.write_bytes(b'{"rule":"before"}\n')
    verdicts = [
        Verdict("a-1", "Seen", Kind.DRILL, "", Result.FIRED, {"Seen": 1}),
        Verdict("a-1", "Seen", Kind.QUIET, "nothing", Result.QUIET, {}),
    ]
    found = [Drilled(verdicts[0], 0.1, 0.2), Drilled(verdicts[1])]
    assert [one.is_well for one in found] == [True, True]
    assert not Drilled(verdicts[0], 0.1).is_well
    report(found, events, "0.44.1", "7")
    lines = events.read_bytes().splitlines()
    assert len(lines) == 2
    record = read_drill_event(lines[1])
    assert record is not None
    assert (record.id, record.engine, record.bundle, record.to_server_s) == (
        "a-1", "0.44.1", "7", 0.2,
    )  # fmt: skip
    events.unlink()
    (tmp_path / "link").symlink_to(events)
    with pytest.raises(FileAccessError):
        report(found, tmp_path / "link", "", "")
