"""What a host's drill found, as an event of its own that goes home like any other. Pure."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from sib_protocol.drills.verdicts import Result
from sib_protocol.errors import UNDECODABLE
from sib_protocol.events import Priority, sib_event

RESULT_RULE: Final = "SIB drill result"
TAG: Final = "sib_drill"


class DrillRecord(msgspec.Struct, frozen=True):
    """How one drill ended on a host.

    Attributes:
        id: the rule's.
        rule: its name.
        name: of the drill; empty for the only one of a rule.
        result: fired, silent or not run.
        engine: Falco's version; empty where it is not known.
        kernel: the host's.
        bundle: version of the bundle that the drill came from; empty where it came from a folder.
        to_spool_s: seconds from the act to the line in the agent's spool.
        to_server_s: seconds from the act until the server had it; ``None`` if it never did.
        why: what went wrong.
    """

    id: str
    rule: str
    result: Result
    engine: str
    kernel: str
    bundle: str
    to_spool_s: float | None = None
    to_server_s: float | None = None
    why: str | None = None
    name: str = ""


def drill_event(record: DrillRecord, time_ns: int) -> bytes:
    """The event line of one record: a notice where the rule fired, else a warning."""
    fired = record.result is Result.FIRED
    said = {
        Result.FIRED: f"fired {record.rule!r} in {record.to_server_s} s to the server",
        Result.SILENT: f"did not fire {record.rule!r}",
    }.get(record.result, f"of {record.rule!r} could not be run")
    fields: dict[str, str | int] = {
        "sib.drill.id": record.id,
        "sib.drill.rule": record.rule,
        "sib.drill.name": record.name,
        "sib.drill.result": record.result.value,
        "sib.drill.engine": record.engine,
        "sib.drill.kernel": record.kernel,
        "sib.drill.bundle": record.bundle,
        "sib.drill.why": record.why or "",
    }
    for key, seconds in (("spool", record.to_spool_s), ("server", record.to_server_s)):
        if seconds is not None:
            fields[f"sib.drill.to_{key}_ms"] = round(seconds * 1000)
    return sib_event(
        rule=RESULT_RULE,
        priority=Priority.INFORMATIONAL if fired else Priority.WARNING,
        time_ns=time_ns,
        output=f"The drill {record.id} {said}",
        fields=fields,
        tags=(TAG,),
    )


class _Line(msgspec.Struct):
    rule: str = ""
    source: str = ""
    output_fields: dict[str, Any] = {}


_decoder: Final = msgspec.json.Decoder(_Line)


def read_drill_event(line: bytes) -> DrillRecord | None:
    """The record that an event line carries; ``None`` for any other line, whatever it holds."""
    try:
        read = _decoder.decode(line)
    except UNDECODABLE:
        return None
    if read.rule != RESULT_RULE or read.source != "sib":
        return None

    def text(name: str) -> str:
        value = read.output_fields.get(f"sib.drill.{name}")
        return value if isinstance(value, str) else ""

    def seconds(name: str) -> float | None:
        value = read.output_fields.get(f"sib.drill.to_{name}_ms")
        return value / 1000 if isinstance(value, int) and not isinstance(value, bool) else None

    results = {result.value: result for result in Result}
    result = results.get(text("result"))
    if result is None or not text("id"):
        return None
    return DrillRecord(
        text("id"),
        text("rule"),
        result,
        text("engine"),
        text("kernel"),
        text("bundle"),
        seconds("spool"),
        seconds("server"),
        text("why") or None,
        text("name"),
    )
