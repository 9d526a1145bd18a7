# ruff: noqa: PLR0911 - one return for each kind of value
"""Events made from a rule's own detection tree: ones that satisfy it, and near misses.

This reads pySigma's tree only and shares no code with the converter.
"""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import Any

from sigma.conditions import ConditionAND, ConditionNOT, ConditionOR
from sigma.types import (
    CompareOperators,
    SigmaCasedString,
    SigmaCIDRExpression,
    SigmaCompareExpression,
    SigmaExists,
    SigmaExpansion,
    SigmaFieldReference,
    SigmaNull,
    SigmaNumber,
    SigmaRegularExpression,
    SigmaString,
    SpecialChars,
)

MAX_CUBES = 60
"""Ways to satisfy one rule that are tried."""
KEYWORDS = "raw"
"""The field that keywords are looked for in."""
_COMPARED = {
    CompareOperators.LT: operator.lt,
    CompareOperators.LTE: operator.le,
    CompareOperators.GT: operator.gt,
    CompareOperators.GTE: operator.ge,
}


@dataclass(frozen=True)
class Wish:
    """One comparison that must hold, or must not."""

    field: str
    value: Any
    holds: bool


@dataclass(frozen=True)
class Wanted:
    """Values for fields.

    Attributes:
        kind: ``match``, ``case`` (the same in other case) or ``miss``.
        wishes: what is asked of each field.
    """

    kind: str
    wishes: tuple[Wish, ...]


