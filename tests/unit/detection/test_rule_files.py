"""All rules as data: one walk, all findings in one message."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

RULES = Path(__file__).resolve().parents[3] / "rules" / "falco"
TECHNIQUE = re.compile(r"T\d{4}(\.\d{3})?")
WHO = ("%user.", "%proc.")


def load(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(path.read_text())
    return found


def test_every_rule_is_whole_and_has_its_drill_beside_it() -> None:
    problems: list[str] = []
    ids: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for path in sorted(RULES.glob("*.yaml")):
        if path.name == "macros.yaml" or path.name.endswith(".drills.yaml"):
            continue
        rules = {item["rule"]: item for item in load(path) if "rule" in item}
        sidecar = {item["rule"]: item for item in load(path.with_suffix(".drills.yaml"))}
        names.update(rules.keys())
        ids.update(item["id"] for item in sidecar.values())
        problems += [
            f"{path.name}: {name} is only in one file" for name in rules.keys() ^ sidecar.keys()
        ]
        for name, rule in rules.items():
            tags = rule["tags"]
            if not any(TECHNIQUE.fullmatch(tag) for tag in tags):
                problems.append(f"{path.name}: {name}: no technique")
            if not any(tag.startswith("mitre_") for tag in tags):
                problems.append(f"{path.name}: {name}: no tactic")
            if not all(part in rule["output"] for part in WHO):
                problems.append(f"{path.name}: {name}: output without user or process")
            if not rule.get("exceptions"):
                problems.append(f"{path.name}: {name}: no exceptions to tune it by")
            beside = sidecar.get(name, {})
            drills = beside.get("drills") or [beside.get("drill", {})]
            if not all(one.get("run") for one in drills) or not beside.get("quiet"):
                problems.append(f"{path.name}: {name}: no drill or no quiet case")
    for what, counts in (("id", ids), ("name", names)):
        problems += [f"{what} {value} twice" for value, count in counts.items() if count > 1]
    retired = yaml.safe_load((RULES.parent / "retired.yaml").read_text())
    problems += [f"the id {one} was retired" for one in ids.keys() & retired.keys()]
    problems += [
        f"{old} was merged into {new}, which is no rule"
        for old, new in retired.items()
        if new.startswith("sib-") and new not in ids
    ]
    assert problems == []
    assert len(names) > 100
