"""Regular expressions in conditions: what Falco refuses, and what other engines choke on. Pure.

Falco reads them by RE2 as POSIX writes them: a group is a group and nothing else, a class is
``[[:digit:]]``, and few letters mean something behind a backslash. It does not backtrack. A rule's
expression still ends up elsewhere (a search in Loki, a preview, somebody's script), so one that
explodes there is worth a word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from string import ascii_letters
from typing import Final

MAX_REPEAT: Final = 1_000
"""RE2's bound on counted repetition, those inside one another multiplied."""

_QUANTIFIER: Final = re.compile(r"([*+?]|\{(\d{1,9})(,(\d{0,9}))?\})([?+]?)")
_CLASS: Final = re.compile(r"\[\^?\]?(?:\[:[^\]]*:\]|\\.|[^\]\\])*\]", re.DOTALL)
_REFUSED: Final = (
    ("(?=", "looks ahead"),
    ("(?!", "looks ahead"),
    ("(?<=", "looks back"),
    ("(?<!", "looks back"),
    ("(?>", "has an atomic group"),
    ("(?(", "has a conditional group"),
    ("(?#", "has a comment"),
    ("(?", "has a group that begins by `(?`"),
)
_ESCAPE: Final = re.compile(r"\\(.?)", re.DOTALL)
_UNKNOWN_LETTERS: Final = frozenset(ascii_letters) - frozenset("afnrtvx")


@dataclass(slots=True)
class _Group:
    """What was seen in a group so far.

    Attributes:
        endless: it has a part that repeats without bound.
        count: the highest product of counted repetition.
    """

    endless: bool = False
    count: int = 1


def refusal(expression: str) -> str | None:
    """Why Falco refuses an expression; ``None`` where nothing is known against it."""
    return _Scan(expression).refused


def backtracks(expression: str) -> str | None:
    """The part that takes an engine which backtracks exponential time; ``None`` for none."""
    return _Scan(expression).exponential


class _Scan:
    def __init__(self, text: str) -> None:
        self.refused: str | None = None
        self.exponential: str | None = None
        self._text = text
        self._at = 0
        self._stack = [(_Group(), 0)]
        while self._at < len(text) and self.refused is None:
            self._step()
        if self.refused is None and len(self._stack) > 1:
            self.refused = "has `(` without `)`"

    def _step(self) -> None:
        start = self._at
        sign = self._text[start]
        if sign == "(":
            self._open()
            return
        inner = _Group()
        if sign == ")":
            if len(self._stack) == 1:
                self.refused = "has `)` without `(`"
                return
            inner, start = self._stack.pop()
            self._at += 1
        elif sign == "\\":
            self._escaped(start + 2)
        elif sign == "[":
            found = _CLASS.match(self._text, start)
            if found is None:
                self.refused = "has `[` without `]`"
                return
            self._escaped(found.end())
        elif _QUANTIFIER.match(self._text, start):
            self.refused = f"repeats nothing at {self._text[start:][:10]!r}"
            return
        else:
            self._at += 1
        self._repeated(inner, start)

    def _open(self) -> None:
        for opening, what in _REFUSED:
            if self._text.startswith(opening, self._at):
                self.refused = f"{what}, which Falco's engine does not"
                return
        self._stack.append((_Group(), self._at))
        self._at += 1

    def _escaped(self, end: int) -> None:
        """What stands behind backslashes from here to an end."""
        for found in _ESCAPE.finditer(self._text, self._at, end):
            following = found.group(1)
            if not following:
                self.refused = "ends with a lone backslash"
            elif following in "123456789k":
                self.refused = "refers back to a group, which Falco's engine does not"
            elif not following.isascii() or following in _UNKNOWN_LETTERS:
                self.refused = f"has \\{following}, which Falco's engine does not know"
        self._at = end

    def _repeated(self, inner: _Group, start: int) -> None:
        """What was just read, with the quantifier behind it."""
        outer = self._stack[-1][0]
        found = _QUANTIFIER.match(self._text, self._at)
        if found is None:
            outer.endless |= inner.endless
            outer.count = max(outer.count, inner.count)
            return
        self._at = found.end()
        if found.group(5) == "+":
            self.refused = "has a possessive quantifier, which Falco's engine does not know"
        most = found.group(4) if found.group(3) else found.group(2)
        endless = found.group(1) in {"*", "+"} or (bool(found.group(3)) and not most)
        times = int(most) if most else int(found.group(2) or 1)
        if endless and inner.endless and self.exponential is None:
            self.exponential = self._text[start : self._at]
        outer.endless |= endless or inner.endless
        outer.count = max(outer.count, inner.count * max(times, 1))
        if outer.count > MAX_REPEAT:
            self.refused = f"repeats more than {MAX_REPEAT} times"
