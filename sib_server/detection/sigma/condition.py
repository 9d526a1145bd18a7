"""Falco conditions as data: build, simplify and write them.

The converter works on this tree and not on text, so that precedence, quoting and the merging of
long value lists are decided in one place. Everything here is pure.
"""

from __future__ import annotations

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
    if len(distinct) == 1:
        operator = EQUALS if operator == IN else operator.removesuffix(" anyof")
    return all_of((*shared, Check(left, operator, distinct)))


def quote(value: str) -> str:
    r"""A value as Falco's filter language writes it.

    The lexer ends a string at the first quote that no backslash precedes, even where that backslash
    is itself escaped (``"a\\"``), so backslashes and quotes go as ``\x`` escapes.
    """
    if "\0" in value:
        raise ValueError("a Falco value cannot hold a NUL")
    safe = (
        chr(byte) if 0x20 <= byte < 0x7F and byte not in b'"\\' else f"\\x{byte:02x}"
        for byte in value.encode("utf-8", "surrogateescape")
    )
    return f'"{"".join(safe)}"'


def render(node: Node) -> str:
    """The condition as text that Falco parses to this tree.

    Raises:
        ValueError: the tree is constant, which no Falco condition can say.
    """
    if node in (TRUE, FALSE):
        raise ValueError("the condition is always true or always false")
    return _render(node, type(node))


def _render(node: Node, parent: type[Node]) -> str:
    if isinstance(node, Check):
        return _render_check(node)
    if isinstance(node, Not):
        # Falco reads `not a and b` as `(not a) and b`; brackets make people read it so too.
        return f"not ({_render(node.part, type(node.part))})"
    word = " and " if isinstance(node, And) else " or "
    text = word.join(_render(part, type(node)) for part in node.parts)
    return text if parent is type(node) else f"({text})"


def _render_check(node: Check) -> str:
    if node.operator == EXISTS:
        return f"{node.left} exists"
    written = node.values if node.bare else tuple(quote(value) for value in node.values)
    takes_list = node.operator in (IN, "pmatch") or node.operator.endswith(" anyof")
    right = f"({', '.join(written)})" if takes_list else written[0]
    return f"{node.left} {node.operator} {right}"
