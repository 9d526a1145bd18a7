"""The files of a bundle, from folders of rules and what was decided about them."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
import yaml

from sib_protocol.errors import FileAccessError
from sib_server.detection.rules import sources
from sib_server.detection.rules.compile import CompiledRules, RuleErrorsError, compile_rules
from sib_server.detection.rules.indicators import indicator_rules
from sib_server.detection.rules.sources import NoRulesError
from tests.support.rules import FALCO, OURS, Place

PLUGINS = """
- required_plugin_versions:
    - {name: container, version: 0.4.0}
- rule: Newer
  desc: x
  condition: evt.type = execve and macro_of_tomorrow
  output: x %proc.name %user.name
  priority: NOTICE
"""
CHANGES = """
- macro: mine
  condition: proc.name = mine
- macro: user_known
  condition: or mine
  override: {condition: append}
- list: stock_shells
  items: [zsh]
  append: true
- rule: Stock shell
  output: and %proc.cmdline
  override: {output: append}
"""


def decided(compiled: CompiledRules) -> list[dict[str, object]]:
    documents: list[dict[str, object]] = yaml.safe_load(compiled.files["rules/99-decisions.yaml"])
    return documents


def told(compiled: CompiledRules, name: str) -> list[dict[str, object]]:
    documents: list[dict[str, object]] = yaml.safe_load(compiled.files[f"rules/{name}.yaml"])
    return documents


def test_the_same_sources_give_the_same_bytes(place: Place) -> None:
    first, second = place.compile(), place.compile()
    assert list(first.files) == [
        "drills/ours.drills.yaml", "rules/01-falco.yaml", "rules/10-sib.yaml",
    ]  # fmt: skip
    assert dict(first.files) == dict(second.files)
    assert first.checked() is first
    # SIB's macros are put in, and the type of the event, which a host's Falco asks by anyway, last.
    condition = "fd.name = /etc/shadow and evt.type = open"
    macro, rule = yaml.safe_load(OURS)
    # Falco's defaults, which it forgets where an override replaces exceptions.
    rule["exceptions"][0]["comps"] = ["=", "="]
    assert told(first, "10-sib") == [macro, {**rule, "condition": condition}]
    rows = {entry.id: entry.row() for entry in first.entries}
    assert rows["own-rule-1"] == {
        "id": "own-rule-1", "name": "Ours", "file": str(place.root / "sib/ours.yaml"), "line": 4,
        "source": "sib", "tactics": ("credential_access",), "techniques": ("T1003.008",),
        "priority": "WARNING", "enabled": True, "drill": True, "quiet_cases": 2,
    }  # fmt: skip
    assert rows["falco-stock-shell"]["source"] == "falco"


def test_the_projects_rules_go_with_the_others_so_that_any_host_can_load_them(
    place: Place,
) -> None:
    place.write("falco/falco_rules.yaml", FALCO + PLUGINS)
    compiled = place.compile()
    assert compiled.errors == ()
    *names, rule = told(compiled, "01-falco")
    assert [next(iter(one.values())) for one in names] == [
        "stock_shells", "stock_spawned", "user_known",
    ]  # fmt: skip
    # The names of the project's macros stay: they are what its users change.
    assert rule["condition"] == "proc.name in (stock_shells) and stock_spawned"
    # For a host without the plugin that knows a field.
    assert rule["skip-if-unknown-filter"] is True


def test_a_decision_that_no_host_would_hear_of_is_an_error(place: Place) -> None:
    place.write("falco/falco_rules.yaml", FALCO + PLUGINS)
    place.switch("Newer", enabled=False)
    (error,) = place.compile().errors
    assert (error.rule, error.lint) == ("Newer", "tuning")
    assert "reaches no host" in error.reason


def test_decisions_about_the_projects_rules_are_overrides(place: Place) -> None:
    place.switch("Stock shell", enabled=False)
    place.tune("Stock shell", "names", ("proc.pname",), "cron job")
    place.tune("Stock shell", "pairs", ("proc.pname", "user.name"), "make", "ci")
    assert decided(place.compile()) == [
        {
            "rule": "Stock shell",
            "exceptions": [
                {"name": "names", "values": ['"cron job"']},
                {"name": "pairs", "values": [[['"make"'], '"ci"']]},
            ],
            "enabled": False,
            "override": {"exceptions": "append", "enabled": "replace"},
        }
    ]


def test_own_and_tuned_rules_of_ours_are_overridden_in_place(place: Place) -> None:
    place.tune("Ours", "who", ("proc.name", "user.name"), "passwd", "root")
    place.switch("T1003", enabled=False, by="technique")
    compiled = place.compile()
    assert decided(compiled) == [
        {
            "rule": "Ours",
            "exceptions": [{"name": "who", "values": [['"passwd"', '"root"']]}],
            "enabled": False,
            "override": {"exceptions": "append", "enabled": "replace"},
        }
    ]
    assert [entry.rule.enabled for entry in compiled.entries] == [True, False]


def test_own_changes_of_what_falco_defines_are_told(place: Place) -> None:
    place.write("own/local.yaml", CHANGES)
    compiled = place.compile()
    assert compiled.errors == ()
    assert told(compiled, "60-own") == [
        {"macro": "mine", "condition": "proc.name = mine"},
        {"macro": "user_known", "condition": "or mine", "override": {"condition": "append"}},
        {"list": "stock_shells", "items": ["zsh"], "override": {"items": "append"}},
        {"rule": "Stock shell", "output": "and %proc.cmdline", "override": {"output": "append"}},
    ]
    # What Falco adds to a condition it adds as text, behind the one that is written.
    assert (
        told(compiled, "01-falco")[3]["condition"]
        == "stock_spawned and proc.name in (stock_shells)"
    )


def test_a_tuning_that_no_longer_fits_is_told_and_left_out(place: Place) -> None:
    place.tune("Ours", "who", ("proc.name",), "passwd")
    place.tune("Gone", "who", ("proc.name",), "passwd")
    compiled = place.compile()
    assert "rules/99-decisions.yaml" not in compiled.files
    misfits = [finding.rule for finding in compiled.findings if finding.lint == "tuning"]
    assert misfits == ["Gone", "Ours"]


def test_errors_forbid_a_bundle_and_name_file_line_and_rule(place: Place) -> None:
    place.write("own/bad.yaml", "- rule: Bad\n  desc: x\n\n- macro: m\n  condition: [1]\n")
    compiled = place.compile()
    errors = compiled.errors
    with pytest.raises(RuleErrorsError) as caught:
        compiled.checked()
    assert caught.value.findings == errors
    path = place.root / "own/bad.yaml"
    assert [(str(error.place), error.rule) for error in errors] == [
        (f"{path}:1", "Bad"),
        (f"{path}:5", "m"),
    ]


def test_without_sibs_own_rules_nothing_is_made(place: Place) -> None:
    (place.root / "sib/ours.yaml").unlink()
    with pytest.raises(NoRulesError):
        place.compile()


def test_the_rules_that_are_shipped_compile_without_an_error(tmp_path: Path) -> None:
    place = Place(tmp_path)
    settings = msgspec.structs.replace(
        place.settings,
        detection=msgspec.structs.replace(
            place.settings.detection, shipped_rules=None, falco_rules=tmp_path / "none"
        ),
    )
    compiled = compile_rules(settings).checked()
    assert len(compiled.entries) > 100
    # The macros and fields of the Falco project's rules are not used, so nothing is unknown.
    assert compiled.findings == ()
    assert all(entry.drill and entry.quiet_cases for entry in compiled.entries)


def test_sigma_rules_and_indicators_go_with_the_others(place: Place) -> None:
    place.import_others()
    place.tune("Shadow read by cat", "sib_tuning", ("proc.name",), "cat", adds=True)
    place.switch("sib_intel", enabled=False, by="tag")
    compiled = place.compile().checked()
    assert [name for name in compiled.files if name.startswith("rules/")] == [
        "rules/01-falco.yaml",
        "rules/10-sib.yaml",
        "rules/50-sigma.yaml",
        "rules/55-intel.yaml",
        "rules/99-decisions.yaml",
    ]
    rows = {entry.id: entry.row() for entry in compiled.entries}
    sigma = rows["sigma:11111111-2222-4333-8444-555555555555"]
    assert (sigma["source"], sigma["techniques"]) == ("sigma", ("T1003.008",))
    intel = [row for row in rows.values() if row["source"] == "intel"]
    assert intel
    assert not any(row["enabled"] for row in intel)
    assert decided(compiled)[0]["exceptions"] == [
        {"name": "sib_tuning", "fields": ["proc.name"], "comps": ["="], "values": [['"cat"']]}
    ]


def test_files_that_cannot_be_used_are_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.write("own/a b.yaml", "[]")
    place.write("own/.hidden.yaml", "- bad")
    place.write("own/c.drills.yaml", "- bad")
    place.write("own/d.yaml", "- list: unused_here\n  items: []\n")
    (place.root / "own/d.drills.yaml").write_bytes(b"\xff")
    found = place.compile().errors
    assert [(Path(one.place.file).name, one.lint) for one in found] == [
        ("a b.yaml", "file-name"),
        ("d.drills.yaml", "drill-file"),
    ]
    monkeypatch.setattr(sources, "MAX_FILES", 1)
    with pytest.raises(FileAccessError, match="more than 1 rules files"):
        place.compile()


def test_what_is_there_and_cannot_be_read_is_an_error(place: Place) -> None:
    (place.root / "own/x.yaml").symlink_to("/proc/self/mem")
    with pytest.raises(FileAccessError):
        place.compile()


def test_two_entries_for_one_rule_are_told(place: Place) -> None:
    place.write("own/x.yaml", "[]")
    drills = (place.root / "sib/ours.drills.yaml").read_text()
    place.write("own/x.drills.yaml", drills.replace("own-rule-1", "own-rule-2"))
    (one,) = place.compile().errors
    assert "has an entry already" in one.reason


def test_what_a_changed_stock_rule_names_must_be_there(place: Place) -> None:
    place.write("own/x.yaml", "- rule: Stock shell\n  condition: and nowhere\n  append: true\n")
    compiled = place.compile()
    assert "'nowhere' is not known" in compiled.errors[0].reason


def test_the_indicators_file_is_kept_for_an_hour_and_a_generation(place: Place) -> None:
    now = [1_800_000_000.0]

    def made() -> bytes:
        return indicator_rules(place.settings, clock=lambda: now[0])

    assert made() == b""
    place.import_others()
    now[0] = time.time()
    first = made()
    assert b"45.155.205.9" in first
    kept = place.root / "state" / "indicators.yaml"
    kept.write_bytes(kept.read_bytes().replace(b"45.155.205.9", b"45.155.205.8"))
    assert b"45.155.205.8" in made()
    now[0] += 3600
    assert made() == first
    kept.write_bytes(kept.read_bytes().replace(b"45.155.205.9", b"45.155.205.8"))
    place.write("bad.txt", "45.155.205.7\n")
    place.sib("intel", "import", str(place.root / "bad.txt"), "--feed", "more")
    assert b"45.155.205.7" in made()
    assert b"45.155.205.9" in made()
    kept.unlink()
    kept.mkdir()
    assert b"45.155.205.7" in made()


def test_faults_of_the_falco_projects_rules_keep_no_bundle_back(place: Place) -> None:
    place.write("falco/falco_rules.yaml", FALCO + FALCO + "- rule: Newer\n  newer_key: 1\n")
    compiled = place.compile()
    assert compiled.errors == ()
    mine = [one for one in compiled.findings if "falco_rules.yaml" in one.place.file]
    assert {one.lint for one in mine} == {"unknown-key", "reading"}
