r"""Sigma's regular expressions (PCRE's ways, found anywhere) as Falco's.

Falco compiles with RE2 in POSIX mode and matches the whole value: no ``\s``, ``\d`` or ``\w``, no
``(?:`` or ``(?i)``, ``.`` stops at a newline, ``^`` and ``$`` mean lines. So an expression is
parsed and written anew; what RE2 or POSIX mode cannot say (look-around, back references, ``\b``) is
refused. Greedy and lazy repeats match the same values and are written alike.

A value with bytes that are not UTF-8 never matches a regular expression in Falco; therefore plain
text in an expression becomes a text operator instead (:func:`plain_text`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import product
from typing import Final, TypeAlias

from sib_server.detection.sigma.errors import FalcoUnsupportedError

MAX_BRANCHES: Final = 64
"""Alternatives after anchors inside groups are brought to the outside."""
MAX_REPEAT: Final = 1000
"""RE2's limit for a counted repeat."""
_ANYTHING: Final = "(.|\n)*"
_CLASSES: Final = {"d": "[:digit:]", "s": "[:space:]", "w": "[:alnum:]_"}
_POSIX: Final = re.compile(r"\[:\^?([a-z]+):\]")
_CONTROL: Final = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v", "a": "\a", "0": "\0"}
_SPECIAL: Final = frozenset("\\.+*?()|[]{}^$")


@dataclass(frozen=True, slots=True)
class Flags:
    """The modifiers ``i``, ``m`` and ``s`` of a Sigma expression."""

    ignore_case: bool = False
    multi_line: bool = False
    dot_all: bool = False


@dataclass(frozen=True, slots=True)
class _Char:
    char: str


@dataclass(frozen=True, slots=True)
class _Raw:
    """Text that is already RE2's: a class or a dot."""

    text: str


@dataclass(frozen=True, slots=True)
class _Anchor:
    start: bool


@dataclass(frozen=True, slots=True)
class _Repeat:
    item: _Item
    suffix: str


@dataclass(frozen=True, slots=True)
class _Group:
    branches: tuple[_Sequence, ...]


_Item: TypeAlias = _Char | _Raw | _Anchor | _Repeat | _Group
_Sequence: TypeAlias = tuple[_Item, ...]


def plain_text(expression: str, flags: Flags) -> str | None:
    """The text that an expression looks for, where it has nothing but letters of itself."""
    if flags.ignore_case and not expression.isascii():
        return None
    try:
        branches = _Parser(expression, flags).parse()
    except FalcoUnsupportedError:
        return None
    if len(branches) != 1:
        return None
    chars = [item.char for item in branches[0] if isinstance(item, _Char)]
    return "".join(chars) if chars and len(chars) == len(branches[0]) else None


def to_falco(expression: str, flags: Flags) -> str:
    """An RE2 expression in POSIX syntax that matches the whole of each value that this finds.

    Where ``ignore_case`` is set, the field must be lowered: the result is for lowered text.

    Raises:
        FalcoUnsupportedError: RE2 in POSIX mode has no such construct.
    """
    parsed = _Parser(expression, flags).parse()
    branches = [flat for branch in parsed for flat in _flatten(branch)]
    if len(branches) > MAX_BRANCHES:
        raise FalcoUnsupportedError(f"the expression {expression!r} has too many anchored branches")
    written = dict.fromkeys(_whole(branch, flags) for branch in branches)
    return next(iter(written)) if len(written) == 1 else "|".join(f"({w})" for w in written)


def _flatten(branch: _Sequence) -> list[_Sequence]:
    """Bring groups that hold anchors to the outside, so that anchors stand only at the ends."""
    choices: list[list[_Sequence]] = []
    for item in branch:
        if isinstance(item, _Group) and _has_anchor(item):
            choices.append([flat for inner in item.branches for flat in _flatten(inner)])
        elif isinstance(item, _Repeat) and _has_anchor(item):
            raise FalcoUnsupportedError("an anchor inside a repeat has no form in Falco")
        else:
            choices.append([(item,)])
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_BRANCHES:
        raise FalcoUnsupportedError("the expression has too many anchored branches")
    return [tuple(item for part in chosen for item in part) for chosen in product(*choices)]


