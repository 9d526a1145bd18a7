"""Whether the promise was kept: what was written against what is held. Pure."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_NUMBER = re.compile(rb'"lab\.n": ?(\d{1,15})[,}]')
_SHOWN = 50


def number_in(content: bytes) -> int | None:
    """The number of a written event in whatever a store made of its line."""
    found = _NUMBER.search(content)
    return int(found[1]) if found else None


def digest(line: bytes) -> bytes:
    return hashlib.blake2b(line, digest_size=16).digest()


@dataclass(frozen=True)
class Violations:
    """What is wrong, by number; empty where the promise was kept."""

    missing_in_journal: list[int] = field(default_factory=list)
    doubled_in_journal: list[int] = field(default_factory=list)
    changed_in_journal: list[int] = field(default_factory=list)
    strange_in_journal: int = 0
    missing_in_sinks: dict[str, list[int]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(
            self.missing_in_journal
            or self.doubled_in_journal
            or self.changed_in_journal
            or self.strange_in_journal
            or any(self.missing_in_sinks.values())
        )

    @property
    def numbers(self) -> list[int]:
        """Every number that something is wrong with."""
        found = {*self.missing_in_journal, *self.doubled_in_journal, *self.changed_in_journal}
        for missing in self.missing_in_sinks.values():
            found.update(missing)
        return sorted(found)

    def as_json(self) -> dict[str, Any]:
        def few(numbers: list[int]) -> dict[str, Any]:
            return {"count": len(numbers), "first": numbers[:_SHOWN]}

        return {
            "missing_in_journal": few(self.missing_in_journal),
            "doubled_in_journal": few(self.doubled_in_journal),
            "changed_in_journal": few(self.changed_in_journal),
            "strange_in_journal": self.strange_in_journal,
            **{f"missing_in_{name}": few(lost) for name, lost in self.missing_in_sinks.items()},
        }


def judge(
    written: Mapping[int, bytes],
    journal: Iterable[bytes],
    sinks: Mapping[str, Mapping[int, int]],
) -> Violations:
    """Compare.

    Args:
        written: the digest of each number's line.
        journal: all lines that the journal holds of the host.
        sinks: for each sink, how often it holds or was given each number.
    """
    counts: Counter[int] = Counter()
    changed, strange = [], 0
    for line in journal:
        number = number_in(line)
        if number is None or number not in written:
            strange += 1
            continue
        counts[number] += 1
        if digest(line) != written[number]:
            changed.append(number)
    return Violations(
        missing_in_journal=sorted(written.keys() - counts.keys()),
        doubled_in_journal=sorted(number for number, count in counts.items() if count > 1),
        changed_in_journal=sorted(changed),
        strange_in_journal=strange,
        missing_in_sinks={
            name: sorted(written.keys() - held.keys()) for name, held in sinks.items()
        },
    )
