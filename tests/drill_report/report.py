"""The detection report as Markdown, from what the runs gave. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sib_protocol.drills.model import Kind
from sib_protocol.drills.verdicts import Result, Verdict, summary

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sib_server.detection.rules.testing import Report
    from tests.noise.figures import Figures

# Stand-ins are programs that the drill has just made, which is what this rule tells.
ARTEFACT = "Drop and execute new binary in container"


@dataclass(frozen=True)
class RuleRow:
    """What the report says of a rule itself."""

    name: str
    file: str
    priority: str
    techniques: tuple[str, ...]


@dataclass(frozen=True)
class Runs:
    """What the report is made of.

    Attributes:
        rules: in the order of the files.
        drilled: the run of all drills and quiet cases.
        drills: how many rules were to be proven.
        machine: what it ran on, in a few words.
        beside: id of a rule -> the Falco project's rules that fired in its drills; None where not
            looked.
        noise: of a busy host's work, a run each.
        digest: of the rules' files as they are.
    """

    rules: Sequence[RuleRow]
    drilled: Report
    drills: int
    machine: str
    beside: Mapping[str, Sequence[str]] | None = None
    noise: Sequence[Figures] = ()
    digest: str = ""
    techniques: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        found = frozenset(one for rule in self.rules for one in rule.techniques)
        object.__setattr__(self, "techniques", found)


def rule_rows(documents: Mapping[str, Sequence[Mapping[str, object]]]) -> list[RuleRow]:
    """Rules of parsed rules files.

    Args:
        documents: a file's name without its ending -> its items.
    """
    return [
        RuleRow(
            str(item["rule"]),
            file,
            str(item["priority"]).lower(),
            tuple(tag for tag in _words(item.get("tags")) if tag.startswith("T1")),
        )
        for file, items in documents.items()
        for item in items
        if "rule" in item
    ]


def _words(value: object) -> list[str]:
    return [str(one) for one in value] if isinstance(value, list) else []


def beside(verdicts: Iterable[Verdict], ours: frozenset[str]) -> dict[str, list[str]]:
    """Which other rules fired in each rule's drills, by the rule's id."""
    found: dict[str, set[str]] = {}
    for one in verdicts:
        others = {name for name in one.fired if name not in ours and name != ARTEFACT}
        if one.kind is Kind.DRILL and others:
            found.setdefault(one.id, set()).update(others)
    return {name: sorted(others) for name, others in found.items()}


def text_of(runs: Runs) -> str:
    """The report."""
    report = runs.drilled
    counts = summary(report.verdicts)
    drills = sum(one.kind is Kind.DRILL for one in report.verdicts)
    quiet = sum(one.kind is Kind.QUIET for one in report.verdicts)
    lines = [
        "# What the rules detect, and what they do not say",
        "",
        "Written by `scripts/drills`, with what `scripts/noise` measured; do not edit.",
        "",
        f"Falco {report.engine}, modern_ebpf, on kernel {report.kernel} ({runs.machine}),"
        f" {report.time}.",
        "",
        f"- **{len(runs.rules)} rules**, {len(runs.techniques)} techniques and sub-techniques of"
        " ATT&CK.",
        f"- **Drills: {counts.get(Result.FIRED, 0)} of {drills} fired their rule.**",
        f"- **Quiet cases: {counts.get(Result.QUIET, 0)} of {quiet} fired no rule.**",
        f"- Proven (drills fired, all quiet cases quiet): {len(report.proofs)} of {runs.drills}"
        " rules.",
        "",
        "A drill that did not fire is done once more: where a machine is busy, Falco loses events."
        f" In this run it lost {report.lost}.",
        "Drills run in a throw-away root in which the programs of attackers are stand-ins: what is"
        " proven is that Falco",
        "sees such an act and that the rule says so, not that every way of doing it is caught.",
        "",
        *_failures(report.verdicts),
        *_by_file(runs),
        *_beside(runs),
        *_noise(runs),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _failures(verdicts: Sequence[Verdict]) -> list[str]:
    wrong = [one for one in verdicts if not one.result.is_well]
    if not wrong:
        return []
    rows = [
        f"| {one.id} | {one.title} | {one.result.value} | {', '.join(one.fired)} |" for one in wrong
    ]
    title = ["## Not as it should be", ""]
    return [*title, "| id | act | result | fired |", "|---|---|---|---|", *rows, ""]


def _by_file(runs: Runs) -> list[str]:
    verdicts = runs.drilled.verdicts
    quiet = Counter(one.id for one in verdicts if one.result is Result.QUIET)
    drills = Counter(one.id for one in verdicts if one.kind is Kind.DRILL)
    fired = Counter(one.id for one in verdicts if one.result is Result.FIRED)
    ids = {one.rule: one.id for one in verdicts}
    lines = ["## Rule by rule", ""]
    for name in dict.fromkeys(rule.file for rule in runs.rules):
        lines += [f"### {name.replace('_', ' ').capitalize()}", ""]
        lines += [
            "| rule | priority | techniques | drills | quiet cases |",
            "|---|---|---|---|---|",
        ]
        for rule in runs.rules:
            if rule.file != name:
                continue
            one = ids.get(rule.name, "")
            result = "none | none"
            if one:
                result = f"{fired[one]} of {drills[one]} fired | {quiet[one]} quiet"
            named = f"{one}: {rule.name}" if one else rule.name
            techniques = ", ".join(rule.techniques)
            lines.append(f"| {named} | {rule.priority} | {techniques} | {result} |")
        lines.append("")
    return lines


def _beside(runs: Runs) -> list[str]:
    if runs.beside is None:
        return []
    lines = [
        "## Beside the Falco project's own rules",
        "",
        "The same drills with the Falco project's stable rules loaded, too: in those of"
        f" {len(runs.beside)} of {runs.drills} rules one of them fires as well. `{ARTEFACT}` is"
        " left out: it tells the stand-ins",
        "themselves. This machine looks like a container to Falco, so its rules for containers"
        " fire here more often than on a host.",
        "",
    ]
    if runs.beside:
        lines += ["| rule | the Falco project's rule |", "|---|---|"]
        lines += [f"| {name} | {', '.join(found)} |" for name, found in runs.beside.items()]
        lines.append("")
    return lines


def _noise(runs: Runs) -> list[str]:
    if not runs.noise:
        return []
    lines = ["## Noise", ""]
    for figures in sorted(runs.noise, key=lambda one: one.time, reverse=True):
        lines += _noise_run(figures, same=figures.rules == runs.digest)
    return lines


def _noise_run(figures: Figures, *, same: bool) -> list[str]:
    done = ", ".join(f"{name} {count}" for name, count in figures.work.items())
    seen = ", ".join(f"{name} {count}" for name, count in figures.seen.items())
    above = ", ".join(figures.above_notice) or "none"
    rules = "the rules as they are now" if same else "rules that were changed since"
    lines = [
        f"### {figures.minutes:g} minutes, with {rules}",
        "",
        f"Ordinary work ({figures.time}, Falco {figures.engine}), each so many times: {done}.",
        "",
        f"That Falco saw this work is known from programs that it starts on its ways: {seen}."
        f" Events of the whole machine that Falco says it lost meanwhile: {figures.lost}.",
        "",
        "| rule | events an hour |",
        "|---|---|",
    ]
    lines += [f"| {rule} | {count:g} |" for rule, count in figures.events_an_hour.items()]
    if not figures.events_an_hour:
        lines.append("| none | 0 |")
    return [*lines, "", f"Above Notice: {above}.", ""]
