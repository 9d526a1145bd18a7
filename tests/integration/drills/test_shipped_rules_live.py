"""Shipped rules on the real engine. Here a sample of the drills; `scripts/drills` does them all."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import yaml

from sib_protocol.drills.model import Kind
from sib_protocol.drills.parsing import load_drills
from sib_protocol.errors import ExitCode
from sib_server.detection.rules.proofs import SHIPPED_NAME, load_proofs
from sib_server.detection.rules.testing import prepare, run_trial
from tests.drill_report.__main__ import REPORT
from tests.support.engine import SHIPPED, live_falco, shipped_settings
from tests.support.lab import Server

pytestmark = pytest.mark.timeout(300)
SAMPLE = 25


def test_every_shipped_rule_is_proven_as_it_is(tmp_path: Path) -> None:
    """The proof beside the rules is of these very rules and drills."""
    trial = prepare(shipped_settings(tmp_path, tmp_path), [])
    proofs = load_proofs(SHIPPED.parent / SHIPPED_NAME).proofs
    stale = [
        drill.id
        for drill in trial.drills
        if drill.id not in proofs or proofs[drill.id].content != trial.contents[drill.id]
    ]
    assert stale == [], "run scripts/drills"
    assert set(proofs) == {drill.id for drill in load_drills(SHIPPED)}
    assert trial.without == ()
    report = REPORT.read_text()
    lines = {line.partition(":")[0]: line for line in report.splitlines() if line[:6] == "| sib-"}
    missing = [
        drill.id
        for drill in trial.drills
        if not lines.get(f"| {drill.id}", "").startswith(f"| {drill.id}: {drill.rule} |")
        or not lines[f"| {drill.id}"].endswith(
            f" | {len(drill.drills)} of {len(drill.drills)} fired | {len(drill.quiet)} quiet |"
        )
    ]
    assert missing == [], "run scripts/drills"


def test_a_sample_fires_and_stays_quiet(tmp_path: Path) -> None:
    falco = live_falco()
    ids = sorted(drill.id for drill in load_drills(SHIPPED))
    # Another sample each day the version changes, the same one in a run and its repeat.
    sample = random.Random(len(ids)).sample(ids, SAMPLE)
    report = run_trial(prepare(shipped_settings(tmp_path, tmp_path), [], sample), falco)
    wrong = [one for one in report.verdicts if not one.result.is_well]
    assert wrong == []
    assert len(report.proofs) == SAMPLE
    assert {one.kind for one in report.verdicts} == set(Kind)


OWN = """\
- rule: A teapot was boiled
  desc: Says when the program teapot is started.
  condition: sib_spawned and proc.name = teapot
  output: A teapot was boiled | user=%user.name command=%proc.cmdline
  priority: WARNING
  tags: [maturity_stable, host, process, mitre_execution, T1059]
"""


def test_users_test_their_own_rules(tmp_path: Path) -> None:
    falco = live_falco()
    rules = tmp_path / "rules.d"
    rules.mkdir()
    (rules / "mine.yaml").write_text(OWN)
    entry = {
        "id": "mine-1",
        "rule": "A teapot was boiled",
        "false_positives": ["Tea."],
        "drill": {"run": "standin teapot\nteapot --boil\n"},
        "quiet": [{"name": "a kettle", "run": "standin kettle\nkettle\n"}],
    }
    (rules / "mine.drills.yaml").write_text(yaml.safe_dump([entry]))
    empty = tmp_path / "empty"
    state = {"own_rules": str(empty), "falco_rules": str(empty), "directory": str(tmp_path / "s")}
    server = Server(tmp_path / "server", {"detection": state})
    done = server.cli("rules", "test", str(rules), "--falco", str(falco), "--json")
    report = json.loads(done.stdout)
    assert report["proven"] == ["mine-1"]
    assert load_proofs(tmp_path / "s" / "proofs.json").proofs["mine-1"].quiet_cases == 1
    # The quiet case fires it now: the proof is gone.
    entry["quiet"] = [{"name": "a pot", "run": "standin teapot\nteapot\n"}]
    (rules / "mine.drills.yaml").write_text(yaml.safe_dump([entry]))
    done = server.cli("rules", "test", str(rules), "--falco", str(falco), check=False)
    assert done.returncode == ExitCode.INCOMPLETE
    assert "noisy" in done.stdout
    assert load_proofs(tmp_path / "s" / "proofs.json").proofs == {}


def test_what_cannot_be_tested_is_said(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    state = {"own_rules": str(empty), "falco_rules": str(empty), "directory": str(tmp_path / "s")}
    server = Server(tmp_path / "server", {"detection": state})
    unknown = server.cli("rules", "test", "--rule", "nothing", check=False)
    assert unknown.returncode == ExitCode.NOT_FOUND
    missing = server.cli(
        "rules", "test", "--rule", "sib-ca-001", "--falco", str(tmp_path / "none"), check=False
    )
    assert missing.returncode == ExitCode.NOT_FOUND
    assert "not a program" in missing.stderr
    (tmp_path / "a.yaml").write_text(OWN)
    undrilled = server.cli("rules", "test", str(tmp_path / "a.yaml"), check=False)
    assert undrilled.returncode == ExitCode.NOT_FOUND
    (tmp_path / "a.drills.yaml").write_text("- id: x\n")
    damaged = server.cli("rules", "test", str(tmp_path / "a.yaml"), check=False)
    assert damaged.returncode == ExitCode.DAMAGED