def plans(tree: Any) -> list[Wanted]:
    """What events to make for one condition tree."""
    found: dict[Wanted, None] = {}
    cubes = _cubes(tree, holds=True)
    step = max(1, len(cubes) // MAX_CUBES)
    for cube in cubes[::step][:MAX_CUBES]:
        found[Wanted("match", cube)] = None
        found[Wanted("case", cube)] = None
    for cube in cubes[::step][:MAX_CUBES]:
        for index, wish in enumerate(cube):
            if wish.holds and len(found) < 6 * MAX_CUBES:
                broken = Wish(wish.field, wish.value, holds=False)
                found[Wanted("miss", (*cube[:index], broken, *cube[index + 1 :]))] = None
    return list(found)


def _cubes(node: Any, *, holds: bool) -> list[tuple[Wish, ...]]:
    if isinstance(node, ConditionNOT):
        return _cubes(node.args[0], holds=not holds)
    if isinstance(node, ConditionAND | ConditionOR):
        parts = [_cubes(arg, holds=holds) for arg in node.args]
        if isinstance(node, ConditionAND) != holds:
            return [cube for part in parts for cube in part]
        base = [part[0] for part in parts]
        made: dict[tuple[Wish, ...], None] = {}
        for index, part in enumerate(parts):
            for cube in part:
                chosen = [*base[:index], cube, *base[index + 1 :]]
                made[tuple(dict.fromkeys(w for wishes in chosen for w in wishes))] = None
        return list(made)
    wishes = [
        Wish(getattr(node, "field", KEYWORDS), _Frozen(value), holds) for value in meant(node.value)
    ]
    return [(wish,) for wish in wishes] if holds else [tuple(wishes)]


def meant(value: Any) -> list[Any]:
    """The values for any of which one stands, such as the three of ``base64offset``."""
    return list(value.values) if isinstance(value, SigmaExpansion) else [value]


class _Frozen:
    """A Sigma value that can be put in a set."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.key = (
            type(value).__name__,
            str(getattr(value, "regexp", value)),
            repr(getattr(value, "s", "")),
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Frozen) and other.key == self.key

    def __hash__(self) -> int:
        return hash(self.key)


def matches(value: Any, text: str | None, *, anywhere: bool = False) -> bool:
    """Sigma's comparison, written once more from its specification."""
    if isinstance(value, SigmaNull | SigmaExists):
        return (text is not None) == (isinstance(value, SigmaExists) and value.exists)
    if text is None:
        return False
    if isinstance(value, SigmaCompareExpression):
        return text.isdigit() and _COMPARED[value.op](int(text), value.number.number)
    if isinstance(value, SigmaString):
        shape = "".join(
            {SpecialChars.WILDCARD_MULTI: ".*", SpecialChars.WILDCARD_SINGLE: "."}.get(part)  # type: ignore[arg-type]
            or re.escape(str(part))
            for part in value.s
        )
        flags = re.DOTALL | (0 if isinstance(value, SigmaCasedString) else re.IGNORECASE)
        return (re.search if anywhere else re.fullmatch)(shape, text, flags) is not None
    if isinstance(value, SigmaRegularExpression):
        flags = re.RegexFlag(sum(value.sigma_to_python_flags[flag] for flag in value.flags))
        return re.search(str(value.regexp), text, flags) is not None
    if isinstance(value, SigmaCIDRExpression):
        from ipaddress import ip_address  # noqa: PLC0415

        try:
            return ip_address(text) in value.network
        except (ValueError, TypeError):
            return False
    if isinstance(value, SigmaNumber):
        return str(value) in text if anywhere else text == str(value)
    return text.lower() == str(value).lower()


def holds(tree: Any, fields: dict[str, str]) -> bool:
    """Judge an event by the tree."""
    if isinstance(tree, ConditionNOT):
        return not holds(tree.args[0], fields)
    if isinstance(tree, ConditionAND):
        return all(holds(arg, fields) for arg in tree.args)
    if isinstance(tree, ConditionOR):
        return any(holds(arg, fields) for arg in tree.args)
    field = getattr(tree, "field", KEYWORDS)
    if isinstance(tree.value, SigmaFieldReference):
        return fields[field].lower() == fields[tree.value.field].lower()
    return any(
        matches(value, fields.get(field), anywhere=field == KEYWORDS) for value in meant(tree.value)
    )


def fill(wishes: list[Wish], base: str, joiners: tuple[str, ...], kind: str) -> str:
    """One field's value for what is asked of it; the best try where nothing fits."""
    starts: list[str] = []
    ends: list[str] = []
    inner: list[str] = []
    whole: list[str] = []
    for wish in wishes:
        value = wish.value.value
        near = not wish.holds
        if isinstance(value, SigmaString):
            parts = list(value.s)
            text = "".join(
                p if isinstance(p, str) else ("zz" if p is SpecialChars.WILDCARD_MULTI else "q")
                for p in _trimmed(parts)
            )
            if near:
                text = _spoilt(text)
            opened, closed = (
                (not parts or parts[0] is not SpecialChars.WILDCARD_MULTI),
                (not parts or parts[-1] is not SpecialChars.WILDCARD_MULTI),
            )
            keyword = wish.field == KEYWORDS
            target = (
                inner
                if keyword or not (opened or closed)
                else whole
                if opened and closed
                else starts
                if opened
                else ends
            )
            target.append(text)
        elif isinstance(value, SigmaRegularExpression):
            sample = sample_regex(str(value.regexp))
            if not near:
                inner.append(sample)
            elif sample:
                inner.append(_spoilt(sample))
        elif isinstance(value, SigmaNull | SigmaExists):
            continue
        elif isinstance(value, SigmaCompareExpression):
            limit = value.number.number
            whole += [
                str(one)
                for one in (limit - 1, limit, limit + 1)
                if _COMPARED[value.op](one, limit) is not near
            ]
        elif isinstance(value, SigmaCIDRExpression):
            outside = "203.0.113.77" if value.network.version == 4 else "2001:db8:ffff::77"
            whole.append(outside if near else str(value.network.network_address + 1))
        else:
            whole.append(_spoilt(str(value)) if near else str(value))
    tries: list[str] = list(whole)
    for joiner in joiners:
        start = max(starts, key=len, default=base)
        end = max(ends, key=len, default="")
        tries += [
            joiner.join([s for s in (start, *order, end) if s]) for order in (inner, inner[::-1])
        ]
        tries += [joiner.join([s for s in (*order, end) if s]) for order in (inner,) if not starts]
        tries += [joiner.join([s for s in (start, *inner, "zz") if s])]
    tries = tries or [base]
    swapped = [text.swapcase() for text in tries] if kind == "case" else []
    for text in (*swapped, *tries):
        if all(
            matches(w.value.value, text, anywhere=w.field == KEYWORDS) == w.holds for w in wishes
        ):
            return text
    return tries[0] if tries[0] else base


def _trimmed(parts: list[Any]) -> list[Any]:
    kept = list(parts)
    while kept and kept[0] is SpecialChars.WILDCARD_MULTI:
        kept.pop(0)
    while kept and kept[-1] is SpecialChars.WILDCARD_MULTI:
        kept.pop()
    return kept


def _spoilt(text: str) -> str:
    """The text with one letter or digit replaced: as near as a miss can be."""
    for index in range(len(text) - 1, -1, -1):
        if text[index].isalnum():
            other = "0" if text[index] != "0" else "7"
            return text[:index] + other + text[index + 1 :]
    return "".join("_" if char not in "/ " else char for char in text) or "_"


def sample_regex(expression: str) -> str:
    """A text in which an expression is found, by the shape of the expression."""
    from re import _parser as parser  # type: ignore[attr-defined]  # noqa: PLC0415 - the only grammar of re that Python has

    return "".join(_sample(parser.parse(expression)))


def _sample(tree: Any) -> list[str]:
    out: list[str] = []
    for kind, argument in tree:
        name = str(kind)
        if name in {"LITERAL", "NOT_LITERAL"}:
            out.append(chr(argument) if name == "LITERAL" else "x")
        elif name == "ANY":
            out.append("x")
        elif name == "IN":
            out.append(_member(argument))
        elif name in {"MAX_REPEAT", "MIN_REPEAT"}:
            low, _high, inner = argument
            out += _sample(inner) * max(low, 1 if low else 0)
        elif name == "SUBPATTERN":
            out += _sample(argument[-1])
        elif name == "BRANCH":
            out += _sample(argument[1][-1])
    return out


def _member(items: Any) -> str:
    kinds = {"CATEGORY_SPACE": " ", "CATEGORY_DIGIT": "5", "CATEGORY_WORD": "w"}
    if str(items[0][0]) == "NEGATE":
        return "k"
    name, value = str(items[0][0]), items[0][1]
    if name == "LITERAL":
        return chr(value)
    return chr(value[0]) if name == "RANGE" else kinds.get(str(value), "x")
