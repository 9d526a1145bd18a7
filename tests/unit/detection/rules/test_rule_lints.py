"""Each lint against a rule that is wrong in one way, and against the same rule put right."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sib_server.detection.rules.collect import DUPLICATE_NAME, Origin, SourceFile, collect
from sib_server.detection.rules.findings import Finding, Severity
from sib_server.detection.rules.lints import LINTS, lint
from sib_server.detection.rules.reading import read_items
from sib_server.detection.rules.sidecars import read_sidecars

if TYPE_CHECKING:
    from collections.abc import Mapping

GOOD = """\
- required_engine_version: 0.50.0
- list: tools
  items: [cat, "'two words'", two words]
- macro: opened
  condition: evt.type in (open, openat) and evt.is_open_read = true
- rule: Good
  desc: it is read
  condition: opened and fd.name = /etc/shadow and proc.name in (tools)
  output: read | file=%fd.name user=%user.name process=%proc.name up=%proc.aname[2] %evt.arg.flags
  priority: WARNING
  tags: [maturity_stable, host, mitre_credential_access, T1003.008]
  exceptions:
    - name: who
      fields: [proc.name, user.name]
"""
DRILL = """\
- id: own-good-1
  rule: Good
  false_positives: [none]
  drill: {run: cat /etc/shadow}
  quiet: [{name: nothing, run: "true"}]
