"""What a noise run gave: the figures, from alerts and from what the work said. Pure but for I/O."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import TYPE_CHECKING

import msgspec

from sib_protocol.events import Priority

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sib_protocol.drills.marks import Alert

CONTROL = "SIB noise control"
"""The rule that tells that Falco saw a way of the work: cron's, SSH's, a container's ..."""


class Figures(msgspec.Struct, frozen=True):
    """How noisy rules are.

    Attributes:
        rules: what :func:`rules_digest` gave.
        engine: Falco's version.
        kernel: of the machine.
        time: when it ended, ISO 8601 in UTC.
        minutes: how long the work took.
        work: what was done -> how often.
        seen: by which way of the work a control program was seen -> how often.
        lost: events that Falco says it could not read, of the whole machine.
        events_an_hour: "rule (priority)" -> events of the work.
        above_notice: rules among them that would wake somebody.
        elsewhere: "rule (priority)" -> events of whatever else was done on the machine, in all.
    """

    rules: str
    engine: str
    kernel: str
    time: str
    minutes: float
    work: dict[str, int]
    seen: dict[str, int]
    lost: int
    events_an_hour: dict[str, float]
    above_notice: tuple[str, ...]
    elsewhere: dict[str, int]


def figures(
    alerts: Iterable[Alert],
    mine: str,
    work: Mapping[str, int],
    *,
    rules: str,
    engine: str,
    kernel: str,
    time: str,
    minutes: float,
    lost: int,
) -> Figures:
    """Sum a run up.

    Args:
        alerts: all that Falco told.
        mine: the run of the marks that the work carries.
        work: what was done -> how often.
        rules, engine, kernel, time, minutes, lost: as in the figures.
    """
    ours: Counter[tuple[str, str]] = Counter()
    others: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for alert in alerts:
        if alert.mark is None:
            if alert.rule != CONTROL:
                others[f"{alert.rule} ({alert.priority})"] += 1
        elif alert.mark.run == mine and not alert.mark.setup:
            if alert.rule == CONTROL:
                seen[str(alert.output_fields.get("proc.name", "")).removeprefix("noise-")] += 1
            else:
                ours[alert.rule, alert.priority] += 1
    an_hour = 60 / minutes
    return Figures(
        rules,
        engine,
        kernel,
        time,
        minutes,
        dict(sorted(work.items())),
        dict(sorted(seen.items())),
        lost,
        {f"{rule} ({level})": round(n * an_hour, 1) for (rule, level), n in ours.most_common()},
        tuple(sorted({rule for rule, level in ours if loud(level)})),
        dict(others.most_common()),
    )


def rules_digest(files: Iterable[bytes]) -> str:
    """By which the rules of a run are known: figures of other rules are not theirs."""
    digest = hashlib.sha256()
    for content in files:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def loud(priority: str) -> bool:
    """Whether a priority is above Notice; one that is not known is."""
    found = Priority.parse(priority)
    return found is None or found.severity < Priority.NOTICE.severity


def work_done(said: str) -> dict[str, int]:
    """What the work says it did: lines of ``NAME COUNT``; others are an error.

    Raises:
        ValueError: a line says something else.
    """
    counts: Counter[str] = Counter()
    for line in said.splitlines():
        name, _, count = line.partition(" ")
        counts[name] += int(count)
    return dict(counts)


def load_figures(path: Path) -> tuple[Figures, ...]:
    """Read the figures of all runs in a file; none where there is no file."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=tuple[Figures, ...])
    except FileNotFoundError:
        return ()


def save_figures(path: Path, runs: Iterable[Figures]) -> None:
    """Write the figures of runs."""
    path.write_bytes(msgspec.json.format(msgspec.json.encode(tuple(runs)), indent=1) + b"\n")
