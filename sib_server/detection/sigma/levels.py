"""Sigma's levels, and the priorities of the events that rules of each make. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_protocol.events import Priority

if TYPE_CHECKING:
    from sigma.correlations import SigmaCorrelationRule
    from sigma.rule import SigmaRule

_DEFAULT: Final = "medium"
_PRIORITIES: Final = {
    "informational": Priority.INFORMATIONAL,
    "low": Priority.NOTICE,
    "medium": Priority.WARNING,
    "high": Priority.ERROR,
    "critical": Priority.CRITICAL,
}


def level_of(rule: SigmaRule | SigmaCorrelationRule) -> str:
    """A rule's level, as Sigma writes it; ``medium`` where it has none."""
    level = rule.level.name.lower() if rule.level else _DEFAULT
    return level if level in _PRIORITIES else _DEFAULT


def priority_of(level: str) -> Priority:
    """The priority of a level; that of ``medium`` for a word that is none."""
    return _PRIORITIES.get(level, _PRIORITIES[_DEFAULT])
