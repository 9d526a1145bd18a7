"""The files of a bundle, from folders of rules and what was decided about them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import yaml

from sib_server.detection.rules.compile import CompiledRules, RuleErrorsError, compile_rules
from sib_server.detection.rules.decisions import Switch, Tuning, with_switch, with_tuning
from sib_server.detection.rules.settings import DetectionSettings
from sib_server.detection.rules.sources import NoRulesError
from sib_server.detection.rules.store import change_decisions
from sib_server.settings import ServerSettings, SigmaSettings

AT = "2026-11-25T12:00:00Z"
FALCO = """
- list: stock_shells
  items: [bash, "my shell"]
- macro: stock_spawned
  condition: evt.type = execve
- macro: user_known
  condition: (never_named = 1 and evt.num = 0)
- rule: Stock shell
  desc: a shell
  condition: stock_spawned and proc.name in (stock_shells)
  output: shell %proc.name %user.name
  priority: NOTICE
  tags: [T1059]
  exceptions:
    - name: names
      fields: proc.pname
    - name: pairs
      fields: [proc.pname, user.name]
      comps: [in, =]
""".replace("never_named = 1 and ", "")
OURS = """
- macro: ours_macro
  condition: evt.type = open
- rule: Ours
  desc: opened
  condition: ours_macro and fd.name = /etc/shadow
  output: opened %fd.name %proc.name %user.name
  priority: WARNING
  tags: [mitre_credential_access, T1003.008]
  exceptions:
    - name: who
      fields: [proc.name, user.name]
"""
DRILLS = """
- id: own-rule-1
  rule: Ours
  false_positives: [none]
  drill: {run: cat /etc/shadow}
  quiet:
    - {name: a, run: "true"}
    - {name: b, run: "true"}
"""


class Place:
    """Folders of rules, and a compiler for them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("sib", "own", "falco"):
            (root / name).mkdir()
        self.write("sib/ours.yaml", OURS)
        self.write("sib/ours.drills.yaml", DRILLS)
        self.write("falco/falco_rules.yaml", FALCO)
        detection = DetectionSettings(
            own_rules=root / "own",
            shipped_rules=root / "sib",
            falco_rules=root / "falco",
            directory=root / "state",
        )
        plain = ServerSettings()
        self.settings = msgspec.structs.replace(
            plain,
            detection=detection,
            sigma=SigmaSettings(root / "sigma"),
            intel=msgspec.structs.replace(plain.intel, directory=root / "intel"),
        )

    def write(self, name: str, text: str) -> None:
        (self.root / name).write_text(text, encoding="utf-8")

    def compile(self) -> CompiledRules:
        return compile_rules(self.settings)

    def switch(self, value: str, *, enabled: bool, by: str = "name") -> None:
        switch = Switch(by=by, value=value, enabled=enabled, at=AT)  # type: ignore[arg-type]
        change_decisions(self.root / "state", lambda before: with_switch(before, switch))

    def tune(self, rule: str, exception: str, fields: tuple[str, ...], *values: str) -> None:
        tuning = Tuning(
            id=f"t-{len(values)}", rule=rule, exception=exception, fields=fields,
            adds_exception=False, values=values, event_id="x/1", at=AT,
        )  # fmt: skip
        change_decisions(self.root / "state", lambda before: with_tuning(before, tuning))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


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
        "(proc.pname in (make) and user.name = ci)"
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
            "exceptions": [{"name": "who", "values": [["passwd", "root"]]}],
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
