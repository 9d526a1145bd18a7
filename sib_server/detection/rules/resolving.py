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
from sib_server.detection.rules.parsing import ConditionError, parse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_server.detection.rules.collect import NamedList, RuleSet
    from sib_server.detection.rules.conditions import Condition

MAX_PARTS: Final = 200_000
"""Checks of one resolved condition: macros that name macros can grow without end."""
MAX_HEIGHT: Final = 200
MAX_CHAIN: Final = 20
"""Macros that name each other in a row, before any was looked at."""
_PLAIN_ITEM: Final = re.compile(r"[^()\"'\s=,]+")


class ResolveError(ValueError):
    """A name that stands for nothing, or for itself; the message says which."""


class Resolver:
    """Resolves the conditions of one set of rules; remembers each macro's result."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules
        self._macros: dict[str, Condition] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._open: set[str] = set()

    def resolved(self, condition: Condition) -> Condition:
        """The condition without any name.

        Raises:
            ResolveError: a macro is not known, names itself, or is no condition.
        """
        size, height = self._measured(condition)
        if size > MAX_PARTS:
            raise ResolveError(f"with its macros it has more than {MAX_PARTS} checks")
        if height > MAX_HEIGHT:
            raise ResolveError(f"with its macros it is nested deeper than {MAX_HEIGHT} levels")
        return self._resolved(condition)

    def _measured(self, condition: Condition) -> tuple[int, int]:
        """Checks and levels of a condition once it is resolved."""
        if isinstance(condition, Named):
            self._macro(condition.name)
            size, height = self._sizes[condition.name]
            return size, height + 1
        if isinstance(condition, Not):
            size, height = self._measured(condition.part)
            return size, height + 1
        if isinstance(condition, And | Or):
            parts = [self._measured(part) for part in condition.parts]
            return sum(size for size, _ in parts), 1 + max(height for _, height in parts)
        return 1, 1

    def _macro(self, name: str) -> Condition:
        """A macro's condition as it is written; its size is known afterwards."""
        known = self._macros.get(name)
        if known is not None:
            return known
        macro = self._rules.macros.get(name)
        if macro is None:
            raise ResolveError(f"the macro {name!r} is not known")
        if name in self._open:
            raise ResolveError(f"the macro {name!r} names itself")
        if len(self._open) >= MAX_CHAIN:
            raise ResolveError(f"the macro {name!r} is named through more than {MAX_CHAIN} others")
        self._open.add(name)
        try:
            condition = parse(macro.condition.value)
            self._sizes[name] = self._measured(condition)
        except ConditionError as error:
            raise ResolveError(f"the macro {name!r} is no condition: {error}") from error
        finally:
            self._open.discard(name)
        self._macros[name] = condition
        return condition

    def _resolved(self, condition: Condition) -> Condition:
        if isinstance(condition, Named):
            return self._resolved(self._macro(condition.name))
        if isinstance(condition, Not):
            return Not(self._resolved(condition.part))
        if isinstance(condition, And | Or):
            return type(condition)(tuple(map(self._resolved, condition.parts)))
        if isinstance(condition, Exists) or isinstance(condition.right, Transformed):
            return condition
        return _listed(condition, self._rules.lists)


class Names:
    """What the macros and lists of one set of rules stand for, each by itself."""

    def __init__(self, rules: RuleSet) -> None:
        self._rules = rules

    def macro(self, name: str) -> Condition:
        """A macro's condition as it is written.

        Raises:
            KeyError: it is not known.
            ConditionError: it is no condition.
        """
        return parse(self._rules.macros[name].condition.value)

    def texts(self, value: Value) -> tuple[str, ...]:
        """The texts that a value stands for: those of a list, or itself."""
        return tuple(item.text for item in _items(value, self._rules.lists))


def _listed(check: Comparison, lists: Mapping[str, NamedList]) -> Comparison:
    if isinstance(check.right, Values):
        items: list[Value] = []
        for value in check.right.items:
            items += _items(value, lists)
        return replace(check, right=Values(tuple(items), check.right.at))
    if isinstance(check.right, Value) and not check.right.quoted and check.right.text in lists:
        # In brackets only where the list stands in brackets; `=` with a list of one is that one.
        found = _items(check.right, lists)
        return replace(check, right=found[0] if len(found) == 1 else Values(tuple(found)))
    return check


def _items(value: Value, lists: Mapping[str, NamedList]) -> list[Value]:
    named = None if value.quoted else lists.get(value.text)
    if named is None:
        return [value]
    return [item_value(item) for item in list_items(named.name, lists)]


def list_items(name: str, lists: Mapping[str, NamedList]) -> tuple[str, ...]:
    """A list's items with those of lists that it names, each level once."""
    found: list[str] = []
    seen = {name}

    def add(named: NamedList) -> None:
        for item in named.items:
            inner = lists.get(item)
            if inner is None or item in seen:
                found.append(item)
                continue
            seen.add(item)
            add(inner)
            seen.discard(item)

    add(lists[name])
    return tuple(found)


def item_value(item: str) -> Value:
    """A list's item, or an exception's value, as Falco puts it into a condition.

    One with a blank is put into quotes by Falco; one that has quotes keeps them.
    """
    if len(item) > 1 and item[0] in "'\"" and item[-1] == item[0]:
        return Value(item[1:-1].replace(f"\\{item[0]}", item[0]), quoted=True)
    return Value(item, quoted=_PLAIN_ITEM.fullmatch(item) is None)
