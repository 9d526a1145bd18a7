"""What Falcosidekick's counters say about a batch. Pure.

Falcosidekick answers 200 before its outputs deliver and never tries again. Each output adds one
to ``falcosecurity_falcosidekick_outputs_total{destination,status}`` for each event it was given,
when it is done with it: ``ok`` or ``error`` (``mqtt`` puts its error's text in place of ``error``,
so whatever is not ``ok`` is a failure). It is given the events at or above its minimum priority,
and the rule "Test rule" always. Two outputs never count there: ``otlp.traces`` and ``otlp.logs``.
Source: falcosecurity/falcosidekick, handlers.go, outputs/*.go.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from prometheus_client.parser import text_string_to_metric_families

from sib_protocol.errors import MalformedMessageError
from sib_protocol.events import Priority
from sib_server.events.sinks.falcosidekick_payload import TEST_RULE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sib_server.events.sinks.falcosidekick_payload import Outgoing
    from sib_server.events.sinks.settings import OutputExpectation

_OUTPUTS: Final = "falcosecurity_falcosidekick_outputs_total"
_STARTED: Final = "process_start_time_seconds"
_OK: Final = "ok"


@dataclass(frozen=True, slots=True)
class Counts:
    """One look at the counters.

    Attributes:
        started: when the process started, seconds since 1970; 0 where the page does not say.
        outputs: (destination, status) -> count.
    """

    started: float
    outputs: Mapping[tuple[str, str], float]


def parse_counts(page: str) -> Counts:
    """Read a metrics page.

    Only the two metrics wanted are parsed: the others grow with every host and rule.

    Raises:
        MalformedMessageError: it is not one.
    """
    # Not splitlines(): a label's value may hold what Python takes for a line's end, such as U+2028.
    wanted = [line for line in page.split("\n") if line.startswith((_OUTPUTS, _STARTED))]
    started = 0.0
    outputs: dict[tuple[str, str], float] = {}
    try:
        for family in text_string_to_metric_families("\n".join(wanted) + "\n"):
            for sample in family.samples:
                if sample.name == _STARTED:
                    started = sample.value
                else:
                    key = (sample.labels["destination"], sample.labels["status"])
                    outputs[key] = sample.value
    except (ValueError, KeyError, IndexError) as error:
        raise MalformedMessageError(f"not a metrics page of Falcosidekick: {error!r}") from error
    return Counts(started, outputs)


class Progress(Enum):
    """How far the outputs are with a batch."""

    WAITING = "waiting"
    SETTLED = "settled"
    RESTARTED = "restarted"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two looks at the counters, compared.

    Attributes:
        progress: whether the outputs are done.
        worked: destinations that delivered something in between.
        failed: destinations that failed for something in between.
        missing: destinations that have not counted what they should.
    """

    progress: Progress
    worked: frozenset[str] = field(default=frozenset())
    failed: frozenset[str] = field(default=frozenset())
    missing: frozenset[str] = field(default=frozenset())


def expected_counts(
    batch: Iterable[Outgoing], outputs: Mapping[str, OutputExpectation]
) -> dict[str, int]:
    """How much each configured destination will count for a batch, whatever comes of it."""
    sent = list(batch)
    return {
        destination: output.per_event * sum(_is_given(output, item) for item in sent)
        for destination, output in outputs.items()
    }


def _is_given(output: OutputExpectation, item: Outgoing) -> bool:
    minimum = Priority.parse(output.minimum_priority)
    return minimum is None or item.rule == TEST_RULE or item.priority.severity <= minimum.severity


def compare(before: Counts, now: Counts, expected: Mapping[str, int], *, quiet: bool) -> Comparison:
    """Judge a batch.

    Args:
        before: as the counters stood before the batch was posted.
        now: as they stand.
        expected: from :func:`expected_counts`; empty where the outputs are not known.
        quiet: no counter has moved for a while; what settles a batch of unknown outputs.
    """
    fell = any(now.outputs.get(key, 0.0) < value for key, value in before.outputs.items())
    if now.started != before.started or fell:
        return Comparison(Progress.RESTARTED)
    grown: dict[str, float] = {}
    worked: set[str] = set()
    failed: set[str] = set()
    for (destination, status), value in now.outputs.items():
        growth = value - before.outputs.get((destination, status), 0.0)
        if growth > 0:
            grown[destination] = grown.get(destination, 0.0) + growth
            (worked if status == _OK else failed).add(destination)
    missing = {name for name, count in expected.items() if grown.get(name, 0.0) < count}
    settled = not missing if expected else quiet
    return Comparison(
        Progress.SETTLED if settled else Progress.WAITING,
        frozenset(worked),
        frozenset(failed),
        frozenset(missing),
    )
