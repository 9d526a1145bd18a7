"""Judge a Falco condition by an event's fields, without Falco.

For a preview of what a rule would find, and for checks where there is no engine. It knows the part
of
Falco's filter language that this package writes, and is itself checked against the real engine by
`scripts/sigma-meaning`. ASCII case, byte order and ``fnmatch`` are Falco's; its limits on length
are not imitated.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final, TypeAlias

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Value: TypeAlias = str | int
Fields: TypeAlias = "Mapping[str, Value]"
Test: TypeAlias = "Callable[[Fields], bool]"
Expression: TypeAlias = "Callable[[Fields], Value | None]"

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<string>"(?:[^"\\]|\\.)*")
      | (?P<symbol>[(),]|<=|>=|!=|=|<|>)
      | (?P<field>[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)+(?:\[\d+\])?)
      | (?P<word>[A-Za-z0-9_.+-]+)
    )""",
    re.VERBOSE,
)
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}
_POSIX: Final = {"[:digit:]": "0-9", "[:space:]": r"\t\n\v\f\r ", "[:alnum:]": "0-9A-Za-z"}
_NUMERIC: Final = ("<", "<=", ">", ">=")


class ConditionSyntaxError(SibError):
    """Text that is no condition, or uses what this module does not know."""

    exit_code = ExitCode.REFUSED

    def __init__(self, condition: str, at: int) -> None:
        super().__init__(f"cannot read the condition at {condition[at : at + 40]!r}")
        self.condition = condition
        self.at = at


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    at: int


def compile_condition(condition: str, lists: Mapping[str, Sequence[str]] = {}) -> Test:
    """Read a condition.

    Args:
        condition: as :func:`~sib_server.detection.sigma.condition.render` writes it.
        lists: Falco lists by name.

    Returns:
        A test over an event's fields: Falco's name -> text or number. Absent fields match nothing.

    Raises:
        ConditionSyntaxError: not such a condition.
    """
    return _Reader(condition, lists).read()


class _Reader:
    def __init__(self, condition: str, lists: Mapping[str, Sequence[str]]) -> None:
        self.condition = condition
        self.lists = lists
        self.tokens = _tokens(condition)
        self.index = 0

    def error(self) -> ConditionSyntaxError:
        return ConditionSyntaxError(self.condition, self.tokens[self.index].at)

    def peek(self, text: str) -> bool:
        token = self.tokens[self.index]
        return token.kind != "string" and token.text == text

    def take(self, text: str) -> bool:
        found = self.peek(text)
        self.index += found
        return found

    def expect(self, text: str) -> None:
        if not self.take(text):
            raise self.error()

    def next(self) -> _Token:
        token = self.tokens[self.index]
        if token.kind == "end":
            raise self.error()
        self.index += 1
        return token

    def read(self) -> Test:
        test = self.alternatives()
        if self.tokens[self.index].kind != "end":
            raise self.error()
        return test

    def alternatives(self) -> Test:
        parts = [self.conjunction()]
        while self.take("or"):
            parts.append(self.conjunction())
        return lambda fields: any(part(fields) for part in parts)

    def conjunction(self) -> Test:
        parts = [self.single()]
        while self.take("and"):
            parts.append(self.single())
        return lambda fields: all(part(fields) for part in parts)

    def single(self) -> Test:
        if self.take("not"):
            inner = self.single()
            return lambda fields: not inner(fields)
        if self.take("("):
            test = self.alternatives()
            self.expect(")")
            return test
        return self.comparison()

    def comparison(self) -> Test:
        left = self.expression()
        operator = self.next().text
        if operator == "exists":
            return lambda fields: left(fields) is not None
        any_one = self.take("anyof")
        if any_one or operator in {"in", "pmatch"}:
            values = self.values()
        else:
            right = self.right(operator)
            return _compared(left, operator, right)
        tests = (
            [_OPERATORS[operator](value) for value in values] if operator in _OPERATORS else None
        )
        if tests is None:
            raise self.error()
        return _one_of(left, tests)

    def right(self, operator: str) -> Expression:
        if operator not in _OPERATORS and operator not in _NUMERIC and operator != "!=":
            raise self.error()
        token = self.tokens[self.index]
        if token.kind in {"string", "word"} and self.tokens[self.index + 1].text != "(":
            self.index += 1
            value = _plain(token)
            return lambda _fields: value
        return self.expression()

    def expression(self) -> Expression:
        token = self.next()
        if token.kind == "field":
            return lambda fields: fields.get(token.text)
        if token.kind == "string":
            return lambda _fields: _plain(token)
        self.expect("(")
        arguments = [self.expression()]
        while self.take(","):
            arguments.append(self.expression())
        self.expect(")")
        if token.text not in _TRANSFORMERS:
            raise self.error()
        return _transformed(_TRANSFORMERS[token.text], arguments)

    def values(self) -> list[str]:
        self.expect("(")
        found: list[str] = []
        while not self.take(")"):
            token = self.next()
            value = _plain(token)
            found += (
                self.lists[value] if token.kind != "string" and value in self.lists else [value]
            )
            self.take(",")
        return found


