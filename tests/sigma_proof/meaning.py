# ruff: noqa: E501 - the lines of a table
"""Both judges over all rules."""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from sigma.rule import SigmaRule

from sib_server.detection.sigma.collection import read_files
from sib_server.detection.sigma.convert import Conversion, Target, convert_files
from sib_server.detection.sigma.store import falco_document, stored
from tests.sigma_proof import engine, logs, previewed
from tests.sigma_proof.actions import Act, Maker, corpus_kind
from tests.sigma_proof.generate import holds, plans
from tests.sigma_proof.reference import sqlite_judge


@dataclass
class Verdict:
    """One event of one rule, judged."""

    title: str
    act: Act
    reference: bool
    tree: bool
    engine: bool | None
    why: str | None
    preview: bool


def make(
    conversions: list[Conversion], each: int | None
) -> list[tuple[Conversion, Act, dict[str, Any]]]:
    """Acts for every rule that Falco judges."""
    made = []
    for number, conversion in enumerate(conversions):
        if conversion.target is not Target.FALCO:
            continue
        (document,) = yaml.safe_load_all(conversion.source)
        rule = SigmaRule.from_dict(document)
        kind = corpus_kind(rule)
        assert kind is not None
        seen = set()
        for condition in rule.detection.parsed_condition:
            for wanted in plans(condition.parsed)[:each]:
                act = Maker(number, wanted, kind, rule.logsource.definition or "").make()
                if act is None or json.dumps(act.fields, sort_keys=True) in seen:
                    continue
                seen.add(json.dumps(act.fields, sort_keys=True))
                made.append((conversion, act, document))
    return made


def judge(paths: list[Path], each: int | None = None) -> list[Verdict]:
    """Judge the events of all rules of some files twice."""
    return judge_conversions(convert_files(read_files(paths)), each)


def judge_conversions(conversions: list[Conversion], each: int | None = None) -> list[Verdict]:
    """Judge the events of all rules twice; by the preview where there is no engine."""
    made = make(conversions, each)
    rules = falco_document(stored(one) for one in conversions)
    live = engine.falco_program() is not None and engine.can_trace()
    acts = [act for _, act, _ in made]
    fired = engine.judge(rules, acts) if live else None
    verdicts: list[Verdict] = []
    groups: dict[str, list[int]] = {}
    for index, (conversion, _, _) in enumerate(made):
        groups.setdefault(conversion.id, []).append(index)
    for indices in groups.values():
        document = made[indices[0]][2]
        rule = SigmaRule.from_dict(document)
        events = [made[index][1].fields for index in indices]
        said = sqlite_judge(document, events)
        for index, reference in zip(indices, said, strict=True):
            conversion, act, _ = made[index]
            names, why = fired[index] if fired is not None else (None, "no engine")
            shown = previewed.judge(conversion, act)
            tree = any(holds(c.parsed, act.fields) for c in rule.detection.parsed_condition)
            named = {conversion.title, f"{conversion.title} ({conversion.id})"}
            found = (
                shown if fired is None else None if names is None else bool(named & names.keys())
            )
            verdicts.append(Verdict(conversion.title, act, reference, tree, found, why, shown))
    return verdicts


def main(arguments: list[str]) -> int:
    """Print the tables; 1 where the judges disagree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--verbose", action="store_true")
    given = parser.parse_args(arguments)
    live = engine.falco_program() is not None and engine.can_trace()
    if not live:
        print("no live Falco (root, cc, ip, SIB_COMPONENTS): judged by the preview instead")
    wrong = hosts_part(given.paths, verbose=given.verbose)
    if logs.loki_program() is None:
        print("skipped Loki: not found (SIB_COMPONENTS)")
    else:
        wrong += logs_part(given.paths)
    return 1 if wrong else 0


def logs_part(paths: list[Path]) -> int:
    """Print Loki's table; how often the judges disagree."""
    judged = logs.judge(convert_files(read_files(paths)))
    apart = [(line, found) for line, found in judged if found != line.reference]
    for line, found in apart:
        print(
            f"DISAGREE {line.rule.title} {line.kind} sqlite={line.reference} tree={line.tree} "
            f"loki={found} {line.text!r}"
        )
    hit = {line.rule.title for line, found in judged if found and line.reference}
    rules = {line.rule.title for line, _ in judged}
    fired = sum(found and line.reference for line, found in judged)
    quiet = sum(not found and not line.reference for line, found in judged)
    print(
        f"Loki: {len(rules)} rules, {len(judged)} lines: {fired + quiet} agree, {len(apart)} disagree"
    )
    print(
        f"found as they should: {fired}; left as they should: {quiet}; never found: {sorted(rules - hit)}"
    )
    print(
        f"the two references differ on {sum(line.reference != line.tree for line, _ in judged)} lines"
    )
    return len(apart)


def hosts_part(paths: list[Path], *, verbose: bool) -> int:
    """Print Falco's table; how often the judges disagree."""
    begun = time.monotonic()
    verdicts = judge(paths)
    agreed = [v for v in verdicts if v.engine is not None and v.engine == v.reference]
    apart = [v for v in verdicts if v.engine is not None and v.engine != v.reference]
    undone = [v for v in verdicts if v.engine is None]
    for verdict in apart:
        print(
            "DISAGREE",
            verdict.title,
            verdict.act.kind,
            f"sqlite={verdict.reference} tree={verdict.tree} falco={verdict.engine}",
            json.dumps(verdict.act.fields),
            verdict.act.words[:3],
        )
    if verbose:
        for verdict in undone:
            print("NOT DONE", verdict.title, verdict.why, verdict.act.image, verdict.act.words[:3])
    unlike = [v for v in verdicts if v.engine is not None and v.preview is not v.engine]
    print(f"the preview differs from Falco on {len(unlike)} events")
    for verdict in unlike:
        print("PREVIEW", verdict.title, verdict.preview, verdict.act)
    odd = [v for v in verdicts if v.reference != v.tree]
    kinds = Counter((v.act.kind, v.reference) for v in agreed)
    rules = {v.title for v in verdicts}
    hit = {v.title for v in agreed if v.reference}
    missed = {v.title for v in agreed if not v.reference}
    print(
        f"Falco: {len(rules)} rules, {len(verdicts)} events: {len(agreed)} agree, {len(apart)} disagree, {len(undone)} could not be done"
    )
    print(
        f"fired as they should: {sum(n for (_, r), n in kinds.items() if r)}; quiet as they should: {sum(n for (_, r), n in kinds.items() if not r)}"
    )
    print(
        f"rules seen to fire: {len(hit)}, seen to stay quiet: {len(missed)}; never fired: {sorted(rules - hit)}"
    )
    print(f"the two references differ on {len(odd)} events; {time.monotonic() - begun:.0f} s")
    for verdict in odd[:10]:
        print("ODD", verdict.title, verdict.reference, verdict.tree, json.dumps(verdict.act.fields))
    return len(apart) + len(unlike)
