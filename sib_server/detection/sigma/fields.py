"""How each kind of Falco field answers each of Sigma's comparisons.

A field gives a condition for a comparison, or refuses with a reason; it never gives a condition
that means less. What is true of a field in general is here, which Sigma field is which is in
:mod:`sib_server.detection.sigma.views`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

from sib_server.detection.sigma import regex
from sib_server.detection.sigma.condition import (
    EXISTS,
    FALSE,
    TRUE,
    Check,
    Node,
    all_of,
    any_of,
    bare,
    check,
    negate,
)
from sib_server.detection.sigma.errors import FalcoUnsupportedError
from sib_server.detection.sigma.text import Pattern, Wild, pattern

if TYPE_CHECKING:
    from sib_server.detection.sigma.regex import Flags

Number: TypeAlias = int | float


def lowered(expression: str, *, cased: bool) -> str:
    """The left side of a comparison: as it is, or without regard to (ASCII) case."""
    return expression if cased else f"tolower({expression})"


def compare(expression: str, wanted: Pattern) -> Node:
    """A text comparison over any expression that is text."""
    if wanted.operator == EXISTS:
        return Check(expression, EXISTS)
    left = lowered(expression, cased=wanted.cased)
    return any_of(check(left, each.operator, each.value) for each in wanted.variants())


def search(expression: str, wanted: str, flags: Flags) -> Node:
    """A regular expression over any expression that is text."""
    body, read = regex.leading_flags(wanted, flags)
    left = lowered(expression, cased=not read.ignore_case)
    text = regex.plain_text(body, read)
    if text is not None:
        return check(left, "contains", text)
    return check(left, "regex", regex.to_falco(body, read))


class Field:
    """A field that can be compared in no way; the kinds below say what they can."""

    shown: str | None = None
    """The Falco field that an alert prints for this one."""

    def refuse(self, what: str) -> FalcoUnsupportedError:
        """The error for a comparison that this kind of field does not have."""
        return FalcoUnsupportedError(f"{what} is not possible for a field of this kind in Falco")

    def text(self, wanted: Pattern) -> Node:
        """The value equals, begins with, ends with, contains or has the shape of a text."""
        raise self.refuse(f"the text comparison with {wanted.text!r}")

    def number(self, operator: str, wanted: Number) -> Node:
        """The value compares (``=``, ``<``, ``<=``, ``>``, ``>=``) with a number."""
        raise self.refuse(f"the comparison {operator} {wanted}")

    def regex(self, wanted: str, flags: Flags) -> Node:
        """An expression is found in the value."""
        _ = flags
        raise self.refuse(f"the regular expression {wanted!r}")

    def network(self, wanted: str) -> Node:
        """The value is an address in a network."""
        raise self.refuse(f"the network {wanted}")

    def exists(self) -> Node:
        """The event has the field."""
        raise self.refuse("the test for existence")

    def reference(self, other: Field, operator: str) -> Node:
        """The value compares with another field's."""
        _ = other
        raise self.refuse(f"the comparison {operator} with another field")


@dataclass(frozen=True)
class Text(Field):
    """Text as it is, such as a user name."""

    expression: str

    @property
    def shown(self) -> str | None:  # type: ignore[override]
        return self.expression if re.fullmatch(r"[a-z.]+(\[\d+\])?", self.expression) else None

    def text(self, wanted: Pattern) -> Node:
        return compare(self.expression, wanted)

    def number(self, operator: str, wanted: Number) -> Node:
        if operator != "=":
            raise self.refuse(f"the comparison {operator} {wanted}")
        return self.text(Pattern((str(wanted),)))

    def regex(self, wanted: str, flags: Flags) -> Node:
        return search(self.expression, wanted, flags)

    def exists(self) -> Node:
        return Check(self.expression, EXISTS)

    def reference(self, other: Field, operator: str) -> Node:
        if type(other) not in (Text, Path):
            raise self.refuse(f"the comparison {operator} with a field of another kind")
        assert isinstance(other, Text)
        right = lowered(other.expression, cased=False)
        return bare(lowered(self.expression, cased=False), operator, right)