def _has_anchor(item: _Item) -> bool:
    match item:
        case _Anchor():
            return True
        case _Repeat():
            return _has_anchor(item.item)
        case _Group():
            return any(_has_anchor(inner) for branch in item.branches for inner in branch)
    return False


def _whole(branch: _Sequence, flags: Flags) -> str:
    items = list(branch)
    start = end = False
    while items and items[0] == _Anchor(start=True):
        start = bool(items.pop(0))
    while items and items[-1] == _Anchor(start=False):
        end = bool(items.pop())
    if any(isinstance(item, _Anchor) for item in items):
        raise FalcoUnsupportedError("an anchor in the middle of an expression has no form in Falco")
    body = "".join(_write(item) for item in items)
    # PCRE's $ also matches before one last newline.
    before = "" if start else _ANYTHING
    after = "\n?" if end else _ANYTHING
    if flags.multi_line:
        before = f"({_ANYTHING}\n)?" if start else before
        after = f"(\n{_ANYTHING})?" if end else after
    return before + body + after


def _write(item: _Item) -> str:
    match item:
        case _Char():
            return f"\\{item.char}" if item.char in _SPECIAL else item.char
        case _Raw():
            return item.text
        case _Repeat():
            return f"({_write(item.item)}){item.suffix}"
        case _Group():
            return "(" + "|".join("".join(map(_write, b)) for b in item.branches) + ")"
    raise AssertionError(item)


