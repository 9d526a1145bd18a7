"""Names in conditions put to what they stand for: macros and lists. Pure.

Falco puts a list's items into the text of a condition, macros into its tree. Here both are put into
the tree: a bare value that is a list's name stands for its items.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from sib_server.detection.rules.conditions import (
    And,
    Comparison,
    Exists,
    Named,
    Not,
    Or,
    Transformed,
    Value,
    Values,
)
from sib_server.detection.rules.findings import meant
from sib_server.detection.rules.parsing import ConditionError, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_server.detection.rules.collect import Macro, NamedList, RuleSet
    from sib_server.detection.rules.conditions import Condition

MAX_PARTS: Final = 200_000
"""Checks of one resolved condition: macros that name macros can grow without end."""
MAX_ITEMS: Final = 1_000_000
"""Items of a list with those of the lists that it names, some of them twice."""
MAX_HEIGHT: Final = 200
MAX_CHAIN: Final = 20
"""Macros that name each other in a row, before any was looked at."""
_PLAIN_ITEM: Final = re.compile(r"[^()\"'\s=,]+")


class ResolveError(ValueError):
    """A name that stands for nothing, or for itself; the message says which."""


class UnknownMacroError(ResolveError):
    """A macro that is not among the rules; a host may have it in files that are not known here."""


class Resolver:
    """Resolves the conditions of one set of rules; remembers each macro's result."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._macros: dict[str, Condition] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._read_by: set[tuple[str, str]] = set()
        self._open: set[str] = set()

    def resolved(self, condition: Condition, by: Macro | None = None) -> Condition:
        """The condition without any name.

        Args:
            condition: a rule's, or the macro's that is given.
            by: the macro, which sees only what was defined before it.

        Raises:
            ResolveError: a macro is not known, names itself, or is no condition.
        """
        size, height = self._measured(condition, by)
        if size > MAX_PARTS:
            raise ResolveError(f"with its macros it has more than {MAX_PARTS} checks")
        if height > MAX_HEIGHT:
            raise ResolveError(f"with its macros it is nested deeper than {MAX_HEIGHT} levels")
        return self._resolved(condition)

    def _measured(self, condition: Condition, by: Macro | None) -> tuple[int, int]:
        """Checks and levels of a condition once it is resolved; all its macros are known then."""
        if isinstance(condition, Named):
            self._read(condition.name, by)
            size, height = self._sizes[condition.name]
            return size, height + 1
        if isinstance(condition, Not):
            size, height = self._measured(condition.part, by)
            return size, height + 1
        if isinstance(condition, And | Or):
            parts = [self._measured(part, by) for part in condition.parts]
            return sum(size for size, _ in parts), 1 + max(height for _, height in parts)
        return 1, 1

    def _read(self, name: str, by: Macro | None) -> None:
        """Read a macro that is named, by another one or by a rule, and measure it."""
        macro = self._rules.macros.get(name)
        if macro is None:
            near = meant(name, self._rules.macros)
            raise UnknownMacroError(f"the macro {name!r} is not known{near}")
        if name in self._open or (by is not None and by.name == name):
            raise ResolveError(f"the macro {name!r} names itself")
        if by is not None and not by.turn.sees(macro.turn):
            raise ResolveError(f"the macro {name!r} is not known yet where {by.name!r} names it")
        # Falco resolves macros in the order of their first definitions. One that comes later is put
        # in as it is written, and what it names has to be seen from there.
        sees = by if by is not None and by.turn.first < macro.turn.first else macro
        if (name, sees.name) in self._read_by:
            return
        if len(self._open) >= MAX_CHAIN:
            raise ResolveError(f"the macro {name!r} is named through more than {MAX_CHAIN} others")
        self._open.add(name)
        try:
            condition = parse(macro.condition.value)
            self._sizes[name] = self._measured(condition, sees)
        except ConditionError as error:
            raise ResolveError(f"the macro {name!r} is no condition: {error}") from error
        finally:
            self._open.discard(name)
        self._macros[name] = condition
        self._read_by.add((name, sees.name))

    def _resolved(self, condition: Condition) -> Condition:
        if isinstance(condition, Named):
            return self._resolved(self._macros[condition.name])
        if isinstance(condition, Not):
            return Not(self._resolved(condition.part))
        if isinstance(condition, And | Or):
            return type(condition)(tuple(map(self._resolved, condition.parts)))
        if isinstance(condition, Exists) or isinstance(condition.right, Transformed):
            return condition
        return _listed(condition, self._rules.lists)


def texts_of(value: Value, lists: Mapping[str, NamedList]) -> tuple[str, ...]:
    """The texts that a value stands for: those of a list, or itself."""
    return tuple(item.text for item in _items(value, lists))


def _listed(check: Comparison, lists: Mapping[str, NamedList]) -> Comparison:
    right = check.right
    if isinstance(right, Values):
        items: list[Value] = []
        for value in right.items:
            items += _items(value, lists)
        return replace(check, right=Values(tuple(items), right.at))
    if isinstance(right, Value) and not right.quoted and right.text in lists:
        # Falco puts in the items without brackets: more than one are no value.
        found = _items(right, lists)
        if len(found) != 1:
            raise ResolveError(
                f"the list {right.text!r} of {len(found)} items stands where one value is expected;"
                f" `in ({right.text})` compares with them all"
            )
        return replace(check, right=found[0])
    return check


def _items(value: Value, lists: Mapping[str, NamedList]) -> list[Value]:
    named = None if value.quoted else lists.get(value.text)
    if named is None:
        return [value]
    return [item_value(item) for item in list_items(named.name, lists)]


def list_items(name: str, lists: Mapping[str, NamedList]) -> tuple[str, ...]:
    """A list's items, as Falco puts them into a condition.

    It first puts into each list those that it names and sees, one level deep. Then it goes once
    through all lists in the order of their definitions and puts each one's items for its name. So
    the name of a list whose turn is over stays, as a text of its own.

    Raises:
        ResolveError: they are more than can be.
    """
    found: list[str] = []
    waiting = [(name, 0)]
    steps = 0
    while waiting:
        item, after = waiting.pop()
        named = lists.get(item)
        if named is None or named.turn.first <= after:
            found.append(item)
            continue
        inside = _seen_items(named, lists)
        steps += len(inside)
        if steps > MAX_ITEMS:
            raise ResolveError(f"the list {name!r} stands for more than {MAX_ITEMS} items")
        waiting += [(one, named.turn.first) for one in reversed(inside)]
    return tuple(found)


def _seen_items(named: NamedList, lists: Mapping[str, NamedList]) -> list[str]:
    found: list[str] = []
    for item in named.items:
        other = lists.get(item)
        found += other.items if other is not None and named.turn.sees(other.turn) else (item,)
    return found


def item_value(item: str) -> Value:
    """A list's item, or an exception's value, as Falco puts it into a condition.

    One with a blank is put into quotes by Falco; one that has quotes keeps them.
    """
    if len(item) > 1 and item[0] in "'\"" and item[-1] == item[0]:
        return Value(item[1:-1].replace(f"\\{item[0]}", item[0]), quoted=True)
    return Value(item, quoted=_PLAIN_ITEM.fullmatch(item) is None)
