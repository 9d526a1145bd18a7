"""What a check found: the shape that preflight and doctor share on both sides. Pure.

A finding that is not well says what is wrong and what to do, so that nobody has to look
anything up.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Verdict(Enum):
    """How a check ended."""

    WELL = "well"
    """As it should be."""

    WARNING = "warning"
    """SIB works, but less well than it could."""

    FAILED = "failed"
    """SIB, or a part of it, does not work."""

    SKIPPED = "skipped"
    """It could not be looked at; the problem says why."""


class Finding(msgspec.Struct, frozen=True):
    """What one check found.

    Attributes:
        check: a short fixed name for programs, like ``kernel`` or ``port-8443``.
        verdict: how it ended.
        problem: one sentence with the value that was seen; also where all is well.
        remedy: what to do; ``None`` only where all is well or nothing can be done.
    """

    check: str
    verdict: Verdict
    problem: str
    remedy: str | None = None


def well(check: str, seen: str) -> Finding:
    """All is as it should be."""
    return Finding(check, Verdict.WELL, seen)


def warning(check: str, problem: str, remedy: str) -> Finding:
    """It works, but less well than it could."""
    return Finding(check, Verdict.WARNING, problem, remedy)


def failed(check: str, problem: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(check, Verdict.FAILED, problem, remedy)


def failed_by(check: str, error: SibError) -> Finding:
    """It does not work, and an error says why."""
    return Finding(check, Verdict.FAILED, error.problem, error.remedy)


def skipped(check: str, reason: str, remedy: str | None = None) -> Finding:
    """It could not be looked at."""
    return Finding(check, Verdict.SKIPPED, reason, remedy)


def exit_code(findings: Iterable[Finding]) -> ExitCode:
    """How a command that made these findings ends: a warning is no failure."""
    broken = any(finding.verdict is Verdict.FAILED for finding in findings)
    return ExitCode.INCOMPLETE if broken else ExitCode.OK


def summary(findings: Sequence[Finding]) -> str:
    """One line: how many ended how."""
    counts = {
        verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict
    }
    return ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count)
