"""A condition in the order in which it costs Falco least. Pure.

Falco judges a condition from the left, and leaves off where the rest does not matter. Its checks
change nothing, so any order of the parts of an `and` or an `or` means the same. Here the parts are
put in the order of what they cost to what they are likely to decide, which is the cheapest order
for parts that do not depend on each other (J. M. Hellerstein, "Optimization techniques for queries
with expensive methods", 1998).

Falco finds the event types of a rule in its condition wherever they are named, so the check of
them, which holds for nearly all that the rule is handed, comes last.

A file that is loaded later may append to the text of a condition (`and not proc.name = x`). What it
appends binds as it did: brackets around all of a condition stay, and where alternatives stand
without brackets the last of them, which an `and` would join, stays the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.conditions import (
    And,
    Comparison,
    FieldOf,
    Named,
    Not,
    Or,
    Value,
    Values,
    checks,
)
from sib_server.detection.rules.costs import Costs
from sib_server.detection.rules.event_types import event_types
from sib_server.detection.rules.parsing import ConditionError, parse
from sib_server.detection.rules.resolving import ResolveError, Resolver
from sib_server.detection.rules.writing import write

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sib_server.detection.rules.collect import RuleSet
    from sib_server.detection.rules.conditions import Condition

MAX_CHECKS: Final = 20_000
"""Larger conditions are left as they are written."""
_SETS: Final = (
    "proc.name", "proc.pname", "proc.aname", "fd.name", "fd.filename", "fd.directory",
    "fs.path.name", "fs.path.source", "fs.path.target",
)  # fmt: skip
"""Fields of texts: `=` and `in` mean the same for them."""
_Texts: TypeAlias = "dict[tuple[str, bool], Value]"


class Orderer:
    """Orders the conditions of one set of rules.

    Names of lists, and of the macros of others than SIB, stay in them: a tag's or a host's own file
    may still change what they stand for.
    """

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._resolver = Resolver(rules)
        self._macros: dict[str, Condition] = {}

    def reads(self, text: str) -> bool:
        """Whether it is a condition all of whose names are known."""
        try:
            self._resolver.resolved(parse(text))
        except (ConditionError, ResolveError):
            return False
        return True

    def ordered(self, text: str) -> str:
        """A condition that means the same and costs no more, by the estimates of
        :mod:`sib_server.detection.rules.costs`.

        One that cannot be read, or is very large, comes back as it is.
        """
        try:
            condition = parse(text)
            resolved = self._resolver.resolved(condition)
        except (ConditionError, ResolveError):
            return text
        if sum(1 for _ in checks(resolved)) > MAX_CHECKS:
            return text
        named = event_types(resolved)
        types = frozenset() if named.inverted else named.names
        costs = Costs(self._macro, self._rules.lists, types)
        if isinstance(condition, Or) and _is_open(text):
            *parts, last = condition.parts
            first = self._cheapest(_joined(Or, parts), costs)
            firsts = first.parts if isinstance(first, Or) else (first,)
            return write(Or((*firsts, self._cheapest(last, costs))))
        cheapest = self._cheapest(condition, costs)
        return f"({write(cheapest)})" if isinstance(cheapest, Or) else write(cheapest)

    def _cheapest(self, condition: Condition, costs: Costs) -> Condition:
        return _ordered(_gated(_flat(self._put_in(condition))), costs)

    def _macro(self, name: str) -> Condition:
        """A macro of others in the order in which hosts get it, which is what it costs there."""
        if name not in self._macros:
            self._macros[name] = parse(self.ordered(self._rules.macros[name].condition.value))
        return self._macros[name]

    def _put_in(self, condition: Condition) -> Condition:
        """With SIB's own macros put in, whose parts can then be ordered among the others."""
        if isinstance(condition, Named):
            macro = self._rules.macros[condition.name]
            if macro.origin is not Origin.SIB:
                return condition
            return self._put_in(parse(macro.condition.value))
        if isinstance(condition, Not):
            return Not(self._put_in(condition.part))
        if isinstance(condition, And | Or):
            return type(condition)(tuple(map(self._put_in, condition.parts)))
        return condition


def _is_open(alternatives: str) -> bool:
    """Whether they stand without brackets, so that an appended `and` joins the last of them."""
    return isinstance(parse(f"{alternatives} and evt.num exists"), Or)


