"""Sigma's text values: wildcards, case, and what each becomes in Falco.

Sigma compares text without regard to case; Falco compares bytes. So unless a value is ``cased``,
the field is wrapped in ``tolower()`` and the value is lowered here. ``tolower()`` was chosen over
Falco's ``icontains`` and ``iglob`` because Falco keeps the result of an expression for the rest of
an event: a thousand rules lower a command line once. It lowers ASCII only; a value with other
letters that have two cases becomes its case variants, and is refused where there are too many.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from itertools import product
from typing import TYPE_CHECKING, Final, TypeAlias

from sigma.types import Placeholder, SigmaCasedString, SigmaString, SpecialChars

from sib_server.detection.sigma.errors import FalcoUnsupportedError

if TYPE_CHECKING:
    from sigma.types import SigmaRegularExpression

MAX_VARIANTS: Final = 16
"""Case variants of one value with letters outside ASCII."""


class Wild(Enum):
    """Sigma's two wildcards."""

    ANY = "*"
    ONE = "?"


Part: TypeAlias = str | Wild

_SHAPES: Final[dict[tuple[object, ...], str]] = {
    (): "=",
    (str,): "=",
    (Wild.ANY,): "exists",
    (Wild.ANY, str, Wild.ANY): "contains",
    (str, Wild.ANY): "startswith",
    (Wild.ANY, str): "endswith",
}
"""Patterns that a plain operator of Falco's says."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """One text value.

    Attributes:
        parts: literal runs and wildcards; never two literals nor two ``ANY`` in a row.
        cased: the case of letters counts.
    """

    parts: tuple[Part, ...]
    cased: bool = False

    @property
    def operator(self) -> str:
        """Falco's cheapest operator that says this: ``=`` down to ``glob``.

        A value with a backslash at its end goes as ``glob``, because no Falco string can end so.
        """
        ends_in_backslash = isinstance(self.last_fixed, str) and self.last_fixed.endswith("\\")
        if ends_in_backslash:
            return "glob"
        shape = tuple(str if isinstance(part, str) else part for part in self.parts)
        return _SHAPES.get(shape, "glob")

    @property
    def value(self) -> str:
        """What stands right of :attr:`operator`."""
        if self.operator == "glob":
            return _glob(self.parts)
        return "".join(part for part in self.parts if isinstance(part, str))

    @property
    def open_end(self) -> bool:
        """Whether anything may follow."""
        return bool(self.parts) and self.parts[-1] is Wild.ANY

    @property
    def last_fixed(self) -> Part | None:
        """The last part that is not ``*``."""
        return next((part for part in reversed(self.parts) if part is not Wild.ANY), None)

    def variants(self) -> tuple[Pattern, ...]:
        """This pattern in the cases that a field lowered over ASCII can have.

        Raises:
            FalcoUnsupportedError: too many letters outside ASCII have two cases.
        """
        if self.cased:
            return (self,)
        choices = [_cases(char) for part in self.parts for char in _chars(part)]
        count = 1
        for choice in choices:
            count *= len(choice)
        if count > MAX_VARIANTS:
            raise FalcoUnsupportedError(
                f"{self.text!r} has too many letters outside ASCII: Falco lowers ASCII only"
            )
        return tuple(pattern(chosen, cased=False) for chosen in product(*choices))

    @property
    def text(self) -> str:
        """The value as a person wrote it, for messages."""
        return "".join(part.value if isinstance(part, Wild) else part for part in self.parts)


def pattern(parts: tuple[Part, ...], *, cased: bool) -> Pattern:
    """A pattern with neighbouring literals joined and repeated ``*`` dropped."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        elif not (part is Wild.ANY and last is Wild.ANY) and part != "":
            joined.append(part)
    return Pattern(tuple(joined), cased)


def from_sigma(value: SigmaString) -> Pattern:
    """Read a value of a rule.

    Raises:
        FalcoUnsupportedError: a placeholder that no pipeline has filled.
    """
    parts: list[Part] = []
    for part in value.s:
        part = _filled(part)  # noqa: PLW2901
        if isinstance(part, SpecialChars):
            parts.append(Wild.ANY if part is SpecialChars.WILDCARD_MULTI else Wild.ONE)
        else:
            parts.append(part)
    return pattern(tuple(parts), cased=isinstance(value, SigmaCasedString))


def expression_of(value: SigmaRegularExpression) -> str:
    """Read a regular expression of a rule.

    Raises:
        FalcoUnsupportedError: no text, or a placeholder that no pipeline has filled.
    """
    if not isinstance(value.regexp, SigmaString):
        raise FalcoUnsupportedError("the rule has an expression without text")
    for part in value.regexp.s:
        _filled(part)
    return str(value.regexp)


def _filled(part: str | SpecialChars | Placeholder) -> str | SpecialChars:
    if isinstance(part, Placeholder):
        raise FalcoUnsupportedError(
            f"the placeholder %{part.name}% has no values: give them with a pySigma pipeline"
        )
    return part


def literal(text: str, *, cased: bool = False) -> Pattern:
    """A pattern without wildcards."""
    return pattern((text,), cased=cased)


def _glob(parts: tuple[Part, ...]) -> str:
    text = "".join(
        part.value if isinstance(part, Wild) else re.sub(r"[\\*?\[\]]", r"\\\g<0>", part)
        for part in parts
    )
    return f"{text[:-2]}[\\\\]" if text.endswith("\\") else text


def _chars(part: Part) -> tuple[Part, ...]:
    return (part,) if isinstance(part, Wild) else tuple(part)


def _cases(part: Part) -> tuple[Part, ...]:
    if isinstance(part, Wild):
        return (part,)
    if part.isascii():
        return (part.lower(),)
    return tuple(dict.fromkeys((part.lower(), part.upper())))


def matches(wanted: Pattern, value: str) -> bool:
    """Whether a text matches a pattern: Sigma's own comparison."""
    shape = "".join(
        {Wild.ANY: ".*", Wild.ONE: "."}[part] if isinstance(part, Wild) else re.escape(part)
        for part in wanted.parts
    )
    flags = re.DOTALL if wanted.cased else re.DOTALL | re.IGNORECASE
    return re.fullmatch(shape, value, flags) is not None