def _tokens(condition: str) -> list[_Token]:
    found = []
    at = 0
    while condition[at:].strip():
        match = _TOKEN.match(condition, at)
        if match is None:
            raise ConditionSyntaxError(condition, at)
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind)))
        at = match.end()
    return [*found, _Token("end", "", at)]


def _plain(token: _Token) -> str:
    if token.kind != "string":
        return token.text
    return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), token.text[1:-1], flags=re.DOTALL)


def _lower(values: Sequence[str]) -> str:
    return "".join(char.lower() if char.isascii() else char for char in values[0])


_TRANSFORMERS: Final[dict[str, Callable[[Sequence[str]], str]]] = {
    "tolower": _lower,
    "basename": lambda values: values[0].rsplit("/", 1)[-1],
    "concat": "".join,
    "val": lambda values: values[0],
}


def _transformed(
    transformer: Callable[[Sequence[str]], str], arguments: Sequence[Expression]
) -> Expression:
    def evaluate(fields: Fields) -> Value | None:
        values = [argument(fields) for argument in arguments]
        return None if None in values else transformer([str(value) for value in values])

    return evaluate


def _equals(wanted: str) -> Callable[[str], bool]:
    if "/" in wanted and re.fullmatch(r"[0-9a-fA-F.:]+/\d+", wanted):
        network = ip_network(wanted)

        def inside(value: str) -> bool:
            try:
                return ip_address(value) in network
            except ValueError:
                return value == wanted

        return inside
    return lambda value: value == wanted


def _globbed(wanted: str) -> Callable[[str], bool]:
    # POSIX fnmatch takes a backslash for an escape, Python's writes a class.
    shape = re.sub(r"\\(.)", r"[\1]", wanted.replace("[\\\\]", "\\\\"), flags=re.DOTALL)
    shape = shape.replace("[[]", "\0[").replace("[\\]", "\0\\").replace("[]]", "\0]")
    shape = shape.replace("\0[", "[[]").replace("\0\\", "[\\\\]").replace("\0]", "[]]")
    found = re.compile(fnmatch.translate(shape), re.DOTALL)
    return lambda value: found.match(value) is not None


def _searched(wanted: str) -> Callable[[str], bool]:
    for name, members in _POSIX.items():
        wanted = wanted.replace(name, members)
    found = re.compile(wanted)
    return lambda value: found.fullmatch(value) is not None


def _below(wanted: str) -> Callable[[str], bool]:
    return lambda value: value == wanted or value.startswith(f"{wanted}/")


_OPERATORS: Final[dict[str, Callable[[str], Callable[[str], bool]]]] = {
    "=": _equals,
    "in": _equals,
    "contains": lambda wanted: lambda value: wanted in value,
    "startswith": lambda wanted: lambda value: value.startswith(wanted),
    "endswith": lambda wanted: lambda value: value.endswith(wanted),
    "glob": _globbed,
    "regex": _searched,
    "pmatch": _below,
}


def _one_of(left: Expression, tests: Sequence[Callable[[str], bool]]) -> Test:
    def evaluate(fields: Fields) -> bool:
        value = left(fields)
        return value is not None and any(test(str(value)) for test in tests)

    return evaluate


def _compared(left: Expression, operator: str, right: Expression) -> Test:
    def evaluate(fields: Fields) -> bool:
        value, wanted = left(fields), right(fields)
        if value is None or wanted is None:
            return False
        if operator in _NUMERIC:
            a, b = int(value), int(wanted)
            return {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[operator]
        if operator == "!=":
            return str(value) != str(wanted)
        return _OPERATORS[operator](str(wanted))(str(value))

    return evaluate
