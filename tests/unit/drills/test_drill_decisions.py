"""What is judged of acts, how marks are read, and what a drill may not do: pure decisions."""

from __future__ import annotations

import os
import platform
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.drills.confinement import system_call_filter
from sib_protocol.drills.marks import FIELD, Alert, Mark, new_run, parse_alert, parse_mark
from sib_protocol.drills.model import Act, Drill, Kind, QuietCase, RuleDrill
from sib_protocol.drills.sandbox import Outcome
from sib_protocol.drills.standin import standin_program
from sib_protocol.drills.verdicts import Result, by_act, judge, not_run, plan, summary

QUIET = (QuietCase("nothing", Act("true")),)
DRILL = RuleDrill("a-1", "Seen", ("A person.",), (Drill(Act("x")),), QUIET)
RUN = "0123456789ab"
OURS = {"Seen", "Other"}


def alert(rule: str, number: int = 1, *, run: str = RUN, setup: bool = False) -> Alert:
    fields = {FIELD: str(Mark(run, number, setup)), "proc.pid": 1}
    return Alert(rule, "2026-11-25T12:00:01.500000000Z", output_fields=fields)


@given(st.integers(0, 999_999), st.booleans())
def test_marks_are_read_as_they_are_written(number: int, setup: bool) -> None:
    mark = Mark(new_run(), number, setup)
    assert parse_mark(str(mark)) == mark


@given(st.text(max_size=40))
def test_nothing_else_is_a_mark(text: str) -> None:
    mark = parse_mark(text)
    assert mark is None or str(mark) == text or text.split("/")[1].startswith("0")


def test_alerts_are_tied_to_their_act_alone() -> None:
    mine, other = alert("Seen", 1), alert("Seen", 2)
    strangers = [
        alert("Seen", 1, run="ffffffffffff"),
        alert("Seen", 1, setup=True),
        Alert("Seen"),
        Alert("Seen", output_fields={FIELD: None}),
    ]
    assert by_act(RUN, [mine, other, *strangers]) == {1: [mine], 2: [other]}


def test_a_plan_has_drills_and_quiet_cases_as_asked() -> None:
    assert [(one.kind, one.name) for one in plan([DRILL], quiet=False)] == [(Kind.DRILL, "")]
    assert [(one.number, one.kind, one.name) for one in plan([DRILL], quiet=True)] == [
        (1, Kind.DRILL, ""),
        (2, Kind.QUIET, "nothing"),
    ]
    assert [one.kind for one in plan([DRILL], quiet=True, drill=False)] == [Kind.QUIET]


def test_each_of_several_drills_is_judged_by_itself() -> None:
    ways = tuple(Drill(Act(name), name, (f"T100{name}",)) for name in "12")
    first, second = plan([RuleDrill("a-1", "Seen", ("A person.",), ways, QUIET)], quiet=False)
    well, silent = (
        judge(first, Outcome(0), [alert("Seen")], OURS),
        judge(second, Outcome(0), [], OURS),
    )
    assert (well.title, well.result, well.proves) == ("Seen: 1", Result.FIRED, ("T1001",))
    assert (silent.title, silent.result) == ("Seen: 2", Result.SILENT)


START = 1_795_608_000_000_000_000  # 2026-11-25T12:00:00Z


def test_a_drill_is_proven_by_its_own_rule_alone() -> None:
    one = plan([DRILL], quiet=False)[0]
    well = judge(one, Outcome(1, "x failed", started_ns=START), [alert("Seen")], OURS)
    assert (well.result, well.delay_s, well.why) == (Result.FIRED, 1.5, None)
    silent = judge(one, Outcome(0, "hm"), [alert("Other")], OURS)
    assert (silent.result, silent.fired, silent.why) == (Result.SILENT, {"Other": 1}, "hm")
    ended = judge(one, Outcome(None, "", "it took longer than 10 s"), [], OURS)
    assert (ended.result, ended.why) == (Result.SILENT, "it took longer than 10 s")


def test_a_quiet_case_is_quiet_only_if_it_was_done_whole() -> None:
    one = plan([DRILL], quiet=True, drill=False)[0]
    assert judge(one, Outcome(0, "words"), [alert("Stock rule")], OURS).result is Result.QUIET
    noisy = judge(one, Outcome(0), [alert("Other"), alert("Other")], OURS)
    assert (noisy.result, noisy.fired) == (Result.NOISY, {"Other": 2})
    half = judge(one, Outcome(127, "not found"), [], OURS)
    assert (half.result, half.why) == (
        Result.NOT_RUN,
        "the act ended with status 127: not found",
    )
    absent = not_run(one, "not on this host: python3")
    assert not absent.result.is_well
    assert summary([noisy, half, absent]) == {Result.NOISY: 1, Result.NOT_RUN: 2}


@given(st.binary(max_size=80))
def test_no_line_crashes_the_alert_reader(line: bytes) -> None:
    parse_alert(line)


def test_the_stand_in_leaves_with_0_whatever_it_is_told(tmp_path: Path) -> None:
    program = standin_program(platform.machine())
    assert program is not None
    place = tmp_path / "rm"
    place.write_bytes(program)
    place.chmod(0o755)
    done = subprocess.run([place, "-rf", "/", "--help"], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")
    assert standin_program("vax") is None


def decide(program: bytes, arch: int, number: int, first_argument: int = 0) -> int:
    """Run a seccomp program as the kernel does."""
    data = struct.pack("<iIQ6Q", number, arch, 0, first_argument, *[0] * 5)
    code = [struct.unpack_from("<HBBI", program, at) for at in range(0, len(program), 8)]
    at = value = 0
    while True:
        operation, yes, no, operand = code[at]
        if operation == 0x20:
            value = struct.unpack_from("<I", data, operand)[0]
        elif operation == 0x06:
            return int(operand)
        else:
            holds = value == operand if operation == 0x15 else value >= operand
            at += yes if holds else no
        at += 1


ALLOWED, REFUSED = 0x7FFF0000, 0x00050001


@pytest.mark.parametrize(
    ("machine", "arch", "kill", "read", "prlimit", "keyctl"),
    [("x86_64", 0xC000003E, 62, 0, 302, 250), ("aarch64", 0xC00000B7, 129, 63, 261, 219)],
)
def test_beside_the_host_no_process_can_be_signalled(
    machine: str, arch: int, kill: int, read: int, prlimit: int, keyctl: int
) -> None:
    beside = system_call_filter(machine, contained=False)
    alone = system_call_filter(machine, contained=True)
    assert beside is not None
    assert alone is not None
    assert decide(beside, arch, kill, 1) == REFUSED
    assert decide(alone, arch, kill, 1) == ALLOWED
    assert decide(beside, arch, prlimit, 1) == REFUSED
    assert decide(beside, arch, prlimit, 0) == ALLOWED
    for program in (beside, alone):
        assert decide(program, arch, read) == ALLOWED
        assert decide(program, arch, keyctl) == REFUSED
        # Numbers of another architecture mean other calls, and so does x32.
        assert decide(program, arch ^ 1, read) == REFUSED
        assert decide(program, arch, read | 0x40000000) == REFUSED
    assert system_call_filter("vax", contained=True) is None


def test_root_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    from sib_protocol.drills.sandbox import IsolationError, perform  # noqa: PLC0415

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(IsolationError, match="only root"):
        perform(Act("true"), Mark(RUN, 1))
