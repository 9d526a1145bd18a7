"""What Falco pays for a check, and how often the check holds. Pure.

Costs are nanoseconds on the machine of docs/performance.md, measured by `scripts/bench checks`:
their order matters, not their size. How often a check holds is a guess from what an event of a
host that nobody attacks looks like; a wrong guess makes a rule slower and never another rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_server.detection.rules.conditions import (
    And,
    Comparison,
    Exists,
    FieldOf,
    Named,
    Not,
    Or,
    values,
)
from sib_server.detection.rules.event_types import EVENT_TYPE
from sib_server.detection.rules.resolving import texts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sib_server.detection.rules.collect import NamedList
    from sib_server.detection.rules.conditions import Check, Condition

_CHECK: Final = 30.0
"""Of a check whose field a rule has already asked of the event."""
_BRACKET: Final = 12.0
"""Of each level of brackets, and of each `not`."""
_EXTRACTION: Final[Mapping[str, float]] = {
    "proc.aname": 100.0,
    "proc.apid": 100.0,
    "evt.res": 120.0,
    "evt.arg": 250.0,
    "evt.args": 2_000.0,
    "fd": 90.0,
    "fd.num": 35.0,
    "fd.nameraw": 120.0,
    "fs": 270.0,
    "thread": 150.0,
    "container": 300.0,
    "k8s": 300.0,
    "user": 45.0,
    "group": 45.0,
}
"""By a field's name, or by what stands before its first dot."""
_OTHER_EXTRACTION: Final = 30.0
_OPERATORS: Final[Mapping[str, float]] = {"pmatch": 170.0, "regex": 250.0, "glob": 30.0}
_TRANSFORMER: Final = 150.0

_HOLDS: Final[Mapping[tuple[str, str], float]] = {
    ("evt.is_open_write", "true"): 0.08,
    ("evt.is_open_read", "true"): 0.85,
    ("evt.res", "SUCCESS"): 0.5,
    ("evt.rawres", "0"): 0.5,
    ("evt.num", "0"): 0.000_1,
    ("fd.num", "0"): 0.8,
    ("fd.typechar", "f"): 0.9,
    ("user.uid", "0"): 0.5,
    ("user.loginuid", "-1"): 0.5,
    ("proc.tty", "0"): 0.6,
    ("container.id", "host"): 0.7,
}
"""By field and the value that it is compared with, for what is equal, or greater or equal."""
_BELOW: Final[Mapping[str, float]] = {
    "/usr/": 0.6,
    "/usr/share/": 0.3,
    "/etc/": 0.15,
    "/proc/": 0.15,
}
"""Of the files that are opened, those below a folder."""
_OPERATORS_HOLD: Final[Mapping[str, float]] = {
    "=": 0.02, "==": 0.02, "in": 0.05, "startswith": 0.05, "endswith": 0.03, "contains": 0.03,
    "icontains": 0.03, "glob": 0.05, "iglob": 0.05, "pmatch": 0.1, "regex": 0.05,
    "intersects": 0.05,
}  # fmt: skip
_OTHERWISE: Final = 0.3
_EXISTS: Final = 0.95
_INDEXED: Final = 0.99
"""Falco hands a rule no events of other types than those that its condition names."""
_OFTEN: Final = frozenset({"sh", "bash", "dash", "python", "python3", "perl", "java", "node"})
"""Names of programs that are seen in every second event of some hosts."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Of a condition.

    Attributes:
        cost: ns to judge it by one event.
        holds: the share of events for which it holds, above 0 and below 1.
    """

    cost: float
    holds: float


class Costs:
    """Estimates the conditions of a rule; remembers each macro's."""

    def __init__(
        self,
        macro: Callable[[str], Condition],
        lists: Mapping[str, NamedList],
        types: frozenset[str],
    ) -> None:
        """Of rules that are handed events of some types.

        Args:
            macro: what a macro's name stands for.
            lists: what lists' names stand for.
            types: empty where the rule is handed all.
        """
        self._condition = macro
        self._lists = lists
        self._types = types
        self._macros: dict[str, Estimate] = {}

    def of(self, condition: Condition) -> Estimate:
        """What a condition costs, judged in the order in which it is written."""
        return self._of(condition, set())

    def _of(self, condition: Condition, known: set[str]) -> Estimate:
        if isinstance(condition, Not):
            part = self._of(condition.part, known)
            return Estimate(part.cost + _BRACKET, 1 - part.holds)
        if isinstance(condition, And | Or):
            stops_at = isinstance(condition, Or)
            cost, reached = _BRACKET, 1.0
            for each in condition.parts:
                part = self._of(each, known)
                cost += reached * part.cost
                reached *= 1 - part.holds if stops_at else part.holds
            return Estimate(cost, _share(1 - reached if stops_at else reached))
        if isinstance(condition, Named):
            return self._macro(condition.name)
        return Estimate(_check_cost(condition, known), _share(self._holds(condition)))

    def _macro(self, name: str) -> Estimate:
        if name not in self._macros:
            self._macros[name] = self.of(self._condition(name))
        return self._macros[name]

    def _holds(self, check: Check) -> float:
        if isinstance(check, Exists):
            return _EXISTS
        field = check.left.name
        operator = check.operator.split(" ")[0]
        texts = frozenset(text for value in values(check) for text in texts_of(value, self._lists))
        if field == EVENT_TYPE and operator in {"=", "==", "in"}:
            missed = self._types - texts
            return 1 - len(missed) / len(self._types) if missed else _INDEXED
        if operator == "!=":
            return 1 - _equal(field, texts, "=")
        if operator == "startswith" and field == "fd.name":
            return sum(_BELOW.get(text, _OPERATORS_HOLD[operator]) for text in texts)
        if operator in {"=", "==", ">=", ">", "in"}:
            return _equal(field, texts, operator)
        return _OPERATORS_HOLD.get(operator, _OTHERWISE)


def _share(holds: float) -> float:
    return min(max(holds, 1e-6), 1 - 1e-6)


def _check_cost(check: Check, known: set[str]) -> float:
    left = check.left
    if not isinstance(left, FieldOf):
        return _CHECK + _TRANSFORMER
    field = left.name if left.argument is None else f"{left.name}[{left.argument}]"
    extraction = 0.0 if field in known else _extraction(left.name)
    known.add(field)
    operator = check.operator if isinstance(check, Comparison) else ""
    return _CHECK + extraction + _OPERATORS.get(operator.split(" ")[0], 0.0)


def _extraction(name: str) -> float:
    while name:
        if name in _EXTRACTION:
            return _EXTRACTION[name]
        name = name.rpartition(".")[0]
    return _OTHER_EXTRACTION


def _equal(field: str, texts: frozenset[str], operator: str) -> float:
    known = [share for text in texts if (share := _HOLDS.get((field, text))) is not None]
    if known:
        return max(known)
    if field in {"proc.name", "proc.pname", "proc.aname"} and texts & _OFTEN:
        return 0.2
    return _OPERATORS_HOLD.get(operator, _OTHERWISE)
