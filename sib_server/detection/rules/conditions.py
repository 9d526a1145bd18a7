"""Falco's conditions as a tree.

What the parser makes of a text, what lints walk, and what the writer writes. Offsets into the text
take no part in comparisons: two conditions that say the same are equal. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBER_OPERATORS: Final = ("<=", "<", ">=", ">")
SYMBOL_OPERATORS: Final = ("==", "=", "!=")
WORD_OPERATORS: Final = (
    "glob",
    "iglob",
    "contains",
    "icontains",
    "bcontains",
    "startswith",
    "bstartswith",
    "endswith",
    "regex",
)
MODIFIERS: Final = ("oneof", "anyof", "allof")
LIST_OPERATORS: Final = ("intersects", "in", "pmatch")
OPERATORS_OF_LISTS: Final = frozenset(LIST_OPERATORS) | {
    f"{operator} {modifier}"
    for operator in SYMBOL_OPERATORS + WORD_OPERATORS
    for modifier in MODIFIERS
}
"""Those whose right side is a list."""
OPERATORS: Final = OPERATORS_OF_LISTS | {
    "exists", *NUMBER_OPERATORS, *SYMBOL_OPERATORS, *WORD_OPERATORS
}  # fmt: skip
TRANSFORMERS: Final = ("tolower", "toupper", "b64", "basename", "len", "join", "concat", "getopt")
VALUE: Final = "val"
"""The transformer that makes a field stand on the right side."""
MAX_VALUE_BYTES: Final = 255
"""Of what a field is compared with, in UTF-8: with a longer one Falco refuses the whole file."""


@dataclass(frozen=True, slots=True)
class Value:
    """A text or a number. One that is not quoted may be the name of a list."""

    text: str
    quoted: bool
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Values:
    """Several in brackets."""

    items: tuple[Value, ...]
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class FieldOf:
    """A field of the event, such as ``proc.aname[2]``; ``argument`` is what stands in brackets."""

    name: str
    argument: str | None = None
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Several:
    """A list of a transformer's arguments."""

    items: tuple[Operand, ...]
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Transformed:
    """What a transformer makes of its arguments."""

    name: str
    arguments: tuple[Operand, ...]
    argument: str | None = None
    at: int = field(default=0, compare=False)


Operand: TypeAlias = Value | FieldOf | Transformed | Several


@dataclass(frozen=True, slots=True)
class Exists:
    """The event has a field."""

    left: FieldOf | Transformed
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A check of a field. The right side of a list operator is :class:`Values`, a transformed
    field, or a value that names a list."""

    left: FieldOf | Transformed
    operator: str
    right: Value | Values | Transformed
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Named:
    """A macro, by its name."""

    name: str
    at: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold."""

    part: Condition


@dataclass(frozen=True, slots=True)
class And:
    """All parts, of which there are two or more, hold."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of the parts, of which there are two or more, holds."""

    parts: tuple[Condition, ...]


Condition: TypeAlias = Exists | Comparison | Named | Not | And | Or
Check: TypeAlias = Exists | Comparison


def checks(condition: Condition) -> Iterator[Check]:
    """All comparisons, in the order of the text; macros are not looked into."""
    if isinstance(condition, Exists | Comparison):
        yield condition
    elif isinstance(condition, Not):
        yield from checks(condition.part)
    elif isinstance(condition, And | Or):
        for part in condition.parts:
            yield from checks(part)


def macros(condition: Condition) -> Iterator[Named]:
    """All macros that are named, in the order of the text."""
    if isinstance(condition, Named):
        yield condition
    elif isinstance(condition, Not):
        yield from macros(condition.part)
    elif isinstance(condition, And | Or):
        for part in condition.parts:
            yield from macros(part)


def fields(condition: Condition) -> Iterator[FieldOf]:
    """All fields, those inside transformers and on right sides included."""
    for check in checks(condition):
        yield from _fields(check.left)
        if isinstance(check, Comparison) and isinstance(check.right, Transformed):
            yield from _fields(check.right)


def _fields(operand: Operand) -> Iterator[FieldOf]:
    if isinstance(operand, FieldOf):
        yield operand
    elif isinstance(operand, Transformed):
        for argument in operand.arguments:
            yield from _fields(argument)
    elif isinstance(operand, Several):
        for item in operand.items:
            yield from _fields(item)


def values(check: Check) -> tuple[Value, ...]:
    """The plain values on a check's right side."""
    if isinstance(check, Exists) or isinstance(check.right, Transformed):
        return ()
    return check.right.items if isinstance(check.right, Values) else (check.right,)
