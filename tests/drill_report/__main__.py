"""Runs all drills and quiet cases of the shipped rules, and writes down what came of it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import yaml

from sib_server.detection.rules.proofs import SHIPPED_NAME, Proofs, save_proofs
from sib_server.detection.rules.testing import Trial, find_plugins, prepare, run_trial
from tests.drill_report.report import Runs, beside, rule_rows, text_of
from tests.noise.figures import load_figures, rules_digest
from tests.support.engine import ROOT, SHIPPED, rule_files, shipped_settings

REPORT = ROOT / "docs" / "detection-report.md"
NOISE = ROOT / "docs" / "noise.json"


def overlap(trial: Trial, program: Path) -> dict[str, list[str]] | None:
    """What of the Falco project's rules fires in the drills; None where they are not there."""
    stock = program.parent / "rules" / "falco_rules.yaml"
    if not stock.is_file() or find_plugins(program) is None:
        return None
    names = {item["rule"] for item in yaml.safe_load(stock.read_text()) if "rule" in item}
    both = replace(trial, ours=trial.ours | names)
    report = run_trial(both, program, falco_rules=stock, quiet=False)
    return beside(report.verdicts, trial.ours)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/drills", description=__doc__)
    parser.add_argument(
        "--machine",
        default=f"{os.cpu_count()} cores, shared",
        help="what it runs on, for the report [default: %(default)s]",
    )
    options = parser.parse_args()
    program = Path(os.environ.get("SIB_COMPONENTS") or "/none") / "falco" / "falco"
    if os.geteuid() != 0 or not program.is_file():
        print("skipped: needs root and a Falco (SIB_COMPONENTS)")
        return 0
    with tempfile.TemporaryDirectory(prefix="sib-empty-") as empty:
        trial = prepare(shipped_settings(Path(empty), Path(empty)), [])
        report = run_trial(trial, program)
        others = overlap(trial, program)
    save_proofs(SHIPPED.parent / SHIPPED_NAME, Proofs(dict(sorted(report.proofs.items()))))
    rules = rule_rows({path.stem: yaml.safe_load(path.read_text()) for path in rule_files()})
    digest = rules_digest(path.read_bytes() for path in rule_files())
    runs = Runs(
        rules, report, len(trial.drills), options.machine, others, load_figures(NOISE), digest
    )
    REPORT.write_text(text_of(runs))
    wrong = [one for one in report.verdicts if not one.result.is_well]
    for one in wrong:
        fired = ", ".join(one.fired)
        print(f"{one.id} {one.title}: {one.result.value} [{fired}] {one.why or ''}")
    print(f"{len(report.proofs)} of {len(trial.drills)} rules proven on Falco {report.engine}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
