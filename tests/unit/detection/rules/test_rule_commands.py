"""`sib-server rules`, as a person and as a program use it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from click.shell_completion import ShellComplete

from sib_protocol.errors import ExitCode
from sib_server import cli
from tests.support.rules import OURS, Place

BAD = "- rule: Bad\n  desc: x\n  condition: nothing = 1\n  output: x\n  priority: LOUD\n"


def test_the_list_is_a_json_line_a_rule(place: Place) -> None:
    rows = {row["id"]: row for row in place.rows("list")}
    assert rows["own-rule-1"] == {
        "id": "own-rule-1", "name": "Ours", "file": f"{place.root}/sib/ours.yaml", "line": 4,
        "source": "sib", "tactics": ["credential_access"], "techniques": ["T1003.008"],
        "priority": "WARNING", "enabled": True, "drill": True, "quiet_cases": 2,
    }  # fmt: skip
    assert rows.keys() == {"own-rule-1", "falco-stock-shell"}


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["STOCK"], ["falco-stock-shell"]),
        (["--source", "sib"], ["own-rule-1"]),
        (["--technique", "T1003"], ["own-rule-1"]),
        (["--technique", "T1003.00"], []),
        (["--tactic", "mitre_credential_access"], ["own-rule-1"]),
        (["--undrilled"], ["falco-stock-shell"]),
        (["--disabled"], []),
    ],
)
def test_the_list_is_narrowed(place: Place, arguments: list[str], found: list[str]) -> None:
    assert [row["id"] for row in place.rows("list", *arguments)] == found
    table = place.run("list", *arguments).stdout
    assert all(identity in table for identity in found)


def test_what_is_no_source_or_tactic_is_refused_and_what_is_can_be_completed(place: Place) -> None:
    for arguments in (["--source", "nobody"], ["--tactic", "nothing"]):
        assert "is not one of" in (told := place.run("list", *arguments, code=2).output) or (
            "is no tactic; known: reconnaissance" in told
        )

    def completed(*words: str) -> list[str]:
        args = ["--config", str(place.config), "rules", *words[:-1]]
        asked = ShellComplete(cli.main, {}, "sib-server", "_X")
        return [item.value for item in asked.get_completions(args, words[-1])]

    assert completed("show", "own-") == ["own-rule-1"]
    assert completed("disable", "own-rule-1", "fal") == ["falco-stock-shell"]
    assert completed("coverage", "cred") == ["credential_access"]
    assert completed("list", "--source", "s") == ["sib", "sigma"]
    place.config.write_text("no: [settings")
    assert completed("show", "own-") == []


def test_help_needs_no_settings(place: Place) -> None:
    place.config.write_text("no: [settings")
    assert "by its id or name" in place.run("show", "--help").stdout
    place.run("show", "own-rule-1", code=ExitCode.SETTINGS)


def test_lint_ends_with_1_and_names_file_and_line(place: Place) -> None:
    place.write("own/bad.yaml", BAD)
    told = place.run("lint", f"{place.root}/own", code=1).stdout
    assert f"{place.root}/own/bad.yaml:5: error: Bad: 'LOUD' is not one of" in told
    assert "ours.yaml" not in told
    result = place.run("lint", "--json", "--errors", code=1)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert {row["severity"] for row in rows} == {"error"}
    assert {(row["line"], row["lint"]) for row in rows} >= {(3, "condition"), (5, "priority")}


def test_files_elsewhere_are_judged_among_all_rules(place: Place) -> None:
    (place.root / "mine").mkdir()
    rule = OURS.split("- rule")[1].replace("Ours", "Mine")
    place.write("mine/a.yaml", "- required_engine_version: 0.50.0\n- rule" + rule)
    told = place.run("lint", f"{place.root}/mine", code=1).stdout
    # The macro of SIB's own rules is known; that there is no drill is all that is wrong.
    assert [line.rpartition("[")[2] for line in told.splitlines()] == ["missing-drill]"]
    place.run("lint", f"{place.root}/state", code=ExitCode.USAGE)
    place.run("lint", f"{place.root}/own", code=ExitCode.NOT_FOUND)


def test_a_drill_file_is_judged_with_the_rules_beside_it(place: Place) -> None:
    mine = place.root / "mine"
    mine.mkdir()
    place.write("mine/a.yaml", OURS.replace("rule: Ours", "rule: Mine"))
    place.write("mine/a.drills.yaml", "- id: x\n")
    place.write("mine/alone.drills.yaml", "[]")
    told = place.run("lint", f"{mine}/a.drills.yaml", code=1).stdout
    assert f"{mine}/a.drills.yaml:1: error: 'rule'" in told
    assert f"{mine}/a.yaml:" in told
    place.run("lint", f"{mine}/alone.drills.yaml", code=ExitCode.NOT_FOUND)


def test_a_test_names_what_to_lint_and_a_rule_that_there_is_not(place: Place) -> None:
    place.write("bad.yaml", BAD)
    bad = f"{place.root}/bad.yaml"
    assert f"`sib-server rules lint {bad}`" in place.run("test", bad, code=ExitCode.DAMAGED).stderr
    told = place.run("test", "--rule", "own-rule-l", code=ExitCode.NOT_FOUND).stderr
    assert "technique 'own-rule-l'; did you mean 'own-rule-1'?" in told


def test_the_guides_example_is_as_it_should_be(place: Place) -> None:
    """What people copy: the rule of one guide and its drills of the other."""
    rule, drills = (
        re.search(rf"```yaml\n({head}.*?)```", Path(f"docs/{name}.md").read_text(), re.DOTALL)
        for name, head in (("detection", "- required_engine"), ("drills", "- id: acme"))
    )
    assert rule
    assert drills
    place.write("acme.yaml", rule[1])
    place.write("acme.drills.yaml", drills[1])
    place.run("lint", f"{place.root}/acme.yaml")


def test_a_folder_of_sibs_own_rules_is_judged_as_such(place: Place) -> None:
    told = place.run("lint", f"{place.root}/sib", code=1).stdout
    assert "maturity" in told
    assert "replaces" not in told


def test_compile_writes_what_a_bundle_has(place: Place) -> None:
    out = place.root / "out"
    place.run("compile", "--out", str(out))
    files = {str(path.relative_to(out)) for path in out.rglob("*.yaml")}
    assert files == {"rules/01-falco.yaml", "rules/10-sib.yaml", "drills/ours.drills.yaml"}
    place.run("compile", "--out", str(out), code=ExitCode.CONFLICT)
    answer = json.loads(place.run("compile", "--out", str(out), "--replace", "--json").stdout)
    assert answer["files"].keys() == files
    (out / "mine.txt").write_text("x")
    place.run("compile", "--out", str(out), "--replace", code=ExitCode.CONFLICT)
    assert (out / "mine.txt").exists()


def test_nothing_is_compiled_from_rules_that_hosts_would_refuse(place: Place) -> None:
    place.write("own/bad.yaml", BAD)
    out = place.root / "out"
    told = place.run("compile", "--out", str(out), code=ExitCode.DAMAGED)
    assert "bad.yaml:5" in told.output
    assert not out.exists()


def test_rules_are_switched_by_whatever_they_are_called(place: Place) -> None:
    def off() -> set[str]:
        return {row["id"] for row in place.rows("list", "--disabled")}

    place.run("disable", "--dry-run", "T1003")
    assert off() == set()
    place.run("disable", "T1003", "Stock shell")
    assert off() == {"own-rule-1", "falco-stock-shell"}
    place.run("enable", "own-rule-1")
    assert off() == {"falco-stock-shell"}
    assert "(already on)" in place.run("enable", "mitre_credential_access").stdout
    told = place.run("disable", "no-such", code=ExitCode.NOT_FOUND)
    assert "rules list" in told.output


def test_show_says_what_hosts_judge_by(place: Place) -> None:
    place.tune("Ours", "who", ("proc.name", "user.name"), "passwd", "root")
    told = place.run("show", "own-rule-1").stdout
    assert "# tuned by t-2: who with 'passwd', 'root'" in told
    (rule,) = yaml.safe_load(told)
    assert rule["exceptions"][0]["values"] == [['"passwd"', '"root"']]
    answer = json.loads(place.run("show", "Ours", "--json").stdout)
    assert answer["tunings"] == [{"id": "t-2", "exception": "who", "values": ["passwd", "root"]}]
    assert len(answer["content"]) == 64
    place.write("own/local.yaml", "- rule: Stock shell\n  enabled: false\n")
    told = place.run("show", "falco-stock-shell").stdout
    assert "switched off" in told
    assert f"# changed at {place.root}/own/local.yaml:1" in told


def test_damaged_decisions_are_never_written_over(place: Place) -> None:
    (place.root / "state").mkdir()
    decisions = place.root / "state" / "decisions.json"
    for text in ("{", '{"format": 2}', '{"unknown": 1}'):
        decisions.write_text(text)
        place.run("disable", "Ours", code=ExitCode.DAMAGED)
        assert decisions.read_text() == text
