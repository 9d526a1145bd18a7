"""How each kind of Falco field answers each of Sigma's comparisons.

A field gives a condition for a comparison, or refuses with a reason; it never gives a condition
that means less. What is true of a field in general is here, which Sigma field is which is in
:mod:`sib_server.detection.sigma.views`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, TypeAlias

from typing_extensions import override

from sib_server.detection.sigma import regex
from sib_server.detection.sigma.condition import (
    EXISTS,
    Check,
    Node,
    all_of,
    any_of,
    bare,
    check,
    negate,
)
from sib_server.detection.sigma.errors import FalcoUnsupportedError
from sib_server.detection.sigma.text import Pattern, Wild, matches, pattern

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
    @override
    def shown(self) -> str | None:  # type: ignore[override]
        return self.expression if re.fullmatch(r"[a-z.]+(\[\d+\])?", self.expression) else None

    @override
    def text(self, wanted: Pattern) -> Node:
        return compare(self.expression, wanted)

    @override
    def number(self, operator: str, wanted: Number) -> Node:
        if operator != "=":
            raise self.refuse(f"the comparison {operator} {wanted}")
        return self.text(Pattern((str(wanted),)))

    @override
    def regex(self, wanted: str, flags: Flags) -> Node:
        return search(self.expression, wanted, flags)

    @override
    def exists(self) -> Node:
        return Check(self.expression, EXISTS)

    @override
    def reference(self, other: Field, operator: str) -> Node:
        if not isinstance(other, Text) or isinstance(other, Directory):
            raise self.refuse(f"the comparison {operator} with a field of another kind")
        right = lowered(other.expression, cased=False)
        return bare(lowered(self.expression, cased=False), operator, right)


@dataclass(frozen=True)
class Path(Text):
    """The absolute path of a file. ``endswith "/name"`` becomes a look-up of its last part."""

    @override
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
    shown: str | None = None

    def _apart(self, line: Node, program: Node) -> Node:
        return any_of(
            (all_of((negate(self.alone), line)), all_of((self.alone, program))),
        )

    @override
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

    @override
    def number(self, operator: str, wanted: Number) -> Node:
        if operator != "=":
            raise self.refuse(f"the comparison {operator} {wanted}")
        return self.text(Pattern((str(wanted),)))

    @override
    def regex(self, wanted: str, flags: Flags) -> Node:
        line, program = (
            search(expression, wanted, flags) for expression in (self.expression, self.program)
        )
        if isinstance(line, Check) and line.operator == "contains" and line.values[0][-1] != " ":
            return line
        return self._apart(line, program)

    @override
    def exists(self) -> Node:
        return Check(self.program, EXISTS)

    @override
    def reference(self, other: Field, operator: str) -> Node:
        if operator != "=" or not isinstance(other, CommandLine):
            raise self.refuse(f"the comparison {operator} of a command line with another field")
        left, right = (lowered(line, cased=False) for line in (self.expression, other.expression))
        return bare(left, "=", right)


@dataclass(frozen=True)
class Directory(Text):
    """A directory, which Falco writes with a slash at the end and Sigma without (but for ``/``)."""

    @override
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

    @override
    def regex(self, wanted: str, flags: Flags) -> Node:
        _ = flags
        raise self.refuse(f"the regular expression {wanted!r}")

    @override
    def reference(self, other: Field, operator: str) -> Node:
        _ = other
        raise self.refuse(f"the comparison {operator} of a directory with another field")


@dataclass(frozen=True)
class Numeric(Field):
    """A number, such as a port."""

    expression: str

    @property
    @override
    def shown(self) -> str | None:  # type: ignore[override]
        return self.expression

    @override
    def text(self, wanted: Pattern) -> Node:
        if wanted.operator == EXISTS:
            return self.exists()
        if wanted.operator != "=" or not re.fullmatch(r"-?\d+", wanted.value):
            raise self.refuse(f"the text comparison with {wanted.text!r}")
        return self.number("=", int(wanted.value))

    @override
    def number(self, operator: str, wanted: Number) -> Node:
        if wanted != int(wanted):
            raise self.refuse(f"the comparison {operator} {wanted}")
        if operator == "=":
            return check(self.expression, "=", str(int(wanted)))
        return bare(self.expression, operator, str(int(wanted)))

    @override
    def exists(self) -> Node:
        return Check(self.expression, EXISTS)

    @override
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
    @override
    def shown(self) -> str | None:  # type: ignore[override]
        return self.expression

    @override
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

    @override
    def network(self, wanted: str) -> Node:
        try:
            network = ip_network(wanted, strict=False)
        except ValueError:
            raise self.refuse(f"the network {wanted!r}") from None
        return check(self.networks, "in", str(network))

    @override
    def exists(self) -> Node:
        return Check(self.expression, EXISTS)
