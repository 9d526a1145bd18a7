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


def decided(compiled: CompiledRules) -> list[dict[str, object]]:
    documents: list[dict[str, object]] = yaml.safe_load(compiled.files["rules/99-decisions.yaml"])
    return documents


def test_the_same_sources_give_the_same_bytes_and_leave_falcos_own_rules_to_hosts(
    place: Place,
) -> None:
    first, second = place.compile(), place.compile()
    assert list(first.files) == ["drills/ours.drills.yaml", "rules/10-sib-ours.yaml"]
    assert dict(first.files) == dict(second.files)
    assert first.checked() is first
    assert yaml.safe_load(first.files["rules/10-sib-ours.yaml"]) == yaml.safe_load(OURS)
    rows = {entry.id: entry.row() for entry in first.entries}
    assert rows["own-rule-1"] == {
        "id": "own-rule-1", "name": "Ours", "file": str(place.root / "sib/ours.yaml"), "line": 4,
        "source": "sib", "tactics": ("credential_access",), "techniques": ("T1003.008",),
        "priority": "WARNING", "enabled": True, "drill": True, "quiet_cases": 2,
    }  # fmt: skip
    assert rows["falco-stock-shell"]["source"] == "falco"


def test_a_stock_rule_switched_off_is_told_so_that_any_host_can_load_it(place: Place) -> None:
    place.switch("Stock shell", enabled=False)
    (document,) = decided(place.compile())
    assert "override" not in document
    assert document["enabled"] is False
    assert "stock_spawned" not in str(document["condition"])


def test_a_tuned_stock_rule_becomes_a_whole_definition_without_foreign_names(
    place: Place,
) -> None:
    place.tune("Stock shell", "names", ("proc.pname",), "cron job")
    place.tune("Stock shell", "pairs", ("proc.pname", "user.name"), "make", "ci")
    (document,) = decided(place.compile())
    assert document["condition"] == (
        'evt.type = execve and proc.name in (bash, "my shell") and not '
        '(proc.pname in ("cron job")) and not '
        '(proc.pname in ("make") and user.name = "ci")'
    ).replace("evt.type = execve and proc.name in (bash, \"my shell\")",
              "(evt.type = execve and proc.name in (bash, \"my shell\"))")  # fmt: skip
    assert "exceptions" not in document


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


def test_own_changes_of_what_falco_defines_go_whole(place: Place) -> None:
    place.write(
        "own/local.yaml",
        """
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
""",
    )
    compiled = place.compile()
    assert yaml.safe_load(compiled.files["rules/60-own-local.yaml"]) == [
        {"macro": "mine", "condition": "proc.name = mine"}
    ]
    told = decided(compiled)
    assert told[0] == {"list": "stock_shells", "items": ["bash", "my shell", "zsh"]}
    assert told[1] == {"macro": "user_known", "condition": "evt.num = 0 or proc.name = mine"}
    assert told[2]["output"] == "shell %proc.name %user.name and %proc.cmdline"
    assert "zsh" in str(told[2]["condition"])


def test_a_tuning_that_no_longer_fits_is_told_and_left_out(place: Place) -> None:
    place.tune("Ours", "who", ("proc.name",), "passwd")
    place.tune("Gone", "who", ("proc.name",), "passwd")
    compiled = place.compile()
    assert "rules/99-decisions.yaml" not in compiled.files
    told = [finding.rule for finding in compiled.findings if finding.lint == "tuning"]
    assert told == ["Gone", "Ours"]


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
        "rules/10-sib-ours.yaml",
        "rules/50-sigma-sigma.yaml",
        "rules/55-intel-indicators.yaml",
        "rules/99-decisions.yaml",
    ]
    rows = {entry.id: entry.row() for entry in compiled.entries}
    sigma = rows["sigma:11111111-2222-4333-8444-555555555555"]
    assert (sigma["source"], sigma["techniques"]) == ("sigma", ("T1003.008",))
    intel = [row for row in rows.values() if row["source"] == "intel"]
    assert intel
    assert not any(row["enabled"] for row in intel)
    told = decided(compiled)
    assert told[0]["exceptions"] == [
        {"name": "sib_tuning", "fields": ["proc.name"], "values": [['"cat"']]}
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
    assert "rules/99-decisions.yaml" not in compiled.files


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
