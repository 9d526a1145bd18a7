from __future__ import annotations

import pytest

from sib_agent.spool.lines import NOTHING, Partial, cut_lines
from sib_agent.spool.records import SourcePosition
from sib_agent.spool.rotation import (
    Candidate,
    Standing,
    Step,
    Writers,
    find_start,
    may_leave,
    next_number,
    next_step,
    successor,
    taken_name,
    taken_number,
)

POSITION = SourcePosition(1, 50, 10, b"print")


def file(
    name: str, *, inode: int, device: int = 1, familiar: bool = False, size: int = 100
) -> Candidate:
    active = name == "events.json"
    number = taken_number("events.json", name)
    return Candidate(name, number, active, device, inode, size, familiar)


def test_names_of_taken_files() -> None:
    assert taken_number("a.json", taken_name("a.json", 12)) == 12
    for other in (
        "a.json.0.taken",
        "a.json.x.taken",
        "aXjson.1.taken",
        "a.json.1.taken~",
        "a.json",
    ):
        assert taken_number("a.json", other) is None


def test_a_new_spool_begins_with_the_oldest_file() -> None:
    files = [
        file("events.json", inode=1),
        file("events.json.10.taken", inode=2),
        file("events.json.9.taken", inode=3),
    ]
    start = find_start(None, files)
    assert start.candidate == files[2]
    assert (start.offset, start.truncated, start.done) == (0, False, 0)
    assert successor(files, 9) == files[1]
    assert successor(files, 10) == files[0]
    assert successor(files[1:], 10) is None
    assert next_number(files, 3) == 11
    assert next_number([], 3) == 4
    assert find_start(None, []).candidate is None


@pytest.mark.parametrize(
    ("name", "done"),
    [("events.json", 9), ("events.json.9.taken", 8), ("events.json.old", 9)],
)
def test_the_position_is_found_whatever_its_file_is_called(name: str, done: int) -> None:
    others = [file("events.json.9.taken", inode=9), file("events.json.8.taken", inode=8)]
    mine = file(name, inode=50, familiar=True)
    start = find_start(POSITION, [*(f for f in others if f.name != name), mine])
    assert (start.candidate, start.offset, start.truncated, start.done) == (mine, 10, False, done)


def test_other_bytes_under_the_same_inode_are_a_truncation() -> None:
    mine = file("events.json", inode=50)
    start = find_start(POSITION, [mine])
    assert (start.candidate, start.offset, start.truncated) == (mine, 0, True)


def test_a_renumbered_device_does_not_hide_the_file() -> None:
    mine = file("events.json", inode=50, device=7, familiar=True)
    assert find_start(POSITION, [mine]).offset == 10
    stranger = file("events.json", inode=50, device=7)
    start = find_start(POSITION, [stranger])
    assert (start.candidate, start.offset, start.truncated) == (stranger, 0, False)


def standing(**changes: bool | int) -> Standing:
    usual: dict[str, bool | int] = {
        "size": 10,
        "read": 10,
        "intact": True,
        "renamed": False,
        "rotate": True,
        "followed": False,
        "settled": False,
    }
    return Standing(**(usual | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        (Step.WAIT, {}),
        (Step.READ, {"size": 11}),
        (Step.RESTART, {"size": 9}),
        (Step.RESTART, {"intact": False}),
        (Step.TAKE_OVER, {"size": 1001}),
        (Step.READ, {"size": 1001, "rotate": False}),
        (Step.READ, {"size": 1001, "renamed": True, "followed": True, "settled": True}),
        (Step.WAIT, {"renamed": True}),
        (Step.WAIT, {"renamed": True, "followed": True}),
        (Step.LEAVE, {"renamed": True, "followed": True, "settled": True}),
    ],
)
def test_the_next_step(step: Step, changes: dict[str, bool | int]) -> None:
    assert next_step(standing(**changes), 1000) is step


def test_a_renamed_file_is_left_when_nobody_writes_to_it() -> None:
    assert may_leave(Writers.NONE, 0, 5)
    assert not may_leave(Writers.SOME, 100, 5)
    assert not may_leave(Writers.UNKNOWN, 4.9, 5)
    assert may_leave(Writers.UNKNOWN, 5, 5)


def test_lines_are_cut_the_same_however_the_bytes_arrive() -> None:
    data = b"one\r\n\n\ntwo\0\xff\n" + b"long" * 5 + b"\n" + b"1234567890\n\nend"
    whole = cut_lines(NOTHING, data, 10)
    assert whole.lines == [b"one\r", b"two\0\xff", b"longlonglo", b"1234567890"]
    assert (whole.shortened, whole.partial, whole.end) == (1, Partial(b"end"), len(data) - 3)
    for size in range(1, len(data)):
        partial, lines, shortened = NOTHING, [], 0
        for at in range(0, len(data), size):
            cut = cut_lines(partial, data[at : at + size], 10)
            partial = cut.partial
            lines += cut.lines
            shortened += cut.shortened
        assert (lines, partial, shortened) == (whole.lines, whole.partial, 1)


def test_a_line_without_an_end_takes_bounded_memory() -> None:
    partial = NOTHING
    for _ in range(100):
        partial = cut_lines(partial, b"x" * 1000, 1500).partial
    assert partial == Partial(b"x" * 1500, over=True)
