"""Falco's language of conditions, read. Pure.

Accepts what Falco's own parser accepts before names of lists are put in: the same tokens, in the
same order of trial. The grammar, from loose to tight::

    or    := and ("or" and)*
    and   := not ("and" not)*
    not   := "not"* check
    check := "(" or ")" | left operator right | left "exists" | macro
    left  := field | transformer "(" arguments ")"
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Final, TypeVar

from sib_server.detection.rules.conditions import (
    LIST_OPERATORS,
    MODIFIERS,
    NUMBER_OPERATORS,
    SYMBOL_OPERATORS,
    TRANSFORMERS,
    VALUE,
    WORD_OPERATORS,
    And,
    Comparison,
    Condition,
    Exists,
    FieldOf,
    Named,
    Not,
    Operand,
    Or,
    Several,
    Transformed,
    Value,
    Values,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_DEPTH: Final = 250
"""Steps into one another, of which a bracket takes five. Falco's own bound is 1,000. Nobody who
writes 50 brackets in brackets can say what they mean; the tree of 50,000 networks may take 32."""
MAX_LENGTH: Final = 4 * 1024 * 1024

_SPACE: Final = r"\t\n\v\f\r "
_BLANK: Final = re.compile(r"[ \t\x08\r\n]*")
_NOT: Final = re.compile(rf"not[{_SPACE}]+")
_IDENTIFIER: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*")
_FIELD: Final = re.compile(r"[a-zA-Z][a-zA-Z0-9_]*(?:\.[a-zA-Z][a-zA-Z0-9_]*)+")
_ARGUMENT: Final = re.compile(rf"[^\]\[\"'{_SPACE}]+")
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]+|[+\-]?[0-9]+\.?[0-9]*(?:[eE][+\-][0-9]+)?")
_BARE: Final = re.compile(rf"[^()\"'{_SPACE}=,]+")
_KEYWORD: Final = re.compile(r"(?:and|or|not)(?![a-zA-Z0-9])")
_ESCAPES: Final = {
    "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "/": "/", "\\": "\\",
    " ": "\\",  # what Falco makes of it, for the sake of an old rule
}  # fmt: skip
_T = TypeVar("_T")


class ConditionError(ValueError):
    """Text that is not a condition.

    Attributes:
        at: how many characters in.
        reason: what is wrong, with a piece of the text.
    """

    def __init__(self, at: int, reason: str) -> None:
        super().__init__(f"{reason} (character {at + 1})")
        self.at = at
        self.reason = reason


# Ids, lints and the writer each ask for every condition.
@lru_cache(maxsize=2048)
def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        ConditionError: Falco would refuse it.
    """
    if not text:
        raise ConditionError(0, "the condition is empty")
    if len(text) > MAX_LENGTH:
        raise ConditionError(0, f"the condition is longer than {MAX_LENGTH} characters")
    parser = _Parser(text)
    condition = parser.alternatives()
    if parser.at != len(text):
        raise parser.wrong("`and` or `or` is expected")
    return condition


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._depth = 0
        self.at = 0

    def wrong(self, expected: str) -> ConditionError:
        rest = self._text[self.at : self.at + 30]
        return ConditionError(
            self.at, f"{expected} before {rest!r}" if rest else f"{expected} at the end"
        )

    # Tokens.

    def _blank(self) -> bool:
        found = _BLANK.match(self._text, self.at)
        moved = found is not None and found.end() > self.at
        self.at = found.end() if found is not None else self.at
        return moved

    def _text_is(self, token: str) -> bool:
        if not self._text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def _match(self, pattern: re.Pattern[str]) -> str | None:
        found = pattern.match(self._text, self.at)
        if found is None:
            return None
        self.at = found.end()
        return found.group()

    def _one_of(self, words: Iterable[str]) -> str | None:
        return next((word for word in words if self._text_is(word)), None)

    def _spaced(self, words: Iterable[str]) -> str | None:
        """A word that has to be followed by a blank, which is taken too."""
        before = self.at
        for word in words:
            if self._text_is(word):
                if self._blank():
                    return word
                self.at = before
        return None

    def _called(self, words: Iterable[str]) -> str | None:
        """A word with an opening bracket right behind it."""
        word = self._one_of([f"{word}(" for word in words])
        return word[:-1] if word is not None else None

    def _quoted(self) -> str | None:
        delimiter = self._text[self.at : self.at + 1]
        if delimiter not in {"'", '"'}:
            return None
        end = self.at + 1
        # Falco takes a quote behind a backslash for escaped, even behind an escaped backslash.
        while (end := self._text.find(delimiter, end)) > 0 and self._text[end - 1] == "\\":
            end += 1
        if end < 0:
            return None
        inside = self._text[self.at + 1 : end]
        plain = self._unescaped(inside, delimiter) if "\\" in inside else inside
        self.at = end + 1
        return plain

    def _unescaped(self, inside: str, delimiter: str) -> str:
        found: list[str] = []
        pieces = iter(re.split(r"\\(.|\n)", inside))
        found.append(next(pieces))
        for escaped, following in zip(pieces, pieces, strict=True):
            if escaped == delimiter:
                found.append(escaped)
            elif escaped in _ESCAPES:
                found.append(_ESCAPES[escaped])
            else:
                raise self.wrong(
                    f"\\{escaped} escapes nothing; a text that Falco can read is expected"
                )
            found.append(following)
        return "".join(found)

    # Rules. Each counts for the bound on depth as in Falco's parser.

    def _deeper(self, rule: Callable[[], _T]) -> _T:
        self._depth += 1
        if self._depth >= MAX_DEPTH:
            raise self.wrong(f"fewer than {MAX_DEPTH} steps into one another are expected")
        try:
            return rule()
        finally:
            self._depth -= 1

    def alternatives(self) -> Condition:
        return self._joined("or", self._all, Or)

    def _all(self) -> Condition:
        return self._joined("and", self._negated, And)

    def _joined(self, word: str, part: Callable[[], Condition], kind: type[And | Or]) -> Condition:
        self._blank()
        parts = [self._deeper(part)]
        self._blank()
        while self._text_is(word):
            if self._blank():
                parts.append(self._deeper(part))
            elif self._text_is("("):
                parts.append(self._deeper(self._bracketed))
            else:
                raise self.wrong(f"a blank or `(` is expected after `{word}`")
            self._blank()
        return parts[0] if len(parts) == 1 else kind(tuple(parts))

    def _negated(self) -> Condition:
        self._blank()
        negative = False
        while self._match(_NOT) is not None:
            negative = not negative
        if self._text_is("not("):
            negative = not negative
            part = self._deeper(self._bracketed)
        else:
            part = self._deeper(self._check)
        return Not(part) if negative else part

    def _bracketed(self) -> Condition:
        self._blank()
        inner = self._deeper(self.alternatives)
        self._blank()
        if not self._text_is(")"):
            raise self.wrong("`)` is expected")
        return inner

    def _check(self) -> Condition:
        self._blank()
        at = self.at
        if self._text_is("("):
            return self._deeper(self._bracketed)
        if (name := self._match(_FIELD)) is not None:
            left: FieldOf | Transformed = self._deeper(lambda: self._field(name, at))
        elif (transformer := self._called(TRANSFORMERS)) is not None:
            left = self._deeper(lambda: self._arguments(transformer, at))
        elif (macro := self._match(_IDENTIFIER)) is not None:
            return Named(macro, at)
        else:
            raise self.wrong("a field, a macro or `(` is expected")
        return self._deeper(lambda: self._compared(left, at))

    def _field(self, name: str, at: int) -> FieldOf:
        return FieldOf(name, self._argument(), at)

    def _argument(self) -> str | None:
        if not self._text_is("["):
            return None
        argument = self._quoted()
        if argument is None:
            argument = self._match(_ARGUMENT)
        if argument is None or not self._text_is("]"):
            raise self.wrong("a field's argument and `]` are expected")
        return argument

    def _arguments(self, transformer: str, at: int) -> Transformed:
        self._blank()
        arguments = [self._deeper(self._operand)]
        self._blank()
        while self._text_is(","):
            arguments.append(self._deeper(self._operand))
            self._blank()
        if not self._text_is(")"):
            raise self.wrong(f"`)` is expected to end {transformer}()")
        return Transformed(transformer, tuple(arguments), self._argument(), at)

    def _operand(self) -> Operand:
        self._blank()
        at = self.at
        plain = self._plain_operand()
        if plain is not None:
            return plain
        if not self._text_is("("):
            raise self.wrong("a field, a text, a number, a list or a transformer is expected")
        items: list[Operand] = []
        self._blank()
        while not self._text_is(")"):
            if items and not self._text_is(","):
                raise self.wrong("`)` is expected")
            self._blank()
            item = self._plain_operand()
            if item is None:
                raise self.wrong("a field, a text, a number or a transformer is expected")
            items.append(item)
            self._blank()
        return Several(tuple(items), at)

    def _plain_operand(self) -> Value | FieldOf | Transformed | None:
        at = self.at
        if (number := self._match(_NUMBER)) is not None:
            return Value(number, quoted=False, at=at)
        if (text := self._quoted()) is not None:
            return Value(text, quoted=True, at=at)
        if (transformer := self._called(TRANSFORMERS)) is not None:
            return self._deeper(lambda: self._arguments(transformer, at))
        if (name := self._match(_FIELD)) is not None:
            return self._deeper(lambda: self._field(name, at))
        return None

    def _compared(self, left: FieldOf | Transformed, at: int) -> Exists | Comparison:
        self._blank()
        if self._text_is("exists"):
            return Exists(left, at)
        if (operator := self._one_of(NUMBER_OPERATORS)) is not None:
            return Comparison(left, operator, self._deeper(self._number), at)
        symbol = self._one_of(SYMBOL_OPERATORS)
        operator = symbol or self._spaced(WORD_OPERATORS)
        if operator is not None:
            before = self.at
            spaced = symbol is None or self._blank()
            modifier = self._spaced(MODIFIERS) if spaced else None
            if modifier is not None and self._list_follows():
                return Comparison(left, f"{operator} {modifier}", self._deeper(self._list), at)
            self.at = before
            return Comparison(left, operator, self._deeper(self._text_value), at)
        if (operator := self._one_of(LIST_OPERATORS)) is not None:
            return Comparison(left, operator, self._deeper(self._list_or_transformed), at)
        raise self.wrong("an operator is expected")

    def _list_follows(self) -> bool:
        if self._text.startswith("(", self.at):
            return True
        named = _IDENTIFIER.match(self._text, self.at) is not None
        return named and _KEYWORD.match(self._text, self.at) is None

    def _number(self) -> Value | Transformed:
        self._blank()
        at = self.at
        found = self._deeper(self._transformed)
        if found is not None:
            return found
        number = self._match(_NUMBER)
        if number is None:
            raise self.wrong("a number is expected")
        return Value(number, quoted=False, at=at)

    def _text_value(self) -> Value | Transformed:
        self._blank()
        found = self._deeper(self._transformed)
        return found if found is not None else self._plain_value()

    def _plain_value(self) -> Value:
        self._blank()
        at = self.at
        if (text := self._quoted()) is not None:
            return Value(text, quoted=True, at=at)
        if (bare := self._match(_BARE)) is not None:
            return Value(bare, quoted=False, at=at)
        raise self.wrong("a value is expected")

    def _list(self) -> Value | Values:
        self._blank()
        at = self.at
        if self._text_is("("):
            return self._values(at)
        if (name := self._match(_IDENTIFIER)) is not None:
            return Value(name, quoted=False, at=at)
        raise self.wrong("a list in brackets or the name of a list is expected")

    def _list_or_transformed(self) -> Value | Values | Transformed:
        self._blank()
        if not self._text.startswith("(", self.at):
            found = self._deeper(self._transformed)
            if found is not None:
                return found
        return self._list()

    def _values(self, at: int) -> Values:
        items: list[Value] = []
        self._blank()
        if not self._text_is(")"):
            items.append(self._plain_value())
            self._blank()
            while self._text_is(","):
                items.append(self._plain_value())
                self._blank()
            if not self._text_is(")"):
                raise self.wrong("`)` or `,` is expected")
        return Values(tuple(items), at)

    def _transformed(self) -> Transformed | None:
        self._blank()
        at = self.at
        if self._called([VALUE]) is not None:
            self._blank()
            field_at = self.at
            name = self._match(_FIELD)
            if name is None:
                raise self.wrong("a field is expected in val()")
            field = self._deeper(lambda: self._field(name, field_at))
            self._blank()
            if not self._text_is(")"):
                raise self.wrong("`)` is expected to end val()")
            return Transformed(VALUE, (field,), self._argument(), at)
        if (transformer := self._called(TRANSFORMERS)) is not None:
            return self._deeper(lambda: self._arguments(transformer, at))
        return None