@dataclass(frozen=True)
class Path(Text):
    """The absolute path of a file. ``endswith "/name"`` becomes a look-up of its last part."""

    def text(self, wanted: Pattern) -> Node:
        name = wanted.value
        if wanted.operator == "endswith" and re.fullmatch(r"/[^/]+", name) and name.isascii():
            last = lowered(f"basename({self.expression})", cased=wanted.cased)
            return check(last, "=", name[1:] if wanted.cased else name[1:].lower())
        return super().text(wanted)


@dataclass(frozen=True)
class CommandLine(Field):
    """Arguments joined with spaces, from ``argv[0]`` on.

    Falco writes ``argv[0]``, a space, and the rest joined with spaces: so a program without
    arguments has a space at the end that Sigma's command line has not. Wherever that could be
    seen, the two cases are told apart.

    Attributes:
        expression: Falco's line.
        program: the expression for ``argv[0]`` alone.
        alone: holds where there are no arguments.
        shown: the field that an alert prints.
    """

    expression: str
    program: str
    alone: Node
    shown: str | None = None  # type: ignore[override]

    def _apart(self, line: Node, program: Node) -> Node:
        return any_of(
            (all_of((negate(self.alone), line)), all_of((self.alone, program))),
        )

    def text(self, wanted: Pattern) -> Node:
        if wanted.operator == EXISTS:
            return self.exists()
        line, program = compare(self.expression, wanted), compare(self.program, wanted)
        last = wanted.last_fixed
        if last is None or last is Wild.ONE or str(last).endswith(" "):
            return self._apart(line, program)
        # Falco's line of a lone program ends with a space that this pattern cannot end with: so
        # where more may follow, the line answers for it too; where not, only the program can.
        return line if wanted.open_end else any_of((line, all_of((self.alone, program))))

    def number(self, operator: str, wanted: Number) -> Node:
        if operator != "=":
            raise self.refuse(f"the comparison {operator} {wanted}")
        return self.text(Pattern((str(wanted),)))

    def regex(self, wanted: str, flags: Flags) -> Node:
        line, program = (
            search(expression, wanted, flags) for expression in (self.expression, self.program)
        )
        if isinstance(line, Check) and line.operator == "contains" and line.values[0][-1] != " ":
            return line
        return self._apart(line, program)

    def exists(self) -> Node:
        return Check(self.program, EXISTS)

    def reference(self, other: Field, operator: str) -> Node:
        if operator != "=" or not isinstance(other, CommandLine):
            raise self.refuse(f"the comparison {operator} of a command line with another field")
        left, right = (lowered(line, cased=False) for line in (self.expression, other.expression))
        return bare(left, "=", right)


@dataclass(frozen=True)
class Directory(Text):
    """A directory, which Falco writes with a slash at the end and Sigma without (but for ``/``)."""

    def text(self, wanted: Pattern) -> Node:
        if wanted.operator == EXISTS:
            return self.exists()
        last = wanted.last_fixed
        # Without a slash at its end, what may go on is found in either form of the directory.
        open_name = wanted.open_end and last is not Wild.ONE and not str(last).endswith("/")
        parts = wanted.parts if open_name else (*wanted.parts, "/")
        inside = pattern(parts, cased=wanted.cased)
        whole = compare(self.expression, inside)
        at_root = check(self.expression, "=", "/")
        if matches(wanted, "/"):
            return any_of((whole, at_root))
        return all_of((whole, negate(at_root))) if matches(inside, "/") else whole

    def regex(self, wanted: str, flags: Flags) -> Node:
        _ = flags
        raise self.refuse(f"the regular expression {wanted!r}")

    def reference(self, other: Field, operator: str) -> Node:
        _ = other
        raise self.refuse(f"the comparison {operator} of a directory with another field")


@dataclass(frozen=True)
class Numeric(Field):
    """A number, such as a port."""

    expression: str

    @property
    def shown(self) -> str | None:  # type: ignore[override]
        return self.expression

    def text(self, wanted: Pattern) -> Node:
        if wanted.operator == EXISTS:
            return self.exists()
        if wanted.operator != "=" or not re.fullmatch(r"-?\d+", wanted.value):
            raise self.refuse(f"the text comparison with {wanted.text!r}")
        return self.number("=", int(wanted.value))

    def number(self, operator: str, wanted: Number) -> Node:
        if wanted != int(wanted):
            raise self.refuse(f"the comparison {operator} {wanted}")
        if operator == "=":
            return check(self.expression, "=", str(int(wanted)))
        return bare(self.expression, operator, str(int(wanted)))

    def exists(self) -> Node:
        return Check(self.expression, EXISTS)

    def reference(self, other: Field, operator: str) -> Node:
        if operator != "=" or not isinstance(other, Numeric):
            raise self.refuse(f"the comparison {operator} of a number with another field")
        return bare(self.expression, "=", f"val({other.expression})")


