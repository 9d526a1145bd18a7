"""What Falcosidekick's counters say of its outputs. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_protocol.checks import Finding, failed, warning, well

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_server.events.sinks.falcosidekick_counts import Counts
    from sib_server.events.sinks.settings import OutputExpectation

_OK: Final = "ok"
_CHECK: Final = "probe-falcosidekick"
_REMEDY: Final = "see 'sib-server logs falcosidekick'; its outputs are set in /etc/sib/outputs.yaml"


def judge_outputs(
    before: Counts, now: Counts, expected: Mapping[str, OutputExpectation], *, alert: bool
) -> Finding:
    """Whether the outputs work, by what they counted.

    Args:
        before: before the probe was sent.
        now: after the sink was past it.
        expected: outputs that the settings name.
        alert: whether the probe was one that outputs are given.
    """
    outputs = sorted({destination for destination, _ in now.outputs})
    if alert:
        return _judge_alert(before, now, expected)
    failing = [
        destination
        for destination in outputs
        if _total(now, destination, ok=False) and not _total(now, destination, ok=True)
    ]
    if failing:
        return failed(
            _CHECK, f"since it started, these never delivered: {', '.join(failing)}", _REMEDY
        )
    absent = sorted(set(expected) - set(outputs))
    if absent and outputs:
        return warning(
            _CHECK,
            f"the settings name outputs that never counted anything: {', '.join(absent)}",
            "compare sinks.falcosidekick.outputs with /etc/sib/outputs.yaml",
        )
    seen = ", ".join(outputs) or "none has had anything to do"
    return well(_CHECK, f"the probe was withheld from alerts; outputs: {seen} (--alert tries them)")


def _judge_alert(before: Counts, now: Counts, expected: Mapping[str, OutputExpectation]) -> Finding:
    grown = {
        key: value - before.outputs.get(key, 0.0)
        for key, value in now.outputs.items()
        if value > before.outputs.get(key, 0.0)
    }
    worked = sorted({destination for destination, status in grown if status == _OK})
    broken = sorted({destination for destination, status in grown if status != _OK})
    silent = sorted(set(expected) - set(worked) - set(broken))
    if broken or silent:
        parts = [f"failed: {', '.join(broken)}"] if broken else []
        parts += [f"not heard of: {', '.join(silent)}"] if silent else []
        return failed(_CHECK, f"the test alert {'; '.join(parts)}", _REMEDY)
    if not worked:
        return warning(
            _CHECK, "the test alert went to no output", "set one up in /etc/sib/outputs.yaml"
        )
    return well(_CHECK, f"the test alert was delivered by {', '.join(worked)}")


def _total(counts: Counts, destination: str, *, ok: bool) -> float:
    return sum(
        value
        for (name, status), value in counts.outputs.items()
        if name == destination and (status == _OK) is ok
    )
