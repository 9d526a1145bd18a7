"""A real Falco accepts every rule file, without a word of schema."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from tests.support.components import component

RULES = Path(__file__).resolve().parents[3] / "rules" / "falco"


def test_falco_accepts_all_rule_files() -> None:
    falco = component("falco", "falco")
    files = [RULES / "macros.yaml"]
    files += [
        path
        for path in sorted(RULES.glob("*.yaml"))
        if path.name != "macros.yaml" and not path.name.endswith(".drills.yaml")
    ]
    arguments = [part for path in files for part in ("-V", str(path))]
    done = subprocess.run(
        [str(falco), *arguments, "-o", "json_output=true"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    results = json.loads(done.stdout.strip().splitlines()[-1])["falco_load_results"]
    assert len(results) == len(files)
    for result in results:
        assert result["successful"], result
        codes = {warning["code"] for warning in result.get("warnings", [])}
        assert codes <= {"LOAD_UNUSED_MACRO", "LOAD_UNUSED_LIST"}, result