@dataclass(frozen=True)
class Address(Field):
    """An IP address: whole addresses are looked up in a hash, networks are compared one by one."""

    expression: str
    networks: str

    @property
    def shown(self) -> str | None:  # type: ignore[override]
        return self.expression

    def text(self, wanted: Pattern) -> Node:
        if wanted.operator == EXISTS:
            return self.exists()
        if wanted.operator == "startswith":
            return self.network(self._octets(wanted))
        if wanted.operator != "=":
            raise self.refuse(f"the text comparison with {wanted.text!r}")
        try:
            address = ip_address(wanted.value)
        except ValueError:
            raise self.refuse(f"the comparison with {wanted.value!r}") from None
        return check(self.expression, "=", str(address))

    def _octets(self, wanted: Pattern) -> str:
        whole = re.fullmatch(r"((?:\d{1,3}\.){1,3})", wanted.value)
        if whole is None:
            raise self.refuse(f"the text comparison with {wanted.text!r}")
        octets = whole[1].split(".")[:-1]
        return ".".join([*octets, *["0"] * (4 - len(octets))]) + f"/{8 * len(octets)}"

    def network(self, wanted: str) -> Node:
        try:
            network = ip_network(wanted, strict=False)
        except ValueError:
            raise self.refuse(f"the network {wanted!r}") from None
        return check(self.networks, "in", str(network))

    def exists(self) -> Node:
        return Check(self.expression, EXISTS)


@dataclass(frozen=True)
class Constant(Field):
    """A field that has one value in every event of a view, such as a record's type."""

    value: str

    def text(self, wanted: Pattern) -> Node:
        return TRUE if matches(wanted, self.value) else FALSE

    def number(self, operator: str, wanted: Number) -> Node:
        if operator != "=":
            raise self.refuse(f"the comparison {operator} {wanted}")
        return TRUE if self.value == str(wanted) else FALSE

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

    def text(self, wanted: Pattern) -> Node:
        if wanted.operator == EXISTS:
            return TRUE
        if wanted.operator == "=":
            value = wanted.value.lower()
            return self.choices[value] if value in self.choices else self.otherwise(value)
        return any_of(node for value, node in self.choices.items() if matches(wanted, value))

    def number(self, operator: str, wanted: Number) -> Node:
        if operator != "=":
            raise self.refuse(f"the comparison {operator} {wanted}")
        return self.text(Pattern((str(wanted),)))

    def exists(self) -> Node:
        return TRUE


@dataclass(frozen=True)
class Unavailable(Field):
    """A field that SIB's hosts do not record: each comparison is refused with the reason."""

    reason: str

    def refuse(self, what: str) -> FalcoUnsupportedError:
        _ = what
        return FalcoUnsupportedError(self.reason)


class Absent(Field):
    """A field that events of this view never have: nothing matches it."""

    def text(self, wanted: Pattern) -> Node:
        _ = wanted
        return FALSE

    def number(self, operator: str, wanted: Number) -> Node:
        _ = operator, wanted
        return FALSE

    def regex(self, wanted: str, flags: Flags) -> Node:
        _ = wanted, flags
        return FALSE

    def network(self, wanted: str) -> Node:
        _ = wanted
        return FALSE

    def exists(self) -> Node:
        return FALSE

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


def matches(wanted: Pattern, value: str) -> bool:
    """Whether a text matches a pattern: Sigma's own comparison."""
    shape = "".join(
        {Wild.ANY: ".*", Wild.ONE: "."}[part] if isinstance(part, Wild) else re.escape(part)
        for part in wanted.parts
    )
    flags = re.DOTALL if wanted.cased else re.DOTALL | re.IGNORECASE
    return re.fullmatch(shape, value, flags) is not None
