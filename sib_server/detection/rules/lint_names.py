"""Lints about names: of rules, macros, lists, ids and requirements. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.conditions import checks as checks_of
from sib_server.detection.rules.conditions import macros, values
from sib_server.detection.rules.engine import engine_version
from sib_server.detection.rules.findings import Finding, LintName, Severity, meant
from sib_server.detection.rules.items import EngineItem, ListItem, MacroItem, RuleItem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_server.detection.rules.conditions import Condition
    from sib_server.detection.rules.findings import Place
    from sib_server.detection.rules.subject import Subject

DUPLICATE_ID: Final = LintName("duplicate-id")
DRILL_WITHOUT_RULE: Final = LintName("drill-without-rule")
UNUSED: Final = LintName("unused")
ENGINE: Final = LintName("engine-version")
_PEOPLE: Final = frozenset({Origin.SIB, Origin.OWN})
"""Whose files are written by people, and so judged for order as well."""


def duplicate_ids(subject: Subject) -> Iterator[Finding]:
    """Two rules with one id could not be told apart by proofs and switches."""
    seen: dict[str, Place] = {}
    for sidecar in subject.sidecars:
        before = seen.setdefault(sidecar.id, sidecar.place)
        if before is not sidecar.place:
            reason = f"the id {sidecar.id!r} is that of another rule, at {before}"
            yield Finding(sidecar.place, sidecar.rule, DUPLICATE_ID, reason)


def drills_without_rules(subject: Subject) -> Iterator[Finding]:
    """A drill whose rule was renamed proves nothing."""
    for sidecar in subject.sidecars:
        if sidecar.rule not in subject.rules.rules:
            reason = f"there is no rule of this name{meant(sidecar.rule, subject.rules.rules)}"
            yield Finding(sidecar.place, sidecar.rule, DRILL_WITHOUT_RULE, reason, Severity.WARNING)


def unused(subject: Subject) -> Iterator[Finding]:
    """A macro or list that nothing names is a rule that somebody forgot, or a misspelt name."""
    named_macros: set[str] = set()
    named_lists: set[str] = set()
    conditions = [*subject.read_rules.values(), *subject.read_macros.values()]
    for read in conditions:
        if read.condition is not None:
            named_macros.update(one.name for one in macros(read.condition))
            named_lists.update(_words(read.condition))
    for one in subject.rules.lists.values():
        named_lists.update(one.items)
    for kind, items, named in (
        ("macro", subject.rules.macros.values(), named_macros),
        ("list", subject.rules.lists.values(), named_lists),
    ):
        for item in items:
            if item.origin in _PEOPLE and item.name not in named:
                reason = f"no rule and no other {kind} names this {kind}"
                yield Finding(item.place, item.name, UNUSED, reason, Severity.WARNING)


def _words(condition: Condition) -> Iterator[str]:
    for check in checks_of(condition):
        for value in values(check):
            if not value.quoted:
                yield value.text


def engine_versions(subject: Subject) -> Iterator[Finding]:
    """A file says which engine it needs, and hosts' engines are that new."""
    has = engine_version(subject.facts.engine)
    for file in subject.files:
        if file.origin is Origin.FALCO:
            continue
        items = [item for item in file.items if isinstance(item, EngineItem)]
        for item in items:
            wanted = engine_version(item.version)
            if wanted is None:
                reason = f"{item.version!r} is not a version such as 0.50.0"
                yield Finding(item.place, "", ENGINE, reason)
            elif has is not None and wanted > has:
                reason = (
                    f"wants engine {item.version}; that of Falco {subject.facts.falco}, which "
                    f"hosts run, is {subject.facts.engine}"
                )
                yield Finding(item.place, "", ENGINE, reason)
        heads = (RuleItem, MacroItem, ListItem)
        first = next((item for item in file.items if isinstance(item, heads)), None)
        # One file of a folder speaks for all: the others are never loaded without it.
        alone = not any(
            isinstance(item, EngineItem)
            for other in subject.files
            if other.origin is file.origin
            for item in other.items
        )
        if first is not None and file.origin in _PEOPLE and alone:
            reason = (
                "no file here says which engine it needs, such as "
                "`- required_engine_version: 0.50.0`"
            )
            yield Finding(first.place, "", ENGINE, reason, Severity.WARNING)
            return
