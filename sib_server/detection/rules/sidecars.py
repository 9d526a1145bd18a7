"""What stands beside a rules file, as the compiler asks for it: ids, drills, quiet cases. Pure.

The files are read as hosts read them, by :mod:`sib_protocol.drills.parsing`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.drills.parsing import SUFFIX, parse_drills
from sib_server.detection.rules.findings import Finding, LintName, Place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_protocol.drills.model import RuleDrill

__all__ = ["SIDECAR", "SUFFIX", "Sidecar", "by_rule", "read_sidecars"]

SIDECAR: Final = LintName("drill-file")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What belongs to one rule beside Falco's keys.

    Attributes:
        rule: its name.
        id: never changes, whatever becomes of the name.
        place: the entry's line.
        quiet_cases: how many everyday acts are told that must not fire it.
        proves: techniques that the drills prove; empty where the only one proves all of the rule's.
        content: SHA-256 of drills and quiet cases, for telling whether they changed.
    """

    rule: str
    id: str
    place: Place
    quiet_cases: int
    proves: frozenset[str]
    content: str


def read_sidecars(file: str, content: bytes) -> tuple[list[Sidecar], list[Finding]]:
    """Read a drill file: its entries, and what is wrong with the others."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return [], [Finding(Place(file, 1), "", SIDECAR, "not UTF-8 text")]
    drills, problems = parse_drills(text, Path(file))
    return (
        [_sidecar(file, drill) for drill in drills],
        [Finding(Place(file, one.line), "", SIDECAR, one.reason) for one in problems],
    )


def _sidecar(file: str, drill: RuleDrill) -> Sidecar:
    done = msgspec.json.encode((drill.drills, drill.quiet))
    content = hashlib.sha256(done).hexdigest()
    proves = frozenset(technique for one in drill.drills for technique in one.proves)
    place = Place(file, drill.line)
    return Sidecar(drill.rule, drill.id, place, len(drill.quiet), proves, content)


def by_rule(sidecars: Iterable[Sidecar], findings: list[Finding]) -> dict[str, Sidecar]:
    """Entries by their rules' names; a second one for a rule is reported and left out."""
    found: dict[str, Sidecar] = {}
    for sidecar in sidecars:
        before = found.setdefault(sidecar.rule, sidecar)
        if before is not sidecar:
            reason = f"the rule has an entry already, at {before.place}"
            findings.append(Finding(sidecar.place, sidecar.rule, SIDECAR, reason))
    return found
