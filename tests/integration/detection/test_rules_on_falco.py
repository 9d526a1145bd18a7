"""What the compiler makes and says, against the real Falco."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections import Counter
from functools import cache
from pathlib import Path

import msgspec
import pytest

from sib_server.detection.rules.collect import collect
from sib_server.detection.rules.compile import compile_rules, load
from sib_server.detection.rules.conditions import checks
from sib_server.detection.rules.decisions import Decisions, Switch, with_switch
from sib_server.detection.rules.engine import shipped_facts
from sib_server.detection.rules.findings import Severity
from sib_server.detection.rules.parsing import ConditionError, parse
from sib_server.detection.rules.resolving import Resolver
from sib_server.detection.rules.sources import read_paths
from sib_server.detection.rules.store import change_decisions
from sib_server.detection.rules.tuning import output_fields, propose
from sib_server.detection.rules.writing import write
from sib_server.detection.sigma.collection import read_files
from sib_server.detection.sigma.convert import convert_files
from sib_server.detection.sigma.store import SigmaStore
from tests.support.components import ROOT, component
from tests.support.rules import AT, FALCO, Place

RULES = ROOT / "rules" / "falco"
RECORDED = ROOT / "sib_server" / "trial" / "falco-events.jsonl"


def validate(*files: Path, plugin: Path | None = None) -> list[str]:
    """What Falco has against files that are loaded one after the other."""
    asked = [str(component("falco", "falco")), "-o", "json_output=true"]
    if plugin is not None:
        asked += ["-o", "load_plugins[0]=container", "-o", f"plugins[0].library_path={plugin}"]
    configuration = component("falco", "falco.yaml")
    asked += ["-c", str(configuration), *(part for file in files for part in ("-V", str(file)))]
    done = subprocess.run(asked, capture_output=True, timeout=60, check=False)
    text = done.stdout.decode()
    start = text.find('{"falco_load_results"')
    assert start >= 0, text + done.stderr.decode()
    (results, _) = json.JSONDecoder().raw_decode(text[start:])
    return [
        error["message"] for result in results["falco_load_results"] for error in result["errors"]
    ]


def written(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return [folder / name for name in sorted(files) if name.startswith("rules/")]


def test_the_facts_are_those_of_this_falco() -> None:
    told = subprocess.run(
        [component("falco", "falco"), "--version"], capture_output=True, timeout=60, check=True
    ).stdout.decode()
    facts = shipped_facts()
    if f"Falco version: {facts.falco}\n" not in told:
        pytest.skip(f"another Falco than {facts.falco}: {told.splitlines()[0]}")
    assert f"{facts.engine}\n" in told


def test_the_shipped_rules_as_compiled_are_taken(tmp_path: Path) -> None:
    place = Place(tmp_path)
    detection = msgspec.structs.replace(
        place.settings.detection, shipped_rules=RULES, falco_rules=tmp_path / "none"
    )
    compiled = compile_rules(msgspec.structs.replace(place.settings, detection=detection))
    assert validate(*written(tmp_path / "out", dict(compiled.checked().files))) == []


def test_sigmahqs_rules_among_ours_and_the_falco_projects_are_taken(tmp_path: Path) -> None:
    shared = os.environ.get("SIB_SHARED")
    corpus = (Path(shared) if shared else ROOT.parent / "shared") / "data" / "sigma-linux"
    if not corpus.is_dir():
        pytest.skip("SigmaHQ's Linux rules not found: set SIB_SHARED")
    stock = component("falco", "rules/falco_rules.yaml")
    place = Place(tmp_path)
    SigmaStore(place.settings.sigma.directory).put(convert_files(read_files([corpus])))
    detection = msgspec.structs.replace(
        place.settings.detection, shipped_rules=RULES, falco_rules=stock
    )
    compiled = compile_rules(msgspec.structs.replace(place.settings, detection=detection))
    files = dict(compiled.checked().files)
    assert sum(body.count(b"sigma:") for body in files.values()) >= 184
    plugin = component("falco", "plugins/libcontainer.so")
    assert validate(stock, *written(tmp_path / "out", files), plugin=plugin) == []


@pytest.mark.parametrize("with_stock", [True, False])
def test_decisions_are_taken_by_hosts_with_and_without_the_rules_they_are_about(
    tmp_path: Path, *, with_stock: bool
) -> None:
    place = Place(tmp_path)
    place.tune("Stock shell", "names", ("proc.pname",), 'say "hi" (x), y=z')
    place.tune("Stock shell", "pairs", ("proc.pname", "user.name"), "stock_shells", "it's\\me")
    place.tune("Ours", "who", ("proc.name", "user.name"), "a b", "0")
    place.switch("Ours", enabled=False)
    place.write(
        "own/local.yaml",
        "- macro: user_known\n  condition: or proc.name = mine\n  override: {condition: append}\n"
        "- list: stock_shells\n  items: [zsh]\n  override: {items: append}\n"
        "- rule: Stock shell\n  output: more %proc.cmdline\n  override: {output: append}\n"
        "- rule: Mine\n  desc: x\n  condition: evt.type = open and proc.name = x\n"
        "  output: x\n  priority: NOTICE\n",
    )
    files = written(tmp_path / "out", dict(place.compile().checked().files))
    stock = tmp_path / "falco" / "falco_rules.yaml"
    assert validate(*([stock] if with_stock else []), *files) == []
    # Falco's own way of saying the same is refused where the rule is not known.
    override = tmp_path / "override.yaml"
    override.write_text("- rule: Stock shell\n  enabled: false\n  override: {enabled: replace}\n")
    refused = validate(*([stock] if with_stock else []), override)
    assert (refused == []) is with_stock


def test_sigma_rules_and_indicators_as_compiled_are_taken(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.import_others()
    place.tune("Shadow read by cat", "sib_tuning", ("proc.name",), "cat", adds=True)
    place.switch("sib_intel", enabled=False, by="tag")
    files = written(tmp_path / "out", dict(place.compile().checked().files))
    assert len(files) == 5
    assert validate(*files) == []


@pytest.mark.parametrize("with_stock", [True, False])
def test_the_projects_rules_tuned_by_recorded_events_are_taken(
    tmp_path: Path, *, with_stock: bool
) -> None:
    stock_files = [
        component("falco", "rules", f"falco{part}_rules.yaml")
        for part in ("", "-incubating", "-sandbox")
    ]
    plugin = component("falco", "plugins", "libcontainer.so")
    place = Place(tmp_path)
    stock = tmp_path / "falco" / "falco_rules.yaml"
    stock.write_text("\n".join(file.read_text() for file in stock_files))
    loaded = load(place.settings)
    assert not any(one.severity is Severity.ERROR for one in loaded.findings)
    entries = {entry.rule.name: entry for entry in loaded.entries}
    tunings = {}
    for line in RECORDED.read_bytes().splitlines():
        rule = entries[json.loads(line)["rule"]].rule
        (proposal, *_) = propose(rule, output_fields(line), loaded.rules.lists)
        tuning = proposal.tuning(rule.name, "x/1", AT)
        tunings[tuning.id] = tuning
    assert len(tunings) > 50
    decisions = Decisions(tunings=tuple(tunings.values()))
    for entry in loaded.entries[::3]:
        switch = Switch(by="id", value=entry.id, enabled=not entry.rule.enabled, at=AT)
        decisions = with_switch(decisions, switch)
    change_decisions(tmp_path / "state", lambda _: decisions)
    files = written(tmp_path / "out", dict(place.compile().checked().files))
    assert validate(*([stock] if with_stock else []), *files, plugin=plugin) == []


def test_stock_rules_are_read_as_they_are(tmp_path: Path) -> None:
    stock = tmp_path / "stock.yaml"
    stock.write_text(FALCO)
    assert validate(stock) == []


PIECES = [
    "(", ")", '"', "'", ",", "=", " and ", " or ", " not ", "[", "\\", " in ", "not(", " contains ",
    "anyof ", "tolower(", "val(", " ", ".", ">=", " exists", " == ", "\t", "[0]", "(x)", "1",
]  # fmt: skip
FURTHER = [
    'concat(proc.name, "/", fd.name) = x', "len(proc.name) > 3",
    'join("/", (proc.name, fd.name)) = x', "fd.name startswith anyof (/a, /b)",
    "basename(proc.exepath) != val(proc.name)", "fd.name pmatch (/etc, /usr)", "fd.name iglob /x/*",
    "proc.name in (\"a b\", 'c')", "evt.rawres >= -1",
    "fd.snet in (10.0.0.0/8)", "proc.aname[2] in (a, b)", 'fd.name = "a\\ \\tb\\ "',
]  # fmt: skip
LANGUAGE = re.compile(
    r"expected |unexpected token|filter input string|exceeded max depth|unsupported string escape"
    r"|invalid \\"
)
"""How what Falco's parser says begins; names and kinds of values are judged after it."""
COUNT = int(os.environ.get("SIB_FALCO_CONDITIONS", "150"))


