"""All rules as one table: what each is called, covers, and whether hosts judge by it. Pure."""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sib_protocol.events import TECHNIQUE
from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.decisions import is_enabled
from sib_server.detection.rules.effective import full_condition
from sib_server.detection.rules.parsing import ConditionError, parse
from sib_server.detection.rules.resolving import ResolveError, Resolver
from sib_server.detection.rules.writing import write

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_server.detection.rules.collect import Rule, RuleSet
    from sib_server.detection.rules.decisions import Decisions
    from sib_server.detection.rules.sidecars import Sidecar

TACTIC_TAG: Final = "mitre_"
_SIGMA_TAG: Final = "sigma:"


@dataclass(frozen=True, slots=True)
class Entry:
    """One rule as `rules list` shows it.

    Attributes:
        id: never changes for SIB's own and the administrator's rules with a drill file; made of
            the Sigma id, or of origin and name, for others.
        rule: the rule after all files and decisions.
        tactics: of ATT&CK, as tags write them without ``mitre_``.
        techniques: ids of ATT&CK.
        drill: there is a drill.
        quiet_cases: how many.
        content: SHA-256 of what a host judges by and of the drill; a proof holds for one content.
    """

    id: str
    rule: Rule
    tactics: tuple[str, ...]
    techniques: tuple[str, ...]
    drill: bool
    quiet_cases: int
    content: str

    def row(self) -> dict[str, Any]:
        """As a program reads it."""
        return {
            "id": self.id,
            "name": self.rule.name,
            "file": self.rule.place.file,
            "line": self.rule.place.line,
            "source": self.rule.origin.value,
            "tactics": self.tactics,
            "techniques": self.techniques,
            "priority": self.rule.priority.value.upper(),
            "enabled": self.rule.enabled,
            "drill": self.drill,
            "quiet_cases": self.quiet_cases,
        }


def rule_id(rule: Rule, sidecars: Mapping[str, Sidecar]) -> str:
    """The id of a rule; see :class:`Entry`."""
    sidecar = sidecars.get(rule.name)
    if sidecar is not None:
        return sidecar.id
    for tag in rule.tags:
        if rule.origin is Origin.SIGMA and tag.startswith(_SIGMA_TAG):
            return tag
    slug = re.sub(r"[^a-z0-9]+", "-", rule.name.lower()).strip("-")
    return slug if rule.origin is Origin.INTEL else f"{rule.origin.value}-{slug}"


def catalogue(
    rules: RuleSet, sidecars: Mapping[str, Sidecar], decisions: Decisions
) -> tuple[Entry, ...]:
    """All rules in the order of their definition, switched as decided.

    Args:
        rules: with tunings applied already, so that contents are those of hosts.
        sidecars: by rules' names.
        decisions: whose switches are applied.
    """
    resolver = Resolver(rules)
    return tuple(_entry(rule, sidecars, decisions, resolver) for rule in rules.rules.values())


def _entry(
    rule: Rule, sidecars: Mapping[str, Sidecar], decisions: Decisions, resolver: Resolver
) -> Entry:
    sidecar = sidecars.get(rule.name)
    identity = rule_id(rule, sidecars)
    enabled = is_enabled(rule, identity, decisions.switches)
    return Entry(
        identity,
        replace(rule, enabled=enabled),
        tuple(tag.removeprefix(TACTIC_TAG) for tag in rule.tags if tag.startswith(TACTIC_TAG)),
        tuple(tag for tag in rule.tags if TECHNIQUE.fullmatch(tag)),
        sidecar is not None,
        sidecar.quiet_cases if sidecar is not None else 0,
        content_hash(rule, sidecar.content if sidecar is not None else "", resolver),
    )


def content_hash(rule: Rule, drill: str, resolver: Resolver) -> str:
    """What a proof is about: the condition with its macros and lists, the exceptions, the drill.

    A changed description, output, priority or tag leaves it as it is.
    """
    condition = full_condition(rule)
    with suppress(ConditionError, ResolveError):
        condition = write(resolver.resolved(parse(condition)))
    text = repr((rule.source, condition, drill))
    return hashlib.sha256(text.encode()).hexdigest()
