"""Which events a condition can hold for, as far as the types that it names tell. Pure.

Falco runs a rule only for its events' types: a condition that names none is judged for all of them,
on every host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_server.detection.rules.conditions import And, Comparison, Not, Or, Value, Values

if TYPE_CHECKING:
    from sib_server.detection.rules.conditions import Condition

EVENT_TYPE: Final = "evt.type"


@dataclass(frozen=True, slots=True)
class EventTypes:
    """A set of types: those named, or, ``inverted``, all but those."""

    names: frozenset[str]
    inverted: bool = False

    @property
    def are_all(self) -> bool:
        """No type, or only a few, is left out."""
        return self.inverted

    def __invert__(self) -> EventTypes:
        return EventTypes(self.names, not self.inverted)

    def __and__(self, other: EventTypes) -> EventTypes:
        if self.inverted and other.inverted:
            return EventTypes(self.names | other.names, inverted=True)
        if self.inverted:
            return EventTypes(other.names - self.names)
        if other.inverted:
            return EventTypes(self.names - other.names)
        return EventTypes(self.names & other.names)

    def __or__(self, other: EventTypes) -> EventTypes:
        return ~(~self & ~other)


ALL: Final = EventTypes(frozenset(), inverted=True)


def event_types(condition: Condition) -> EventTypes:
    """The types for which a resolved condition can hold."""
    return _types(condition, holds=True)


def _types(condition: Condition, *, holds: bool) -> EventTypes:
    """The types for which it can hold, or for which it can fail to hold."""
    if isinstance(condition, Not):
        return _types(condition.part, holds=not holds)
    if isinstance(condition, And | Or):
        parts = [_types(part, holds=holds) for part in condition.parts]
        found = parts[0]
        for part in parts[1:]:
            found = found & part if isinstance(condition, And) == holds else found | part
        return found
    if isinstance(condition, Comparison) and getattr(condition.left, "name", "") == EVENT_TYPE:
        named = _named(condition)
        if named is not None:
            return named if holds else ~named
    return ALL


def _named(check: Comparison) -> EventTypes | None:
    if isinstance(check.right, Value) and check.operator in {"=", "==", "!="}:
        one = EventTypes(frozenset({check.right.text}))
        return ~one if check.operator == "!=" else one
    if isinstance(check.right, Values) and check.operator == "in":
        return EventTypes(frozenset(value.text for value in check.right.items))
    return None
