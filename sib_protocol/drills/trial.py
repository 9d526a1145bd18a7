"""Tries rules with their drills on a Falco of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sib_protocol.drills.marks import Mark, new_run
from sib_protocol.drills.sandbox import Bounds, missing_programs, perform
from sib_protocol.drills.verdicts import Result, by_act, judge, not_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence, Set

    from sib_protocol.drills.engine import Falco
    from sib_protocol.drills.sandbox import Outcome
    from sib_protocol.drills.verdicts import Planned, Verdict


def try_rules(
    falco: Falco,
    planned: Sequence[Planned],
    ours: Set[str],
    *,
    bounds: Bounds | None = None,
    done: Callable[[Planned], None] = lambda _: None,
) -> list[Verdict]:
    """Do acts under Falco's eyes and judge each.

    Args:
        falco: a running one, with the rules.
        planned: what to do.
        ours: names of the rules under test.
        bounds: what each act may take.
        done: called after each act.

    Raises:
        IsolationError: acts cannot be isolated here.
        FalcoError: Falco has ended.
    """
    verdicts = _pass(falco, planned, ours, bounds, done)
    # Where a machine is busy Falco loses events, and says nothing of it in alerts: what did not
    # fire is done once more. A quiet case that fired has fired.
    silent = [
        one
        for one, verdict in zip(planned, verdicts, strict=True)
        if verdict.result is Result.SILENT
    ]
    if silent:
        again = _pass(falco, silent, ours, bounds, done)
        late = {one.number: verdict for one, verdict in zip(silent, again, strict=True)}
        verdicts = [
            late.get(one.number, verdict) for one, verdict in zip(planned, verdicts, strict=True)
        ]
    return verdicts


def _pass(
    falco: Falco,
    planned: Sequence[Planned],
    ours: Set[str],
    bounds: Bounds | None,
    done: Callable[[Planned], None],
) -> list[Verdict]:
    run = new_run()
    outcomes: dict[int, Outcome] = {}
    absent: dict[int, list[str]] = {}
    for one in planned:
        if missing := missing_programs(one.act):
            absent[one.number] = missing
        else:
            outcomes[one.number] = perform(one.act, Mark(run, one.number), bounds)
        done(one)
    alerts = by_act(run, falco.settle())
    return [
        judge(one, outcomes[one.number], alerts.get(one.number, []), ours)
        if one.number in outcomes
        else not_run(one, f"not on this host: {', '.join(absent[one.number])}")
        for one in planned
    ]
