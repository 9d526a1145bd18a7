"""What is wrong with a rule: where, which rule, which lint, and why."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    from collections.abc import Iterable

LintName = NewType("LintName", str)
"""The fixed name of a lint, such as ``unknown-field``."""


def meant(word: str, known: Iterable[str]) -> str:
    """The end of a reason about an unknown name: the one that was meant, if any is near."""
    close = difflib.get_close_matches(word[:200], known, n=1, cutoff=0.7)
    return f"; did you mean {close[0]!r}?" if close else ""


class Severity(Enum):
    """What a finding means for a bundle."""

    ERROR = "error"
    """Hosts would refuse the rule, or it does not do what it says: no bundle is made."""

    WARNING = "warning"
    """It works, but ought to be better."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line in a file.

    Attributes:
        file: as the user would name it, or a name for what SIB made itself.
        line: from 1.
    """

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a lint, or reading, found.

    Attributes:
        place: where.
        rule: the rule, macro or list that it is about; empty where it is about a whole file.
        lint: which lint.
        reason: what is wrong, in one sentence, with the offending value.
        severity: what it means for a bundle.
    """

    place: Place
    rule: str
    lint: LintName
    reason: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        about = f"{self.rule}: " if self.rule else ""
        return f"{self.place}: {self.severity.value}: {about}{self.reason} [{self.lint}]"


def ordered(findings: list[Finding]) -> tuple[Finding, ...]:
    """By place, then by text, each once: the same findings always come in the same order."""
    return tuple(
        sorted(set(findings), key=lambda found: (found.place, found.rule, found.lint, found.reason))
    )
