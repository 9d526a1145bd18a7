"""Lints about what people make of a rule: ATT&CK, tags, output, drills, exceptions. Pure."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import TYPE_CHECKING, Final

from sib_protocol.events import TECHNIQUE
from sib_server.detection.rules.catalogue import TACTIC_TAG
from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.findings import Finding, LintName, Severity, meant
from sib_server.detection.rules.sidecars import SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_server.detection.rules.collect import Rule
    from sib_server.detection.rules.subject import Subject

ATTACK: Final = LintName("attack")
TAGS: Final = LintName("tags")
OUTPUT: Final = LintName("output")
PRIORITY: Final = LintName("priority")
DRILL: Final = LintName("missing-drill")
EXCEPTIONS: Final = LintName("missing-exceptions")
PRIORITIES: Final = (
    "EMERGENCY", "ALERT", "CRITICAL", "ERROR", "WARNING", "NOTICE", "INFORMATIONAL", "INFO",
    "DEBUG",
)  # fmt: skip
_MATURITIES: Final = frozenset(
    f"maturity_{name}" for name in ("stable", "incubating", "sandbox", "deprecated")
)
_LOOKS_LIKE_TECHNIQUE: Final = re.compile(r"t\d{2,5}([._]\d{1,4})?", re.ASCII | re.IGNORECASE)
_TOKEN: Final = re.compile(
    r"%\*?\d*(?:(?P<transformer>[a-z0-9]+)\()?(?P<field>[a-zA-Z]\w*(?:\.[a-zA-Z]\w*)*)?"
    r"(?P<argument>\[[^\]]*\])?", re.ASCII,
)  # fmt: skip
_SYSCALL: Final = "syscall"


def attack(subject: Subject) -> Iterator[Finding]:
    """ATT&CK ids exist, are in force, and belong to the tactics beside them."""
    tactics = {tactic.tag for tactic in subject.matrix.tactics}
    for rule in subject.judged():
        for reason in _attack_problems(subject, rule, tactics):
            yield Finding(rule.place, rule.name, ATTACK, reason, Severity.WARNING)


def _attack_problems(subject: Subject, rule: Rule, tactics: set[str]) -> Iterator[str]:
    known = subject.techniques
    version = f"ATT&CK {subject.matrix.version}"
    named = {tag.removeprefix(TACTIC_TAG) for tag in rule.tags if tag.startswith(TACTIC_TAG)}
    for tag in sorted(named - tactics):
        near = meant(TACTIC_TAG + tag, (TACTIC_TAG + tactic for tactic in tactics))
        yield f"{version} knows no tactic {TACTIC_TAG + tag!r}{near}"
    served: set[str] = set()
    techniques = [tag for tag in rule.tags if TECHNIQUE.fullmatch(tag)]
    for tag in techniques:
        technique = known.get(tag)
        if technique is None:
            yield f"{version} knows no technique {tag}"
            continue
        if technique.gone:
            yield f"{tag}, {technique.name}, is {technique.gone} in {version}"
            continue
        served.update(technique.tactics)
        if not named & set(technique.tactics):
            wanted = " or ".join(TACTIC_TAG + tactic for tactic in technique.tactics)
            yield f"{tag}, {technique.name}, belongs to {wanted}, which is no tag of the rule"
    if techniques and served:
        for tag in sorted((named & tactics) - served):
            yield f"no technique of the rule belongs to its tactic {TACTIC_TAG + tag}"


def tags(subject: Subject) -> Iterator[Finding]:
    """Tags follow Falco's convention: a maturity, tactics, techniques."""
    for rule in subject.judged(Origin.SIB, Origin.OWN):
        for tag in rule.tags:
            if _LOOKS_LIKE_TECHNIQUE.fullmatch(tag) and not TECHNIQUE.fullmatch(tag):
                reason = f"the tag {tag!r} is not a technique such as T1003.008"
                yield Finding(rule.place, rule.name, TAGS, reason)
        missing = []
        if not any(tag.startswith(TACTIC_TAG) for tag in rule.tags):
            missing.append("no tactic such as mitre_credential_access")
        if not any(TECHNIQUE.fullmatch(tag) for tag in rule.tags):
            missing.append("no technique such as T1003.008")
        if rule.origin is Origin.SIB and len(_MATURITIES & set(rule.tags)) != 1:
            missing.append("not one maturity such as maturity_stable")
        if missing:
            reason = f"the tags name {', '.join(missing)}"
            yield Finding(rule.place, rule.name, TAGS, reason, Severity.WARNING)


def outputs(subject: Subject) -> Iterator[Finding]:
    """An output's fields are known, and it says who did it with which program."""
    for rule in subject.judged():
        if rule.source != _SYSCALL:
            continue
        text = rule.output.value
        for found in _TOKEN.finditer(text):
            name = found["field"]
            if name is None:
                near = text[found.start() : found.start() + 20]
                reason = f"a field is expected behind `%` in {near!r}"
                yield Finding(rule.output.place, rule.name, OUTPUT, reason)
            elif name != "container.info" and subject.facts.field(name) is None:
                near = meant(name, subject.facts.fields)
                reason = f"Falco {subject.facts.falco} knows no field {name!r}{near}"
                yield Finding(rule.output.place, rule.name, OUTPUT, reason)
        missing = [what for what, prefix in _WHO if prefix not in text]
        if rule.origin in {Origin.SIB, Origin.OWN} and missing:
            reason = f"the output names no {' and no '.join(missing)}"
            yield Finding(rule.output.place, rule.name, OUTPUT, reason, Severity.WARNING)


_WHO: Final = (("user (%user.name)", "%user."), ("process (%proc.name)", "%proc."))


def priorities(subject: Subject) -> Iterator[Finding]:
    """Falco refuses a priority that it does not know."""
    for rule in subject.judged():
        if rule.priority.value.upper() not in PRIORITIES:
            reason = f"{rule.priority.value[:40]!r} is not one of {', '.join(PRIORITIES)}"
            yield Finding(rule.priority.place, rule.name, PRIORITY, reason)


def drills(subject: Subject) -> Iterator[Finding]:
    """What no drill has fired is a claim, and so is a technique that none of the drills is."""
    for rule in subject.judged(Origin.SIB, Origin.OWN):
        sidecar = subject.drilled.get(rule.name)
        if sidecar is None:
            beside = PurePath(rule.place.file).with_suffix(SUFFIX).name
            reason = f"no drill in {beside}, so nothing proves that it fires"
            yield Finding(rule.place, rule.name, DRILL, reason, Severity.WARNING)
            continue
        techniques = {tag for tag in rule.tags if TECHNIQUE.fullmatch(tag)}
        if sidecar.proves and techniques - sidecar.proves:
            unproven = ", ".join(sorted(techniques - sidecar.proves))
            reason = f"no drill proves {unproven}"
            yield Finding(rule.place, rule.name, DRILL, reason, Severity.WARNING)
        if sidecar.proves - techniques:
            strange = ", ".join(sorted(sidecar.proves - techniques))
            reason = f"a drill proves {strange}, which is no tag of the rule"
            yield Finding(sidecar.place, rule.name, DRILL, reason, Severity.WARNING)


def exceptions(subject: Subject) -> Iterator[Finding]:
    """A rule without exceptions can be tuned only by being edited."""
    for rule in subject.judged(Origin.SIB, Origin.OWN):
        if not rule.exceptions:
            reason = (
                "the rule has no exceptions by which it could be tuned, such as "
                "[{name: program, fields: [proc.exepath]}]"
            )
            yield Finding(rule.place, rule.name, EXCEPTIONS, reason, Severity.WARNING)
