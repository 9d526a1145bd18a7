"""Drill files are read strictly: every problem has its line, and nothing crashes the reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.drills.model import Act, Drill, Endpoint, QuietCase, RuleDrill
from sib_protocol.drills.parsing import (
    DrillFilesError,
    load_drills,
    missing_drills,
    parse_drills,
)
from sib_protocol.errors import FileAccessError

SHIPPED = Path(__file__).resolve().parents[3] / "rules" / "falco"
HERE = Path("x.drills.yaml")
GOOD = """\
- id: my-rule-001
  rule: Something seen
  false_positives:
    - A person.
  drill:
    setup: |
      touch /tmp/x
    run: |
      cat /tmp/x
    contained: true
    needs: [python3]
    listen: ["127.0.0.1:8080", udp/10.0.0.53:53]
  quiet:
    - name: nothing much
      run: "true"
"""


def test_everything_an_entry_can_say() -> None:
    found, problems = parse_drills(GOOD, HERE)
    assert problems == ()
    listen = (Endpoint("127.0.0.1", 8080), Endpoint("10.0.0.53", 53, udp=True))
    act = Act("cat /tmp/x\n", "touch /tmp/x\n", True, ("python3",), listen)
    quiet = (QuietCase("nothing much", Act("true")),)
    drills = (Drill(act),)
    assert found == (RuleDrill("my-rule-001", "Something seen", ("A person.",), drills, quiet, 1),)


SEVERAL = GOOD.replace(
    """\
  drill:
    setup: |
      touch /tmp/x
    run: |
      cat /tmp/x
""",
    """\
  drills:
    - name: one way
      proves: [T1003.008]
      run: cat /tmp/x
    - name: another
      proves: [T1552, T1003]
      run: cat /tmp/y
""",
).replace(
    """\
    contained: true
    needs: [python3]
    listen: ["127.0.0.1:8080", udp/10.0.0.53:53]
""",
    "",
)


def test_a_rule_may_have_several_drills() -> None:
    (found,), problems = parse_drills(SEVERAL, HERE)
    assert problems == ()
    assert found.drills == (
        Drill(Act("cat /tmp/x"), "one way", ("T1003.008",)),
        Drill(Act("cat /tmp/y"), "another", ("T1552", "T1003")),
    )


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("    - name: one way\n      proves", "    - proves", 6, "wants its 'name' and"),
        ("      proves: [T1003.008]\n", "", 6, "the techniques it 'proves'"),
        ("T1003.008", "T1003.8", 7, "is not a technique"),
        ("another", "one way", 9, "an act named 'one way' stands here twice"),
        ("  drills:", "  drill:\n    run: id\n  drills:", 1, "either 'drill'"),
        ("  drills:", "  kept:", 5, "unknown key 'kept'"),
        ("cat /tmp/y", "''", 11, "empty"),
    ],
)
def test_problems_of_several_drills(old: str, new: str, line: int, said: str) -> None:
    assert old in SEVERAL
    found, problems = parse_drills(SEVERAL.replace(old, new, 1), HERE)
    assert found == ()
    assert (problems[0].line, said in problems[0].reason) == (line, True), problems


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("contained: true", "containd: true", 10, "unknown key 'containd'"),
        ("contained: true", "contained: perhaps", 10, "true or false"),
        ("id: my-rule-001", "id: My Rule", 1, "is not a rule id"),
        ("  rule: Something seen\n", "", 1, "'rule' is missing"),
        (GOOD, "- id: x-1\n  quiet: []\n", 1, "'rule' and 'false_positives' are missing"),
        ("    - A person.", "    - {a: b}", 4, "a text is wanted"),
        ("    run: |\n      cat /tmp/x\n", "", 6, "'run' is missing"),
        ("    run: |\n      cat /tmp/x\n", "    run: ''\n", 8, "empty"),
        ("    run: |", "    run: |\n      x\n    run: |", 10, "stands here twice"),
        ("needs: [python3]", "needs: [/usr/bin/python3]", 11, "not paths"),
        ("127.0.0.1:8080", "example.org:80", 12, "is not like 127.0.0.1:8080"),
        ("127.0.0.1:8080", "127.0.0.1:99999", 12, "is not like 127.0.0.1:8080"),
        ("udp/", "sctp/", 12, "is not like"),
        ("    - name: nothing much\n      run", "    - run", 14, "'name' is missing"),
        ('    - name: nothing much\n      run: "true"\n', "    []\n", 14, "a list of 1 to 32 acts"),
        ('run: "true"\n', 'run: "true"\n    - name: nothing much\n      run: id\n', 16, "twice"),
        ("- id", "x: &a 1\n- id", 2, "not valid YAML"),
        ("[python3]", "[*a]", 1, "anchors"),
        ("cat /tmp/x", "cat " + "x" * 9000, 8, "longer than"),
    ],
)
def test_problems_name_their_line(old: str, new: str, line: int, said: str) -> None:
    assert old in GOOD
    found, problems = parse_drills(GOOD.replace(old, new, 1), HERE)
    assert found == ()
    assert (problems[0].line, said in problems[0].reason) == (line, True), problems
    assert str(problems[0]).startswith(f"x.drills.yaml:{line}: ")


def test_ids_and_rules_are_unique_in_a_file_and_over_files(tmp_path: Path) -> None:
    _, problems = parse_drills(GOOD + GOOD, HERE)
    assert [problem.line for problem in problems] == [16, 16]
    (tmp_path / "a.drills.yaml").write_text(GOOD)
    (tmp_path / "b.drills.yaml").write_text(GOOD.replace("Something", "Anything"))
    with pytest.raises(DrillFilesError, match=r"b\.drills\.yaml:1: the id 'my-rule-001' stands in"):
        load_drills(tmp_path)


def test_what_is_not_there_or_not_text_or_too_large(tmp_path: Path) -> None:
    with pytest.raises(FileAccessError, match="no such file"):
        load_drills(tmp_path / "none")
    path = tmp_path / "a.drills.yaml"
    path.write_bytes(b"\xff")
    with pytest.raises(FileAccessError, match="not UTF-8"):
        load_drills(path)
    path.write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(FileAccessError, match="larger than"):
        load_drills(path)
    path.write_text("")
    assert load_drills(path) == ()
    path.write_text("[" * 5000)
    with pytest.raises(DrillFilesError, match="not valid YAML"):
        load_drills(path)
    path.write_text("a: b")
    with pytest.raises(DrillFilesError, match="a list of drills"):
        load_drills(path)


@given(st.text(max_size=200) | st.integers(0, len(GOOD)).map(lambda at: GOOD[:at] + GOOD[at + 3 :]))
def test_no_text_crashes_the_reader(text: str) -> None:
    found, problems = parse_drills(text, HERE)
    assert all(problem.line >= 1 and problem.reason for problem in problems)
    assert all(entry.quiet and all(one.act.run for one in entry.drills) for entry in found)


def test_every_shipped_rule_has_a_drill_and_every_drill_a_rule() -> None:
    import yaml  # noqa: PLC0415

    rules = {}
    for path in sorted(SHIPPED.glob("*.yaml")):
        if not path.name.endswith(".drills.yaml"):
            for item in yaml.safe_load(path.read_text()):
                if "rule" in item:
                    rules[item["rule"]] = (path, 0)
    drills = load_drills(SHIPPED)
    assert missing_drills(rules, drills) == []
    assert {drill.rule for drill in drills} == set(rules)
