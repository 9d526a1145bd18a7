"""Fields that are no plain field of Falco's: constants, choices, what is absent, and DNS names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from typing_extensions import override

from sib_server.detection.sigma.condition import (
    EXISTS,
    FALSE,
    TRUE,
    Check,
    Node,
    any_of,
    check,
)
from sib_server.detection.sigma.errors import FalcoUnsupportedError
from sib_server.detection.sigma.fields import Field, Number, lowered
from sib_server.detection.sigma.text import Pattern, matches

if TYPE_CHECKING:
    from sib_server.detection.sigma.regex import Flags


@dataclass(frozen=True)
class Constant(Field):
    """A field that has one value in every event of a view, such as a record's type."""

    value: str

    @override
    def text(self, wanted: Pattern) -> Node:
        return TRUE if matches(wanted, self.value) else FALSE

    @override
    def number(self, operator: str, wanted: Number) -> Node:
        if operator != "=":
            raise self.refuse(f"the comparison {operator} {wanted}")
        return TRUE if self.value == str(wanted) else FALSE

    @override
    def exists(self) -> Node:
        return TRUE


@dataclass(frozen=True)
class Choice(Field):
    """A field with a few values, each of which is a condition.

    Attributes:
        choices: value in lower case -> its condition.
        otherwise: gives the condition for, or refuses, a value that is not among them.
    """

    choices: Mapping[str, Node]
    otherwise: Callable[[str], Node] = field(default=lambda _value: FALSE)

    @override
    def text(self, wanted: Pattern) -> Node:
        if wanted.operator == EXISTS:
            return TRUE
        if wanted.operator == "=":
            value = wanted.value.lower()
            return self.choices[value] if value in self.choices else self.otherwise(value)
        return any_of(node for value, node in self.choices.items() if matches(wanted, value))

    @override
    def number(self, operator: str, wanted: Number) -> Node:
        if operator != "=":
            raise self.refuse(f"the comparison {operator} {wanted}")
        return self.text(Pattern((str(wanted),)))

    @override
    def exists(self) -> Node:
        return TRUE


@dataclass(frozen=True)
class Unavailable(Field):
    """A field that SIB's hosts do not record: each comparison is refused with the reason."""

    reason: str

    @override
    def refuse(self, what: str) -> FalcoUnsupportedError:
        _ = what
        return FalcoUnsupportedError(self.reason)


class Absent(Field):
    """A field that events of this view never have: nothing matches it."""

    @override
    def text(self, wanted: Pattern) -> Node:
        _ = wanted
        return FALSE

    @override
    def number(self, operator: str, wanted: Number) -> Node:
        _ = operator, wanted
        return FALSE

    @override
    def regex(self, wanted: str, flags: Flags) -> Node:
        _ = wanted, flags
        return FALSE

    @override
    def network(self, wanted: str) -> Node:
        _ = wanted
        return FALSE

    @override
    def exists(self) -> Node:
        return FALSE

    @override
    def reference(self, other: Field, operator: str) -> Node:
        _ = other, operator
        return FALSE


@dataclass(frozen=True)
class QueriedName(Field):
    """The name that a DNS query asks for, read from the packet.

    Falco shows a packet's bytes as text with a dot for each that cannot be printed, so a name reads
    with its dots (labels of 32 bytes and more excepted), after twelve bytes of header and the first
    label's length, and before the root label and the query type: ``.....www.example.org..``.
    """

    expression: str = "evt.arg.data"

    @override
    def text(self, wanted: Pattern) -> Node:
        if wanted.operator == EXISTS:
            return Check(self.expression, EXISTS)
        if wanted.cased or not wanted.value.isascii():
            raise self.refuse(f"the text comparison with {wanted.text!r}")
        name = wanted.value.lower()
        forms = {
            "=": f".....{name}..",
            "startswith": f".....{name}",
            "endswith": f"{name}..",
            "contains": name,
        }
        if wanted.operator not in forms or ".." in name:
            raise self.refuse(f"the text comparison with {wanted.text!r}")
        return check(lowered(self.expression, cased=False), "contains", forms[wanted.operator])
