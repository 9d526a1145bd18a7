"""Falco conditions as data: build, simplify and write them.

The converter works on this tree and not on text, so that precedence, quoting and the merging of
long value lists are decided in one place. Everything here is pure.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EQUALS: Final = "="
IN: Final = "in"
EXISTS: Final = "exists"
_MERGED: Final = {
    EQUALS: IN,
    "contains": "contains anyof",
    "startswith": "startswith anyof",
    "endswith": "endswith anyof",
    "glob": "glob anyof",
}
"""Operators whose alternatives over one expression become one check (one extraction)."""
MAX_DEPTH: Final = 18
"""Brackets in brackets: Falco's parser stops at a depth of 100, and a bracket takes five."""
PMATCH_FROM: Final = 4
"""So many directories or more become one ``pmatch``."""
_PATHS: Final = ("proc.exepath", "proc.pexepath", "fd.name", "fs.path.")
"""Fields with absolute paths, where a prefix with a slash at its end is a directory."""


@dataclass(frozen=True, slots=True)
class Check:
    """One comparison.

    Attributes:
        left: a Falco field, or a transformer around fields.
        operator: Falco's spelling; ``exists`` takes no value.
        values: plain text, not yet quoted; more than one only for list operators.
        bare: the right side is an expression or a number and is written as it is.
    """

    left: str
    operator: str
    values: tuple[str, ...] = ()
    bare: bool = False


@dataclass(frozen=True, slots=True)
class And:
    """All parts hold; without parts it is true."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One part holds; without parts it is false."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold; a check on a field that is absent does not hold."""

    part: Node


Node: TypeAlias = Check | And | Or | Not

TRUE: Final = And(())
FALSE: Final = Or(())


def check(left: str, operator: str, *values: str) -> Check:
    """A comparison with plain, still unquoted values."""
    return Check(left, operator, values)


def bare(left: str, operator: str, value: str) -> Check:
    """A comparison whose right side is a number, a flag or an expression."""
    return Check(left, operator, (value,), bare=True)


def all_of(parts: Iterable[Node]) -> Node:
    """Conjunction, flattened; true and false vanish, repeats are dropped."""
    kept: dict[Node, None] = {}
    for part in parts:
        if part == FALSE:
            return FALSE
        kept.update(dict.fromkeys(part.parts if isinstance(part, And) else (part,)))
    return next(iter(kept)) if len(kept) == 1 else And(tuple(kept))


def any_of(parts: Iterable[Node]) -> Node:
    """Disjunction, flattened and merged: values for one expression become one list."""
    kept: dict[Node, None] = {}
    for part in parts:
        if part == TRUE:
            return TRUE
        kept.update(dict.fromkeys(part.parts if isinstance(part, Or) else (part,)))
    merged = _merge(list(kept))
    return merged[0] if len(merged) == 1 else Or(tuple(merged))


def negate(part: Node) -> Node:
    """The opposite."""
    if part == TRUE:
        return FALSE
    if part == FALSE:
        return TRUE
    return part.part if isinstance(part, Not) else Not(part)


def _merge(parts: Sequence[Node]) -> list[Node]:
    """Join checks that ask one expression for several values.

    ``a and x = 1 or a and x = 2`` is joined too: the values stand last in such a pair.
    """
    groups: dict[tuple[tuple[Node, ...], str, str], list[str]] = {}
    order: list[Node | tuple[tuple[Node, ...], str, str]] = []
    for part in parts:
        shared, last = (part.parts[:-1], part.parts[-1]) if isinstance(part, And) else ((), part)
        listed = _listed(last)
        if listed is None:
            order.append(part)
            continue
        key = (shared, *listed[:2])
        if key not in groups:
            order.append(key)
        groups.setdefault(key, []).extend(listed[2])
    return [_one(item, groups[item]) if isinstance(item, tuple) else item for item in order]


def _listed(part: Node) -> tuple[str, str, tuple[str, ...]] | None:
    if not isinstance(part, Check) or part.bare:
        return None
    if part.operator in _MERGED:
        return part.left, _MERGED[part.operator], part.values
    if part.operator in _MERGED.values():
        return part.left, part.operator, part.values
    return None


def _one(key: tuple[tuple[Node, ...], str, str], values: Sequence[str]) -> Node:
    shared, left, operator = key
    distinct = tuple(dict.fromkeys(values))
    if operator == "startswith anyof" and _are_directories(left, distinct):
        bare_names = tuple(value.rstrip("/") for value in distinct)
        below = Check(left, "pmatch", bare_names)
        return all_of((*shared, below, Not(Check(left, IN, bare_names))))
    if len(distinct) == 1:
        operator = EQUALS if operator == IN else operator.removesuffix(" anyof")
    return all_of((*shared, Check(left, operator, distinct)))


def _are_directories(left: str, values: tuple[str, ...]) -> bool:
    """Whether ``pmatch``, one look-up for all directories, says what the prefixes say."""
    return (
        len(values) >= PMATCH_FROM
        and any(path in left for path in _PATHS)
        and all(re.fullmatch(r"(/[^/*?\[\]]+)+/", value) for value in values)
    )


_ESCAPES: Final = {
    "\\": "\\\\",
    '"': '\\"',
    "\n": "\\n",
    "\t": "\\t",
    "\r": "\\r",
    "\b": "\\b",
    "\f": "\\f",
}


def quote(value: str) -> str:
    """A value as Falco's filter language writes it.

    Raises:
        ValueError: the value ends with a backslash: Falco's lexer takes a quote after a backslash
        for
            an escaped one, even where that backslash is escaped itself. Or it holds a NUL.
    """
    if "\0" in value or value.endswith("\\"):
        raise ValueError(f"no Falco string can hold {value!r}")
    return '"' + "".join(_ESCAPES.get(char, char) for char in value) + '"'


def render(node: Node) -> str:
    """The condition as text that Falco parses to this tree.

    Raises:
        ValueError: the tree is constant, or nested deeper than Falco's parser goes.
    """
    if node in (TRUE, FALSE):
        raise ValueError("the condition is always true or always false")
    return _render(node, type(node), 0)


def _render(node: Node, parent: type[Node], depth: int) -> str:
    if isinstance(node, Check):
        return _render_check(node)
    if depth > MAX_DEPTH:
        raise ValueError(f"the condition is nested deeper than {MAX_DEPTH} brackets")
    if isinstance(node, Not):
        # Falco reads `not a and b` as `(not a) and b`; brackets make people read it so too.
        return f"not ({_render(node.part, type(node.part), depth + 1)})"
    word = " and " if isinstance(node, And) else " or "
    text = word.join(_render(part, type(node), depth + 1) for part in node.parts)
    return text if parent is type(node) else f"({text})"


def _render_check(node: Check) -> str:
    if node.operator == EXISTS:
        return f"{node.left} exists"
    plain = node.bare or node.left == "evt.type"
    written = node.values if plain else tuple(map(_written, node.values))
    takes_list = node.operator in (IN, "pmatch") or node.operator.endswith(" anyof")
    right = f"({', '.join(written)})" if takes_list else written[0]
    return f"{node.left} {node.operator} {right}"


def _written(value: str) -> str:
    # A bare word could be the name of a list; a number cannot.
    return value if value.isascii() and value.isdigit() else quote(value)
