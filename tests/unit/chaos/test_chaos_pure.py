"""The fault harness's own decisions: a harness that sees nothing would find nothing."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sib_protocol.events import summarize
from sib_server.events.sinks.loki_answers import Refusal, Verdict, read_answer
from tests.chaos.faults import too_far_behind, too_old
from tests.chaos.schedule import WEIGHTS, Kind, make_schedule
from tests.chaos.verdict import digest, judge, number_in
from tests.chaos.writer import Writer, alert_line, make_line, wait_until


def test_a_seed_makes_one_schedule_with_every_sort_of_fault() -> None:
    schedule = make_schedule(7, 500, 1.0)
    assert schedule == make_schedule(7, 500, 1.0)
    assert schedule != make_schedule(8, 500, 1.0)
    assert {(fault.kind, fault.target) for fault in schedule} == WEIGHTS.keys()
    assert [fault.at for fault in schedule] == sorted(fault.at for fault in schedule)
    assert 400 < schedule[-1].at < 600
    clocks = {fault.days for fault in schedule if fault.kind is Kind.CLOCK}
    assert clocks == {-1, 1}
    assert len(make_schedule(7, 5, 1.0)) == 5


def test_every_way_to_break_the_promise_is_seen() -> None:
    lines = [alert_line(number) for number in range(6)]
    written = {number: digest(line) for number, line in enumerate(lines)}
    whole = dict.fromkeys(range(6), 1)
    assert not judge(written, lines, {"loki": whole, "webhook": dict.fromkeys(range(6), 3)})

    found = judge(
        written,
        [*lines[:3], lines[2], lines[4] + b" ", lines[5], b"who wrote this", alert_line(77)],
        {"loki": {0: 1, 1: 1}, "webhook": whole},
    )
    assert found
    assert found.missing_in_journal == [3]
    assert found.doubled_in_journal == [2]
    assert found.changed_in_journal == [4]
    assert found.strange_in_journal == 2
    assert found.missing_in_sinks == {"loki": [2, 3, 4, 5], "webhook": []}
    assert found.numbers == [2, 3, 4, 5]
    assert found.as_json()["missing_in_loki"] == {"count": 4, "first": [2, 3, 4, 5]}
    sinks: list[dict[str, dict[int, int]]] = [{"loki": {}}, {"webhook": {}}]
    for only in sinks:
        assert judge(written, lines, only)


def test_every_line_keeps_its_number_within_what_loki_keeps() -> None:
    draw = random.Random(1)
    lines = [make_line(number, draw) for number in range(3000)]
    assert [number_in(line[:60]) for line in lines] == list(range(3000))
    assert not any(b"\n" in line for line in lines)
    assert max(map(len, lines)) > 400_000
    assert any(b"\xff" in line for line in lines)
    assert not summarize(alert_line(5)).unparsed
    assert len(alert_line(5, 700)) == 700


def test_the_writer_writes_each_line_once_and_knows_its_files(tmp_path: Path) -> None:
    path = tmp_path / "events.json"
    writer = Writer(path, rate=1000.0, seed=3)
    writer.start()
    try:
        assert wait_until(lambda: len(writer.written) > 100, 20)
        with writer.between_lines():
            assert path.read_bytes().endswith(b"\n")
            first = path.read_bytes().splitlines()
            path.rename(tmp_path / "old")
        assert wait_until(lambda: writer.begun_in[1] > 0, 20)
        assert writer.begun_in == (path.stat().st_ino, len(first))
    finally:
        writer.stop()
    assert not writer.failures
    lines = (tmp_path / "old").read_bytes().split(b"\n")[:-1] + path.read_bytes().split(b"\n")[:-1]
    assert not judge(writer.written, lines, {})


@pytest.mark.parametrize("text", [too_old, too_far_behind])
def test_injected_refusals_are_read_as_loki_s(text: object) -> None:
    answer = read_answer(400, text("web-1", 1_795_568_118.0), 10)  # type: ignore[operator]
    assert (answer.verdict, answer.refusal) == (Verdict.REFUSED, Refusal.TIME)
    assert answer.oldest_ns or answer.behind_ns