def _flat(condition: Condition) -> Condition:
    """Without brackets that mean nothing, and with one set for several of one field."""
    if isinstance(condition, Not):
        part = _flat(condition.part)
        return part.part if isinstance(part, Not) else Not(part)
    if isinstance(condition, And | Or):
        kind = type(condition)
        parts: list[Condition] = []
        for part in map(_flat, condition.parts):
            parts += part.parts if isinstance(part, kind) else (part,)
        return _joined(kind, _united(parts) if kind is Or else parts)
    return condition


def _joined(kind: type[And | Or], parts: Iterable[Condition]) -> Condition:
    several = tuple(dict.fromkeys(parts))
    return several[0] if len(several) == 1 else kind(several)


def _united(parts: Sequence[Condition]) -> list[Condition]:
    """Alternatives in which the memberships of one field are one membership."""
    memberships: dict[FieldOf, _Texts] = {}
    for part in parts:
        if members := _membership(part):
            memberships.setdefault(members[0], {}).update(members[1])
    united: list[Condition] = []
    for part in parts:
        members = _membership(part)
        if members is None:
            united.append(part)
        elif (texts := memberships.pop(members[0], None)) is not None:
            united.append(part if len(texts) == len(members[1]) else _in(members[0], texts))
    return united


def _membership(condition: Condition) -> tuple[FieldOf, _Texts] | None:
    """The field and the texts, one of which it has to be."""
    if not isinstance(condition, Comparison) or not isinstance(condition.left, FieldOf):
        return None
    if condition.left.name not in _SETS:
        return None
    if condition.operator in {"=", "=="} and isinstance(condition.right, Value):
        return condition.left, {_key(condition.right): condition.right}
    if condition.operator == "in" and isinstance(condition.right, Values):
        return condition.left, {_key(value): value for value in condition.right.items}
    return None


def _key(value: Value) -> tuple[str, bool]:
    """What is not quoted may be the name of a list."""
    return value.text, value.quoted


def _in(field: FieldOf, texts: _Texts) -> Comparison:
    # Never `=`, behind which a list's name would not stand for its items.
    return Comparison(field, "in", Values(tuple(texts.values())))


def _gated(condition: Condition) -> Condition:
    """With a check before alternatives of which each asks for some of one field's values.

    Falco asks such alternatives one after the other; a program that none of them names fails at
    the gate.
    """
    if isinstance(condition, Not):
        return Not(_gated(condition.part))
    if isinstance(condition, And):
        asked = {members[0] for part in condition.parts if (members := _membership(part))}
        parts: list[Condition] = []
        for part in condition.parts:
            if isinstance(part, Or):
                gates = {field: one for field, one in _gates(part).items() if field not in asked}
                parts += gates.values()
                asked |= gates.keys()
                parts.append(Or(tuple(map(_gated, part.parts))))
            else:
                parts.append(_gated(part))
        return And(tuple(parts))
    if isinstance(condition, Or):
        inner = Or(tuple(map(_gated, condition.parts)))
        gates = _gates(condition)
        return And((*gates.values(), inner)) if gates else inner
    return condition


def _gates(condition: Or) -> dict[FieldOf, Condition]:
    return {field: _in(field, texts) for field, texts in _implied(condition).items()}


def _implied(condition: Condition) -> dict[FieldOf, _Texts]:
    """Fields, and the texts of which one has to be theirs wherever the condition holds.

    Not by what a macro stands for: that may be changed on a host, and the gate would not know.
    """
    members = _membership(condition)
    if members is not None:
        return dict([members])
    if isinstance(condition, And):
        found: dict[FieldOf, _Texts] = {}
        for part in condition.parts:
            for field, texts in _implied(part).items():
                if field not in found or len(texts) < len(found[field]):
                    found[field] = texts
        return found
    if isinstance(condition, Or):
        first, *others = map(_implied, condition.parts)
        common = {field: dict(texts) for field, texts in first.items()}
        for other in others:
            for field in tuple(common):
                if field in other:
                    common[field].update(other[field])
                else:
                    del common[field]
        return common
    return {}


def _ordered(condition: Condition, costs: Costs) -> Condition:
    if isinstance(condition, Not):
        return Not(_ordered(condition.part, costs))
    if not isinstance(condition, And | Or):
        return condition
    ranked: list[tuple[float, Condition]] = []
    for part in (_ordered(part, costs) for part in condition.parts):
        expected = costs.of(part)
        decides = expected.holds if isinstance(condition, Or) else 1 - expected.holds
        ranked.append((expected.cost / decides, part))
    # As they were written where the ranks are the same: the same bytes each time.
    return type(condition)(tuple(part for _, part in sorted(ranked, key=lambda one: one[0])))
