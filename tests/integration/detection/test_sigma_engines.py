"""Converted Sigma rules on the real engines: Falco, Loki, and LogQL's grammar."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from sib_server.detection.sigma.collection import read_files
from sib_server.detection.sigma.convert import Conversion, Target, convert_files
from sib_server.detection.sigma.store import falco_document, ruler_groups_document, stored
from sib_server.detection.sigma.streams import FALCO
from tests.sigma_proof import engine, logs, meaning
from tests.sigma_proof.actions import Act

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
LANGUAGE = HERE / "sigma_language.yml"

needs_falco = pytest.mark.skipif(
    engine.falco_program() is None, reason="Falco not found: set SIB_COMPONENTS"
)
needs_tracing = pytest.mark.skipif(
    engine.falco_program() is None or not engine.can_trace(),
    reason="live Falco needs root, cc and ip, and SIB_COMPONENTS",
)
needs_loki = pytest.mark.skipif(
    logs.loki_program() is None, reason="Loki not found: set SIB_COMPONENTS"
)


def corpus() -> Path:
    shared = os.environ.get("SIB_SHARED")
    found = (Path(shared) if shared else ROOT.parent / "shared") / "data" / "sigma-linux"
    if not found.is_dir():
        pytest.skip("SigmaHQ's Linux rules not found: set SIB_SHARED")
    return found


def language() -> list[Conversion]:
    made = convert_files(read_files([LANGUAGE]))
    # Each rule's own document, as its source: the generators read one rule at a time.
    documents = LANGUAGE.read_text().split("\n---\n")
    return [
        Conversion(c.id, c.title, c.path, c.target, c.output, c.reason, c.documents, text, c.silent)
        for c, text in zip(made, documents, strict=True)
    ]


def test_the_language_converts() -> None:
    assert [(one.title, one.reason) for one in language() if one.target is Target.NONE] == []


@needs_falco
def test_falco_takes_all_rules_without_a_warning() -> None:
    conversions = [*language(), *convert_files(read_files([corpus()]))]
    assert engine.validate(falco_document(stored(one) for one in conversions)) == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_falco_agrees_with_sqlite_about_real_acts() -> None:
    # Where no live Falco can be had, the preview stands in for it.
    verdicts = meaning.judge_conversions(language())
    assert [v.title for v in verdicts if v.preview is not v.engine] == []
    apart = [
        (v.title, v.act.kind, v.act.fields, v.why) for v in verdicts if v.engine is not v.reference
    ]
    assert apart == []
    assert {v.title for v in verdicts if v.engine} == {
        one.title for one in language() if one.target is Target.FALCO
    }


@needs_tracing
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_start_that_fails_does_not_fire_for_the_one_who_tried() -> None:
    (lonely,) = (one for one in language() if one.title == "Exactly one word")
    act = Act(0, "match", argv=["lonely"], words=["fail"])
    ((fired, why),) = engine.judge(falco_document([stored(lonely)]), [act])
    assert why is None
    assert fired == {lonely.title: 1}


@needs_tracing
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_falco_fires_for_sigmahqs_rules() -> None:
    verdicts = meaning.judge_conversions(convert_files(read_files([corpus()])), each=2)
    assert [(v.title, v.act.fields) for v in verdicts if v.engine is not v.reference] == []


@needs_loki
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_loki_agrees_with_sqlite_about_lines() -> None:
    judged = logs.judge(language())
    assert [(line.rule.title, line.text) for line, found in judged if found != line.reference] == []
    assert {line.rule.title for line, found in judged if found} == {
        one.title for one in language() if one.target is Target.LOGQL
    }


SHELL = "20000000-0000-4000-8000-000000000001"
CORRELATIONS = f"""
title: Failed
name: failed
logsource: {{product: linux, service: sshd}}
detection: {{k: ['Failed password'], condition: k}}
---
title: Shell
id: {SHELL}
name: shell
logsource: {{product: linux, category: process_creation}}
detection: {{s: {{'Image|endswith': /sh}}, condition: s}}
---
title: Many
correlation:
  type: event_count
  rules: [failed]
  group-by: [host]
  timespan: 10m
  condition: {{gte: 3}}
---
title: Both
correlation: {{type: temporal, rules: [failed, shell], group-by: [host], timespan: 10m}}
---
title: Users
correlation:
  type: value_count
  rules: [shell]
  group-by: [host]
  timespan: 10m
  condition: {{gte: 2, field: User}}
"""


@needs_loki
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_correlations_and_the_ruler_on_loki(tmp_path: Path) -> None:
    (tmp_path / "c.yml").write_text(CORRELATIONS)
    made = {one.title: one for one in convert_files(read_files([tmp_path]))}
    every = [*made.values(), *convert_files(read_files([LANGUAGE, corpus()]))]
    document = ruler_groups_document(stored(one) for one in every)
    names = {group["name"] for group in yaml.safe_load(document)["groups"]}

    def line(host: str, source: str, text: str) -> logs.Line:
        return logs.Line(made["Failed"], host, source, "sshd", text, {}, "match")

    def shell(host: str, user: str) -> logs.Line:
        event = {"rule": "Shell", "output_fields": {"user.name": user}}
        return line(host, FALCO, json.dumps(event))

    lines = [line("many", "auth", f"Failed password {n}") for n in range(3)]
    lines += [line("few", "auth", f"Failed password {n}") for n in range(2)]
    lines += [line("both", "auth", "Failed password"), shell("both", "a")]
    lines += [shell("users", "a"), shell("users", "b"), shell("one", "a"), shell("one", "a")]
    with logs.loki(document) as address:
        # As the server's sink has it; the name says nothing, since another rule may have it, too.
        logs.push(address, lines, rule="Shell", tags=f"T1059,sigma,sigma:{SHELL},x")
        logs.settled(address, len(lines))
        found = {
            title: logs.hosts(address, made[title].documents[0]["rules"][0]["expr"])
            for title in ("Many", "Both", "Users")
        }
        loaded = logs.ruler_groups(address)
    assert found == {"Many": {"many"}, "Both": {"both"}, "Users": {"users"}}
    assert loaded == names


def test_all_logql_is_in_the_grammar(tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm not found: LogQL's grammar is not checked")
    conversions = [*language(), *convert_files(read_files([corpus()]))]
    (tmp_path / "c.yml").write_text(CORRELATIONS)
    conversions += convert_files(read_files([tmp_path / "c.yml"]))
    queries = [
        document["rules"][0]["expr"]
        for one in conversions
        if one.target is Target.LOGQL
        for document in one.documents
    ]
    tool = ROOT / "tests" / "tools" / "logql"
    for name in ("package.json", "package-lock.json", ".npmrc", "check.mjs"):
        shutil.copy(tool / name, tmp_path / name)
    try:
        subprocess.run(
            (npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts"),
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            check=True,
        )
    except subprocess.SubprocessError:
        pytest.skip("npm has no registry to install LogQL's grammar from")
    begun = time.monotonic()
    checked = subprocess.run(
        ("node", "check.mjs"),
        cwd=tmp_path,
        input=json.dumps([*queries, '{a="b"} |~ ']).encode(),
        capture_output=True,
        timeout=60,
        check=True,
    )
    wrong = json.loads(checked.stdout)
    assert time.monotonic() - begun < 60
    # The last is not LogQL, so that a checker that sees nothing does not pass.
    assert wrong == [len(queries)]