@cache
def corpus() -> list[str]:
    rules, _ = collect(read_paths([RULES]).files)
    resolver = Resolver(rules)
    found = {
        write(check)
        for rule in rules.rules.values()
        for check in checks(resolver.resolved(parse(rule.condition.value)))
    }
    return sorted({*(text for text in found if len(text) < 200), *FURTHER})


def mutated(chance: random.Random) -> str:
    text = chance.choice(corpus())
    for _ in range(chance.choice([0, 1, 2])):
        shape = chance.choice(["{} and {}", "({}) or ({})", "not {} and ({})", "{} and not({})"])
        text = shape.format(text, chance.choice(corpus()))
    for _ in range(chance.choice([0, 1, 1, 2])):
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(PIECES) + text[at + chance.choice([0, 0, 1, 2]) :]
    return text


def test_conditions_are_taken_and_refused_as_by_falco(tmp_path: Path) -> None:
    chance = random.Random(20261125)
    file = tmp_path / "one.yaml"
    seen: Counter[tuple[bool, bool]] = Counter()
    others: Counter[str] = Counter()
    differ = []
    for _ in range(COUNT):
        text = mutated(chance)
        rule = {"rule": "r", "desc": "r", "condition": text, "output": "r", "priority": "NOTICE"}
        file.write_text(json.dumps([rule]))
        refused = validate(file)
        try:
            parse(text)
            taken = True
        except ConditionError:
            taken = False
        seen[taken, not refused] += 1
        if refused and taken and not LANGUAGE.match(refused[0]):
            others[refused[0][:30]] += 1
        elif taken != (not refused):
            differ.append((text, refused))
    print(dict(seen), dict(others))
    assert differ == []
    assert seen[True, True] > 30
    assert seen[False, False] > 30
