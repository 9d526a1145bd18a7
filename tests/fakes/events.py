"""Events for tests, as the journal hands them out."""

from __future__ import annotations

import json
import time
from datetime import datetime, timezone

from sib_protocol.events import summarize
from sib_protocol.ids import EventId, HostId, HostName, LineNumber, StreamId
from sib_server.events.stored import Seq, StoredEvent

SECOND = 1_000_000_000
STREAM = StreamId("11111111-2222-4333-8444-555555555555")
HOST = HostId("aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee")


def iso(time_ns: int) -> str:
    seconds, nanos = divmod(time_ns, SECOND)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanos:09d}Z"


def alert(
    number: int, time_ns: int, *, priority: str = "Warning", rule: str = "A rule", **more: object
) -> bytes:
    return json.dumps(
        {
            "hostname": "what-the-host-says",
            "output": f"event {number}",
            "output_fields": {"n": number, "proc.name": "x"},
            "priority": priority,
            "rule": rule,
            "source": "syscall",
            "tags": ["T1611", "process"],
            "time": iso(time_ns),
            **more,
        }
    ).encode()


def stored(
    number: int,
    *,
    line: bytes | None = None,
    time_ns: int | None = None,
    received_ns: int | None = None,
    host: str = "web-1",
    **more: object,
) -> StoredEvent:
    """Event ``number`` (seq is number + 1), of now unless told otherwise."""
    received = time.time_ns() if received_ns is None else received_ns
    if line is None:
        line = alert(number, received if time_ns is None else time_ns, **more)  # type: ignore[arg-type]
    return StoredEvent(
        Seq(number + 1),
        EventId(STREAM, LineNumber(number)),
        HOST,
        HostName(host),
        received,
        summarize(line),
        line,
    )
