"""Which acts are done in a run, and what the alerts that followed say of each. Pure."""

from __future__ import annotations

from collections import Counter
from enum import Enum
from typing import TYPE_CHECKING

import msgspec

from sib_protocol.drills.marks import Alert, Mark
from sib_protocol.drills.model import Act, Kind, RuleDrill
from sib_protocol.drills.sandbox import Outcome
from sib_protocol.events import parse_time_ns

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence, Set


class Planned(msgspec.Struct, frozen=True):
    """One act of a run.

    Attributes:
        number: its place in the run, from 1.
        drill: what it belongs to.
        kind: drill or quiet case.
        name: of the act; empty for the only drill of a rule.
        act: what is done.
        proves: ids of techniques; empty for all of the rule.
    """

    number: int
    drill: RuleDrill
    kind: Kind
    name: str
    act: Act
    proves: tuple[str, ...] = ()


class Result(Enum):
    """How an act ended, judged."""

    FIRED = "fired"
    """A drill, and its rule fired."""

    SILENT = "silent"
    """A drill, and its rule did not fire."""

    QUIET = "quiet"
    """A quiet case, and nothing fired."""

    NOISY = "noisy"
    """A quiet case, and a rule fired."""

    NOT_RUN = "not run"
    """It could not be done here."""

    @property
    def is_well(self) -> bool:
        """Whether the act says nothing against the rule."""
        return self in {Result.FIRED, Result.QUIET}


class Verdict(msgspec.Struct, frozen=True):
    """What is said of one act.

    Attributes:
        id: the rule's id.
        rule: its name.
        kind: drill or quiet case.
        name: of the act; empty for the only drill of a rule.
        result: how it ended.
        fired: rules that fired during it -> how often.
        why: where it did not go as it should: what the act itself said.
        delay_s: from the act's beginning to the alert, by the host's clock; ``None`` without one.
        proves: ids of the techniques that a drill is; empty for all of the rule.
    """

    id: str
    rule: str
    kind: Kind
    name: str
    result: Result
    fired: dict[str, int]
    why: str | None = None
    delay_s: float | None = None
    proves: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What a person would call the act: the drill's rule, and which drill; the quiet case."""
        if self.kind is Kind.QUIET:
            return f"quiet: {self.name}"
        return f"{self.rule}: {self.name}" if self.name else self.rule


def plan(drills: Iterable[RuleDrill], *, quiet: bool, drill: bool = True) -> list[Planned]:
    """All acts of a run, in order."""
    planned: list[Planned] = []
    for one in drills:
        acts = [(Kind.DRILL, it.name, it.act, it.proves) for it in one.drills] if drill else []
        if quiet:
            acts += [(Kind.QUIET, case.name, case.act, ()) for case in one.quiet]
        for kind, name, act, proves in acts:
            planned.append(Planned(len(planned) + 1, one, kind, name, act, proves))
    return planned


def by_act(run: str, alerts: Iterable[Alert]) -> dict[int, list[Alert]]:
    """The alerts of a run's acts; those of preparations and of everything else are left out."""
    found: dict[int, list[Alert]] = {}
    for alert in alerts:
        mark: Mark | None = alert.mark
        if mark is not None and mark.run == run and not mark.setup:
            found.setdefault(mark.number, []).append(alert)
    return found


def judge(planned: Planned, outcome: Outcome, alerts: Sequence[Alert], ours: Set[str]) -> Verdict:
    """What is said of one act.

    Args:
        planned: the act.
        outcome: how doing it ended.
        alerts: those with its mark.
        ours: names of the rules under test; a quiet case may fire others, which are not asked.
    """
    counts = Counter(alert.rule for alert in alerts if alert.rule in ours)
    why = _trouble(outcome)
    delay = None
    if planned.kind is Kind.DRILL:
        fired = counts[planned.drill.rule] > 0
        if fired:
            delay = _delay(planned.drill.rule, alerts, outcome.started_ns)
        result = Result.FIRED if fired else Result.SILENT
        if fired:
            why = None
    elif outcome.code != 0:
        # Half of an everyday act proves nothing.
        result = Result.NOT_RUN
    else:
        result = Result.NOISY if counts else Result.QUIET
        why = why if counts else None
    return Verdict(
        planned.drill.id,
        planned.drill.rule,
        planned.kind,
        planned.name,
        result,
        dict(counts),
        why,
        delay,
        planned.proves,
    )


def not_run(planned: Planned, why: str) -> Verdict:
    """An act that was not done at all."""
    drill = planned.drill
    return Verdict(drill.id, drill.rule, planned.kind, planned.name, Result.NOT_RUN, {}, why)


def _trouble(outcome: Outcome) -> str | None:
    if outcome.ended_by is not None:
        return f"{outcome.ended_by}: {outcome.said.strip()[-300:]}".rstrip(": ")
    if outcome.code != 0:
        return f"the act ended with status {outcome.code}: {outcome.said.strip()[-300:]}"
    return outcome.said.strip()[-300:] or None


def _delay(rule: str, alerts: Iterable[Alert], started_ns: int) -> float | None:
    times = [parse_time_ns(alert.time) for alert in alerts if alert.rule == rule]
    known = [time for time in times if time is not None]
    return round(max(0, min(known) - started_ns) / 1e9, 3) if known and started_ns else None


def summary(verdicts: Iterable[Verdict]) -> Mapping[Result, int]:
    """How many acts ended how."""
    return Counter(verdict.result for verdict in verdicts)