"""
CONDITION = 8


def findings(
    rules: str,
    *drills: str,
    origin: Origin = Origin.SIB,
    stock: str = "",
    falco_known: bool = True,
) -> tuple[Finding, ...]:
    files = []
    for name, whose, text in (("stock.yaml", Origin.FALCO, stock), ("a.yaml", origin, rules)):
        items, wrong = read_items(name, text.encode())
        assert wrong == []
        files.append(SourceFile(name, whose, name, tuple(items)))
    ruleset, twice = collect(files)
    assert {one.lint for one in twice} <= {DUPLICATE_NAME}
    sidecars = []
    for number, drill in enumerate(drills or (DRILL,)):
        entries, bad = read_sidecars(f"{number}.drills.yaml", drill.encode())
        assert bad == []
        sidecars += entries
    return lint(files, ruleset, sidecars, falco_known=falco_known)


def test_a_good_rule_has_no_findings() -> None:
    assert findings(GOOD) == ()
    assert all(one.why.endswith(".") for one in LINTS)


@pytest.mark.parametrize(
    ("old", "new", "line", "name", "severity", "part"),
    [
        ("fd.name = ", "fd.nmae = ", 8, "unknown-field", Severity.ERROR, "mean 'fd.name'?"),
        ("fd.name = ", "proc.aname[ = ", 8, "condition", Severity.ERROR, "argument"),
        ("fd.name = ", "fd.name[1] = ", 8, "unknown-field", Severity.ERROR, "no argument"),
        ("fd.name = ", "evt.arg = ", 8, "unknown-field", Severity.ERROR, "needs an argument"),
        ("opened and", "opened and evt.dir = < and", 8, "unknown-field", Severity.WARNING, "dir"),
        ("opened and", "opende and", 8, "unknown-name", Severity.ERROR, "mean 'opened'?"),
        (
            "evt.is_open_read = true",
            "opened",
            5,
            "unknown-name",
            Severity.ERROR,
            "'opened' names itself",
        ),
        ("openat)", "openta)", 5, "unknown-event-type", Severity.ERROR, "mean 'openat'?"),
        ("opened and", "not opened and", 8, "no-event-type", Severity.WARNING, "evt.type"),
        (
            "fd.name = /etc/shadow",
            'fd.name regex "(a+)+"',
            8,
            "regular-expression",
            Severity.WARNING,
            "'(a+)+'",
        ),
        (
            "fd.name = /etc/shadow",
            'fd.name regex "(?=a)b"',
            8,
            "regular-expression",
            Severity.ERROR,
            "looks ahead",
        ),
        (
            "fd.name = /etc/shadow",
            f"fd.name = {'x' * 256}",
            8,
            "condition",
            Severity.ERROR,
            "has 256 bytes",
        ),
        ("two words]", "a(b]", 2, "list-item", Severity.ERROR, "'a(b'"),
        ("two words]", f"{'x' * 256}]", 2, "list-item", Severity.ERROR, "has 256 bytes"),
        (
            "[proc.name, user.name]",
            "[proc.nam, user.name]",
            6,
            "exceptions",
            Severity.ERROR,
            "mean 'proc.name'?",
        ),
        (
            "[proc.name, user.name]",
            "[proc.name, user.name]\n      comps: [in, is]",
            6,
            "exceptions",
            Severity.ERROR,
            "'is'",
        ),
        (
            "fields: [proc.name, user.name]",
            "fields: proc.name\n      comps: startswith",
            6,
            "exceptions",
            Severity.ERROR,
            "compares by 'startswith'",
        ),
        ("in (tools)", "= tools", 8, "unknown-name", Severity.ERROR, "of 3 items"),
        (
            "- macro",
            "- list: more\n  items: [tools]\n- list: mine\n  items: [more, x]\n- macro",
            6,
            "list-item",
            Severity.ERROR,
            "'tools' here",
        ),
        ("T1003.008", "T9999", 6, "attack", Severity.WARNING, "no technique T9999"),
        ("T1003.008", "T1156, T1003.008", 6, "attack", Severity.WARNING, "is revoked in ATT&CK"),
        ("T1003.008", "T1053.003", 6, "attack", Severity.WARNING, "mitre_persistence"),
        ("mitre_cred", "mitre_kred", 6, "attack", Severity.WARNING, "'mitre_credential_access'?"),
        (
            "mitre_cred",
            "mitre_impact, mitre_cred",
            6,
            "attack",
            Severity.WARNING,
            "its tactic mitre_impact",
        ),
        ("T1003.008", "T1003.008, t1003", 6, "tags", Severity.ERROR, "'t1003'"),
        ("maturity_stable, ", "", 6, "tags", Severity.WARNING, "maturity"),
        ("%proc.name", "%proc.nmae", 9, "output", Severity.ERROR, "mean 'proc.name'?"),
        ("%proc.name", "100% %proc.name", 9, "output", Severity.ERROR, "behind `%`"),
        ("%user.name", "-", 9, "output", Severity.WARNING, "no user"),
        ("priority: WARNING", "priority: HIGH", 10, "priority", Severity.ERROR, "'HIGH'"),
        ("0.50.0", "0.99.0", 1, "engine-version", Severity.ERROR, "wants engine 0.99.0"),
        ("0.50.0", "new", 1, "engine-version", Severity.ERROR, "'new' is not a version"),
        ("- list", "- list: idle\n  items: []\n- list", 2, "unused", Severity.WARNING, "this list"),
    ],
)
def test_each_lint_finds_its_fault_at_its_line(
    old: str, new: str, line: int, name: str, severity: Severity, part: str
) -> None:
    assert GOOD.count(old) >= 1
    found = [one for one in findings(GOOD.replace(old, new, 1)) if one.lint == name]
    assert {(one.place.file, one.place.line, one.severity) for one in found} == {
        ("a.yaml", line, severity)
    }, found
    assert part in " ".join(one.reason for one in found)


def test_a_misspelt_list_is_told_since_falco_takes_it_for_a_text() -> None:
    rules = GOOD.replace("list: tools", "list: file_tools").replace("(tools)", "(file_tool)")
    (one,) = [one for one in findings(rules) if one.lint == "unknown-name"]
    assert (one.place.line, one.severity) == (8, Severity.WARNING)
    assert one.reason == "there is no list 'file_tool'; did you mean 'file_tools'?"
    for fine in ("file_tools", '"file_tool"', "docker_engine", "filetool"):
        about = findings(rules.replace("(file_tool)", f"({fine})"))
        assert "unknown-name" not in {one.lint for one in about}, fine


def lints(found: tuple[Finding, ...]) -> Mapping[str, str]:
    return {one.lint: str(one.place) for one in found}


def test_what_is_missing_is_told() -> None:
    bare = GOOD[: GOOD.index("  exceptions")].replace("- required_engine_version: 0.50.0\n", "")
    bare = bare.replace("mitre_credential_access, T1003.008", "audit")
    assert lints(findings(bare, "", origin=Origin.OWN)) == {
        "missing-drill": "a.yaml:5",
        "missing-exceptions": "a.yaml:5",
        "tags": "a.yaml:5",
        "engine-version": "a.yaml:1",
    }


def test_each_technique_of_a_rule_wants_a_drill_among_several() -> None:
    def with_drills(proves: str) -> str:
        several = f'[{{name: a, proves: [{proves}], run: "true"}}]'
        return DRILL.replace("drill: {run: cat /etc/shadow}", f"drills: {several}")

    assert findings(GOOD, with_drills("T1003.008")) == ()
    (one,) = findings(GOOD.replace("T1003.008", "T1003.008, T1552"), with_drills("T1003.008"))
    assert (str(one.place), one.reason) == ("a.yaml:6", "no drill proves T1552")
    (two,) = findings(GOOD, with_drills("T1003.008, T1552"))
    assert two.reason == "a drill proves T1552, which is no tag of the rule"


def test_drill_entries_belong_to_one_rule_each() -> None:
    second = DRILL.replace("rule: Good", "rule: Goods")
    found = findings(GOOD, DRILL, second)
    assert "there is no rule of this name; did you mean 'Good'?" in {one.reason for one in found}
    assert lints(found) == {
        "duplicate-id": "1.drills.yaml:1",
        "drill-without-rule": "1.drills.yaml:1",
    }


def test_every_definition_of_a_name_is_judged_not_only_the_last() -> None:
    """Whoever takes the last one away again must not be the first to learn what is wrong."""
    rule = GOOD[GOOD.index("- rule") :]
    wrong = ["evt.no_such", "fd.nmae", "%fd.nmea"]
    text = (
        GOOD.replace("evt.is_open_read", wrong[0])
        + rule.replace("fd.name = ", f"{wrong[1]} = ")
        + rule.replace("file=%fd.name", f"file={wrong[2]}")
        + GOOD[GOOD.index("- macro") :]
    )
    found = findings(text)
    for name in wrong:
        line = text[: text.index(name)].count("\n") + 1
        about = [one for one in found if name.strip("%") in one.reason]
        assert ("a.yaml", line) in {(one.place.file, one.place.line) for one in about}, name
    assert findings(GOOD + rule + rule) == ()


def test_converted_rules_are_judged_only_by_what_hosts_refuse() -> None:
    bare = GOOD[: GOOD.index("  exceptions")].replace("maturity_stable", "x")
    assert findings(bare, "", origin=Origin.SIGMA) == ()
    assert lints(findings(bare.replace("fd.name =", "x.y ="), "", origin=Origin.SIGMA)) == {
        "unknown-field": "a.yaml:8"
    }


def test_falcos_own_rules_are_not_judged_but_their_names_are_known() -> None:
    stock = "- macro: stock_read\n  condition: evt.type = open and no.such = 1\n"
    rules = GOOD.replace("opened and fd", "opened and stock_read and fd")
    assert findings(rules, stock=stock) == ()
    (one,) = findings(rules, falco_known=False)
    assert one.severity is Severity.WARNING
    assert "detection.falco_rules" in one.reason
    (one,) = findings(rules)
    assert one.severity is Severity.ERROR
    # What no file of a host's could mend is an error either way.
    (one,) = findings(GOOD.replace("in (tools)", "= tools"), falco_known=False)
    assert one.severity is Severity.ERROR
