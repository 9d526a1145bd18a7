"""Which fault comes when: a seeded list, made without looking at anything. Pure.

The same seed, count and pace make the same list on every machine; a fault that a machine cannot
have (no root, no libfaketime) is passed over there and said so, and the others stay where they are.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    KILL = "kill -9"
    CUT = "connections cut"
    HANG = "connections hang"
    SLOW = "connections slow"
    HALF = "half answers"
    TOO_MANY = "answers 429"
    BROKEN = "answers 500"
    TOO_OLD = "answer 400 timestamp too old"
    TOO_FAR_BEHIND = "answer 400 entry too far behind"
    DISK_FULL = "disk full"
    RENAMED = "events file renamed"
    TRUNCATED = "events file truncated"
    CLOCK = "clock a day off"
    OUTPUT_DOWN = "output down"


AGENT, SERVER, LOKI, FALCOSIDEKICK = "agent", "server", "loki", "falcosidekick"
TO_SERVER, TO_LOKI, TO_FALCOSIDEKICK = "agent-server", "server-loki", "server-falcosidekick"
WAYS = (TO_SERVER, TO_LOKI, TO_FALCOSIDEKICK)

# How often each is drawn. Kills and cuts most: they are what really happens.
WEIGHTS: dict[tuple[Kind, str], int] = {
    (Kind.KILL, SERVER): 10,
    (Kind.KILL, AGENT): 10,
    (Kind.KILL, LOKI): 5,
    (Kind.KILL, FALCOSIDEKICK): 5,
    **{(Kind.CUT, way): 4 for way in WAYS},
    **{(Kind.HANG, way): 2 for way in WAYS},
    **{(Kind.SLOW, way): 2 for way in WAYS},
    **{(Kind.HALF, way): 4 for way in WAYS},
    **{(Kind.TOO_MANY, way): 2 for way in WAYS[1:]},
    **{(Kind.BROKEN, way): 2 for way in WAYS[1:]},
    (Kind.TOO_OLD, TO_LOKI): 2,
    (Kind.TOO_FAR_BEHIND, TO_LOKI): 2,
    (Kind.DISK_FULL, "spool"): 4,
    (Kind.DISK_FULL, "journal"): 4,
    (Kind.RENAMED, "events file"): 6,
    (Kind.TRUNCATED, "events file"): 4,
    (Kind.CLOCK, SERVER): 2,
    (Kind.CLOCK, AGENT): 2,
    (Kind.OUTPUT_DOWN, "webhook"): 3,
}


@dataclass(frozen=True)
class Fault:
    """One fault: ``at`` seconds after the start, for ``seconds``; ``days`` for a clock."""

    number: int
    at: float
    kind: Kind
    target: str
    seconds: float
    days: int = 0

    def __str__(self) -> str:
        days = f" ({self.days:+d})" if self.days else ""
        return f"#{self.number} {self.kind.value}{days}: {self.target}, {self.seconds:.2f} s"


def _length(draw: random.Random, kind: Kind) -> float:
    if kind is Kind.KILL:
        return draw.uniform(0.0, 2.0)
    if kind is Kind.CLOCK:
        return draw.uniform(2.0, 8.0)
    if kind in (Kind.TOO_OLD, Kind.TOO_FAR_BEHIND):
        # Until one request has met it.
        return 3.0
    # Mostly a moment; now and then longer than the others' patience, which is 5 s.
    return draw.uniform(5.5, 8.0) if draw.random() < 0.1 else draw.uniform(0.1, 2.5)


def make_schedule(
    seed: int,
    count: int,
    pace: float,
    weights: dict[tuple[Kind, str], int] | None = None,
) -> list[Fault]:
    """``count`` faults, ``pace`` seconds apart on average, each sort at least once if they fit."""
    draw = random.Random(seed)
    table = WEIGHTS if weights is None else weights
    sorts: Sequence[tuple[Kind, str]] = list(table)
    drawn = [*sorts][:count] if count >= len(sorts) else draw.sample(sorts, count)
    drawn += draw.choices(sorts, list(table.values()), k=count - len(drawn))
    draw.shuffle(drawn)
    at, faults = 0.0, []
    for number, (kind, target) in enumerate(drawn):
        # Bunched, so that faults meet each other while some events still get through between.
        at += draw.expovariate(1.0 / pace)
        days = draw.choice((-1, 1)) if kind is Kind.CLOCK else 0
        faults.append(Fault(number, at, kind, target, _length(draw, kind), days))
    return faults