class _Parser:
    """Recursive descent over one expression."""

    def __init__(self, text: str, flags: Flags) -> None:
        self.text = text
        self.at = 0
        self.ignore_case = flags.ignore_case
        self.dot_all = flags.dot_all

    def refuse(self, what: str) -> FalcoUnsupportedError:
        return FalcoUnsupportedError(f"{what} in the expression {self.text!r} has no form in Falco")

    def peek(self, text: str) -> bool:
        return self.text.startswith(text, self.at)

    def take(self, text: str) -> bool:
        found = self.peek(text)
        self.at += len(text) if found else 0
        return found

    def next(self) -> str:
        if self.at >= len(self.text):
            raise self.refuse("an unfinished construct")
        self.at += 1
        return self.text[self.at - 1]

    def parse(self) -> tuple[_Sequence, ...]:
        branches = self.alternatives()
        if self.at < len(self.text):
            raise self.refuse("an unbalanced bracket")
        return branches

    def alternatives(self) -> tuple[_Sequence, ...]:
        branches = [self.sequence()]
        while self.take("|"):
            branches.append(self.sequence())
        return tuple(branches)

    def sequence(self) -> _Sequence:
        items: list[_Item] = []
        while self.at < len(self.text) and not self.peek("|") and not self.peek(")"):
            item = self.atom()
            if item is not None:
                items.append(self.repeated(item))
        return tuple(items)

    def repeated(self, item: _Item) -> _Item:
        match = re.compile(r"[*+?]|\{\d+(?:,\d*)?\}").match(self.text, self.at)
        while match:
            counts = [int(number) for number in re.findall(r"\d+", match[0])]
            if any(count > MAX_REPEAT for count in counts):
                raise self.refuse(f"a repeat over {MAX_REPEAT}")
            self.at = match.end()
            item = _Repeat(item, match[0])
            if self.take("+"):
                raise self.refuse("a possessive repeat")
            self.take("?")
            match = re.compile(r"[*+?]|\{\d+(?:,\d*)?\}").match(self.text, self.at)
        return item

    def atom(self) -> _Item | None:
        if self.take("("):
            return self.group()
        if self.take("["):
            return self.bracket()
        if self.take("\\"):
            return self.escape()
        char = self.next()
        if char == ".":
            return _Raw("(.|\n)" if self.dot_all else ".")
        if char in "^$":
            return _Anchor(start=char == "^")
        if char in "*+?":
            raise self.refuse("a repeat of nothing")
        return self.char(char)

    def char(self, char: str) -> _Char:
        if char == "\0":
            raise self.refuse("a NUL")
        if self.ignore_case and not char.isascii() and char.lower() != char.upper():
            raise self.refuse(f"{char!r} without regard to case")
        return _Char(char.lower() if self.ignore_case else char)

    def group(self) -> _Item | None:
        if self.take("?"):
            flags = re.compile(r"([ims]+)(\)|:)").match(self.text, self.at)
            named = re.compile(r"P?<[A-Za-z_]\w*>").match(self.text, self.at)
            if named:
                self.at = named.end()
            elif flags and flags[1] == "s":
                self.at, self.dot_all = flags.end(), True
                if flags[2] == ")":
                    return None
            elif not self.take(":"):
                # (?i) needs the whole field lowered, so it is read before (see leading_flags).
                raise self.refuse("a look-around, condition or inline flag")
        branches = self.alternatives()
        if not self.take(")"):
            raise self.refuse("an unbalanced bracket")
        return _Group(branches)

    def escape(self) -> _Item:
        char = self.next()
        if char in _CLASSES:
            return _Raw(f"[{_CLASSES[char]}]")
        if char.lower() in _CLASSES:
            return _Raw(f"[^{_CLASSES[char.lower()]}]")
        if char in "AZz":
            return _Anchor(start=char == "A")
        return self.char(self.escaped(char))

    def escaped(self, char: str) -> str:
        if char in _CONTROL:
            return _CONTROL[char]
        if char in "xu":
            digits = self.text[self.at : self.at + (2 if char == "x" else 4)]
            if not re.fullmatch(r"[0-9A-Fa-f]+", digits):
                raise self.refuse(f"\\{char}")
            self.at += len(digits)
            return chr(int(digits, 16))
        if char.isalnum():
            raise self.refuse(f"\\{char}")
        return char

    def bracket(self) -> _Raw:
        negated = self.take("^")
        parts: list[str] = []
        first = True
        while first or not self.peek("]"):
            first = False
            posix = _POSIX.match(self.text, self.at)
            if posix:
                self.at = posix.end()
                parts.append(posix[0])
                continue
            low = self.member()
            if len(low) > 1:
                parts.append(low)
            elif self.peek("-") and not self.peek("-]"):
                self.at += 1
                parts.extend(self.span(low, self.member()))
            else:
                parts.extend(self.span(low, low))
        self.at += 1
        return _Raw(f"[{'^' if negated else ''}{''.join(parts)}]")

    def member(self) -> str:
        char = self.next()
        if char != "\\":
            return char
        char = self.next()
        if char in _CLASSES:
            return _CLASSES[char]
        if char.lower() in _CLASSES:
            raise self.refuse(f"\\{char} inside brackets")
        return "\b" if char == "b" else self.escaped(char)

    def span(self, low: str, high: str) -> list[str]:
        if len(high) != 1 or low > high or "\0" in (low, high):
            raise self.refuse("a range of characters")
        if not self.ignore_case:
            return [_range(low, high)]
        if not high.isascii():
            raise self.refuse("a range outside ASCII without regard to case")
        lowered = sorted({chr(code).lower() for code in range(ord(low), ord(high) + 1)})
        return [_range(char, char) for char in lowered]


def leading_flags(expression: str, flags: Flags) -> tuple[str, Flags]:
    """Take ``(?i)``, ``(?s)`` and ``(?m)`` from the head of an expression into its flags."""
    match = re.match(r"\(\?([ims]+)\)", expression)
    if match is None:
        return expression, flags
    read = Flags(
        ignore_case=flags.ignore_case or "i" in match[1],
        multi_line=flags.multi_line or "m" in match[1],
        dot_all=flags.dot_all or "s" in match[1],
    )
    return expression[match.end() :], read


def _range(low: str, high: str) -> str:
    def one(char: str) -> str:
        return f"\\{char}" if char in "\\]^-[" else char

    return one(low) if low == high else f"{one(low)}-{one(high)}"
