"""Tunings put to rules: values added to their exceptions. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sib_server.detection.rules.effective import comps
from sib_server.detection.rules.findings import Finding, LintName, Place, Severity
from sib_server.detection.rules.items import RuleException
from sib_server.detection.rules.writing import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_server.detection.rules.collect import Rule, RuleSet
    from sib_server.detection.rules.decisions import Tuning

TUNING: Final = LintName("tuning")
TUNABLE_COMPS: Final = frozenset({"=", "==", "in"})
"""Operators by which a value stands for itself alone."""
_NUMBER: Final = re.compile(r"-?[0-9]{1,19}", re.ASCII)
PLACE: Final = Place("tunings", 1)


def tuned(rules: RuleSet, tunings: Iterable[Tuning]) -> tuple[RuleSet, list[Finding]]:
    """The rules with what was tuned; a tuning that fits no longer is left out and told."""
    changed = dict(rules.rules)
    findings: list[Finding] = []
    for tuning in tunings:
        rule = changed.get(tuning.rule)
        after = with_exception(rule, tuning) if rule is not None else None
        if after is None:
            gone = "there is no such rule" if rule is None else (
                f"its exception {tuning.exception!r} no longer compares {', '.join(tuning.fields)}"
            )  # fmt: skip
            reason = f"the tuning {tuning.id} is left out: {gone}; take it back by `rules undo`"
            findings.append(Finding(PLACE, tuning.rule, TUNING, reason, Severity.WARNING))
            continue
        changed[tuning.rule] = after
    return replace(rules, rules=changed), findings


def with_exception(rule: Rule, tuning: Tuning) -> Rule | None:
    """A rule with a tuning's values; ``None`` where they fit none of its exceptions."""
    known = next((one for one in rule.exceptions if one.name == tuning.exception), None)
    if known is None:
        if not tuning.adds_exception:
            return None
        texts = tuple(map(_item, tuning.values))
        added = RuleException(tuning.exception, tuning.fields, False, (), (texts,), PLACE)
        return replace(rule, exceptions=(*rule.exceptions, added))
    if known.fields != tuning.fields or not set(comps(known)) <= TUNABLE_COMPS:
        return None
    texts = tuple(map(_item, tuning.values))
    values = texts if known.single else (_fitted(known, texts),)
    extended = replace(known, values=(*known.values, *values))
    exceptions = tuple(extended if one is known else one for one in rule.exceptions)
    return replace(rule, exceptions=exceptions)


def _item(value: str) -> str:
    """A value as Falco takes it: in quotes, so that it is never the name of a list."""
    return value if _NUMBER.fullmatch(value) else quoted(value)


def _fitted(known: RuleException, values: tuple[str, ...]) -> tuple[str | tuple[str, ...], ...]:
    """A value of a list operator is a list of one."""
    return tuple(
        (value,) if comp == "in" else value
        for value, comp in zip(values, comps(known), strict=True)
    )
