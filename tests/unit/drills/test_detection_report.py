"""The detection report and the figures of noise say what the runs gave, no more."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.drills.marks import FIELD, Alert, Mark
from sib_protocol.drills.model import Kind
from sib_protocol.drills.verdicts import Result, Verdict
from sib_server.detection.rules.proofs import Proof
from sib_server.detection.rules.testing import Report
from tests.drill_report.report import ARTEFACT, Runs, beside, rule_rows, text_of
from tests.noise.figures import (
    CONTROL,
    Figures,
    figures,
    load_figures,
    rules_digest,
    save_figures,
    work_done,
)

RULES = rule_rows(
    {
        "impact": [
            {"required_engine_version": "0.50.0"},
            {"rule": "Gone", "priority": "CRITICAL", "tags": ["host", "T1485", "mitre_impact"]},
            {"rule": "Loud", "priority": "NOTICE", "tags": ["T1485", "T1486"]},
        ],
        "discovery": [{"rule": "Asked", "priority": "NOTICE"}],
    }
)
PROOF = Proof("x-1", "c", "0.44.1", "6.18", "2026-11-25T12:00:00+00:00", 1)
RUN = "0123456789ab"


def report(*verdicts: Verdict) -> Report:
    return Report("0.44.1", "6.18", "2026-11-25T12:00:00+00:00", verdicts, {"x-1": PROOF})


def verdict(name: str, rule: str, result: Result, case: str = "", **fired: int) -> Verdict:
    kind = Kind.QUIET if case else Kind.DRILL
    return Verdict(name, rule, kind, case, result, fired)


def test_what_failed_stands_first_and_nothing_is_made_up() -> None:
    done = report(
        verdict("x-1", "Gone", Result.FIRED, Gone=1),
        verdict("x-1", "Gone", Result.QUIET, "a backup"),
        verdict("x-2", "Loud", Result.SILENT),
        verdict("x-2", "Loud", Result.NOISY, "a build", Loud=2),
    )
    text = text_of(Runs(RULES, done, 2, "a machine"))
    assert "**3 rules**, 2 techniques" in text
    assert "Drills: 1 of 2 fired" in text
    assert "Quiet cases: 1 of 2 fired no rule" in text
    assert "all quiet cases quiet): 1 of 2 rules." in text
    wrong = text.partition("## Not as it should be")[2].partition("## Rule by rule")[0]
    assert "| x-2 | Loud | silent |  |" in wrong
    assert "| x-2 | quiet: a build | noisy | Loud |" in wrong
    assert "x-1" not in wrong
    assert "| x-1: Gone | critical | T1485 | 1 of 1 fired | 1 quiet |" in text
    # A rule that no drill belongs to is not passed over.
    assert "| Asked | notice |  | none | none |" in text
    assert text.index("### Impact") < text.index("### Discovery")
    assert "## Noise" not in text
    assert "Beside" not in text


def test_all_well_has_no_list_of_failures() -> None:
    text = text_of(Runs(RULES, report(verdict("x-1", "Gone", Result.FIRED)), 1, "a machine"))
    assert "Not as it should be" not in text


def test_the_falco_projects_rules_are_told_apart() -> None:
    found = beside(
        [
            verdict("x-1", "Gone", Result.FIRED, Gone=1, Theirs=1),
            verdict("x-2", "Loud", Result.FIRED, "", **{"Loud": 1, ARTEFACT: 3}),
            verdict("x-3", "Asked", Result.QUIET, "a case", Theirs=1),
        ],
        frozenset({"Gone", "Loud"}),
    )
    assert found == {"x-1": ["Theirs"]}
    text = text_of(Runs(RULES, report(), 3, "a machine", found))
    assert "in those of 1 of 3 rules" in text
    assert "| x-1 | Theirs |" in text
    assert "| drill | the Falco" not in text_of(Runs(RULES, report(), 3, "a machine", {}))


def alert(rule: str, priority: str, run: str | None = RUN, **marked: bool) -> Alert:
    fields = {FIELD: str(Mark(run, 1, **marked))} if run else {}
    return Alert(rule, "", "", priority, {**fields, "proc.name": "noise-cron"})


def noise(alerts: list[Alert], minutes: float = 30.0) -> Figures:
    return figures(
        alerts, RUN, {"ssh": 2}, rules="r1", engine="0.44.1", kernel="6.18", time="then",
        minutes=minutes, lost=7,
    )  # fmt: skip


def test_noise_is_counted_an_hour_and_only_what_the_work_did() -> None:
    found = noise(
        [
            *(alert("Loud", "Warning") for _ in range(3)),
            alert("Asked", "Notice"),
            alert("Odd", "Deafening"),
            alert("Loud", "Warning", setup=True),
            alert("Loud", "Warning", "ffffffffffff"),
            alert("Elsewhere", "Critical", None),
            alert(CONTROL, "Debug", None),
            alert(CONTROL, "Debug"),
        ]
    )
    assert found.events_an_hour == {"Loud (Warning)": 6, "Asked (Notice)": 2, "Odd (Deafening)": 2}
    assert found.above_notice == ("Loud", "Odd")
    assert found.seen == {"cron": 1}
    assert found.elsewhere == {"Elsewhere (Critical)": 1}


def test_the_report_says_whether_figures_are_of_these_rules(tmp_path: Path) -> None:
    file = tmp_path / "noise.json"
    assert load_figures(file) == ()
    both = (noise([]), noise([alert("Loud", "Warning")], 60))
    save_figures(file, both)
    assert load_figures(file) == both
    same = text_of(Runs(RULES, report(), 1, "a machine", None, both[:1], "r1"))
    assert "30 minutes, with the rules as they are now" in same
    assert "| none | 0 |" in same
    assert "Above Notice: none." in same
    assert "lost meanwhile: 7" in same
    changed = text_of(Runs(RULES, report(), 1, "a machine", None, both, "r2"))
    assert "60 minutes, with rules that were changed since" in changed
    assert "Above Notice: Loud." in changed


@given(st.lists(st.binary(max_size=9), max_size=3), st.lists(st.binary(max_size=9), max_size=3))
def test_other_rules_have_another_digest(one: list[bytes], other: list[bytes]) -> None:
    assert (rules_digest(one) == rules_digest(other)) is (one == other)


def test_work_says_what_it_did_or_it_is_an_error() -> None:
    assert work_done("ssh 1\nssh 1\ntar 2\n") == {"ssh": 2, "tar": 2}
    with pytest.raises(ValueError, match="invalid literal"):
        work_done("ssh: connection refused\n")
