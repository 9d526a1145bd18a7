"""Conditions written as Falco reads them. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sib_server.detection.rules.conditions import (
    And,
    Exists,
    FieldOf,
    Named,
    Not,
    Or,
    Transformed,
    Value,
    Values,
)

if TYPE_CHECKING:
    from sib_server.detection.rules.conditions import Condition, Operand

_ESCAPES: Final = {
    "\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r", "\b": "\\b", "\f": "\\f",
}  # fmt: skip
_BARE_ARGUMENT: Final = re.compile(r"[^\]\[\"'\s]+")


def write(condition: Condition) -> str:
    """The text that parses to this condition."""
    if isinstance(condition, Named):
        return condition.name
    if isinstance(condition, Exists):
        return f"{_operand(condition.left)} exists"
    if isinstance(condition, Not):
        return f"not ({write(condition.part)})"
    if isinstance(condition, And | Or):
        word = " and " if isinstance(condition, And) else " or "
        return word.join(map(_part, condition.parts))
    return f"{_operand(condition.left)} {condition.operator} {_right(condition.right)}"


def quoted(text: str) -> str:
    """A text in quotes."""
    # A quote behind a backslash does not end a text, however that backslash came there; Falco also
    # takes a backslash with a blank for a backslash.
    ending = "\\ " if text.endswith("\\") else ""
    plain = text[:-1] if ending else text
    return '"' + "".join(_ESCAPES.get(sign, sign) for sign in plain) + ending + '"'


def _part(condition: Condition) -> str:
    text = write(condition)
    return f"({text})" if isinstance(condition, And | Or) else text


def _right(right: Value | Values | Transformed) -> str:
    if isinstance(right, Values):
        return f"({', '.join(map(_operand, right.items))})"
    return _operand(right)


def _operand(operand: Operand) -> str:
    if isinstance(operand, Value):
        return quoted(operand.text) if operand.quoted else operand.text
    if isinstance(operand, FieldOf):
        return operand.name + _argument(operand.argument)
    if isinstance(operand, Transformed):
        arguments = ", ".join(map(_operand, operand.arguments))
        return f"{operand.name}({arguments}){_argument(operand.argument)}"
    return f"({', '.join(map(_operand, operand.items))})"


def _argument(argument: str | None) -> str:
    if argument is None:
        return ""
    return f"[{argument if _BARE_ARGUMENT.fullmatch(argument) else quoted(argument)}]"
