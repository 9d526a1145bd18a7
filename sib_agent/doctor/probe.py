"""Following one event from where it arises to the server's acknowledgement.

Where Falco runs, a program is started that SIB's own rule watches for, so that the event comes
from the kernel; else a line is appended where Falco would. Its line is then looked for in the
events file and in the spool, whose number for it is compared with what the server has.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import msgspec

from sib_agent.setup.falco_config import PROBE_PREFIX, PROBE_RULE
from sib_agent.spool.records import Frame, FrameKind, find_frame
from sib_agent.spool.segments import list_segments
from sib_protocol.errors import SibError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sib_agent.settings import AgentSettings
    from sib_agent.spool.segments import Segment
    from sib_protocol.ids import LineNumber

_PAUSE: Final = 0.02
_PROGRAM: Final = "/bin/true"
_MAX_READ: Final = 64 * 1024 * 1024


class ProbeOutcome(msgspec.Struct, frozen=True):
    """How far the probe came.

    Attributes:
        by_falco: Falco was to see it; else the line was written in its place.
        written: seconds until it was in the events file or further; ``None``: never.
        spooled: seconds until it was in the spool; ``None``: never.
        number: its number in the spool's stream.
        acknowledged: seconds until the server had it; ``None``: never.
        problem: what kept the probe from being made or asked for, else ``None``.
    """

    by_falco: bool
    written: float | None = None
    spooled: float | None = None
    number: int | None = None
    acknowledged: float | None = None
    problem: str | None = None


class Probe:
    """One probe.

    Args:
        settings: the agent's.
        by_falco: whether Falco is to see it.
        next_wanted: asks the server for the number of the first line that it does not have.
        clock: seconds, monotonic.
        sleep: waits.
    """

    def __init__(
        self,
        settings: AgentSettings,
        *,
        by_falco: bool,
        next_wanted: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._settings = settings
        self._by_falco = by_falco
        self._next_wanted = next_wanted
        self._clock = clock
        self._sleep = sleep
        self._nonce = PROBE_PREFIX + secrets.token_hex(8)
        # Where segments ended before: a probe is behind that.
        self._ends: dict[Path, int] = {}

    def run(self, seconds: float) -> ProbeOutcome:
        """Make the event and follow it for so long at most."""
        try:
            self._ends = {segment.path: segment.size for segment in self._segments()}
            begun = self._clock()
            self._make()
        except (OSError, subprocess.SubprocessError) as error:
            return ProbeOutcome(self._by_falco, problem=str(error))
        outcome = ProbeOutcome(self._by_falco)
        while True:
            outcome = self._look(outcome, begun)
            if outcome.acknowledged is not None or self._clock() - begun > seconds:
                return outcome
            self._sleep(_PAUSE)

    def _look(self, outcome: ProbeOutcome, begun: float) -> ProbeOutcome:
        now = round(self._clock() - begun, 3)
        if outcome.number is None:
            number = self._number_in_spool()
            if number is not None:
                written = now if outcome.written is None else outcome.written
                return msgspec.structs.replace(
                    outcome, written=written, spooled=now, number=int(number)
                )
            if outcome.written is None and self._is_in_events_file():
                return msgspec.structs.replace(outcome, written=now)
            return outcome
        try:
            reached = self._next_wanted() > outcome.number
        except SibError as error:
            return msgspec.structs.replace(outcome, problem=error.problem)
        if reached:
            return msgspec.structs.replace(outcome, acknowledged=now, problem=None)
        return outcome

    def _make(self) -> None:
        if self._by_falco:
            subprocess.run(
                [_PROGRAM, self._nonce], stdin=subprocess.DEVNULL, timeout=10, check=True
            )
            return
        path = self._settings.events.file
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o640)
        try:
            os.write(descriptor, probe_line(self._nonce, time.time_ns()) + b"\n")
        finally:
            os.close(descriptor)

    def _segments(self) -> list[Segment]:
        with suppress(FileNotFoundError):
            return list_segments(self._settings.spool.directory)
        return []

    def _number_in_spool(self) -> LineNumber | None:
        for data in self._fresh_bytes():
            number = find_number(data, self._nonce.encode())
            if number is not None:
                return number
        return None

    def _fresh_bytes(self) -> Iterator[bytes]:
        for segment in self._segments():
            start = self._ends.get(segment.path, 0)
            # A segment may be given up between the look and the reading.
            with suppress(OSError), segment.path.open("rb") as file:
                file.seek(start)
                yield file.read(_MAX_READ)

    def _is_in_events_file(self) -> bool:
        folder = self._settings.events.file.parent
        nonce = self._nonce.encode()
        with suppress(OSError):
            for path in folder.iterdir():
                with suppress(OSError), path.open("rb") as file:
                    file.seek(max(0, path.stat().st_size - _MAX_READ))
                    if nonce in file.read(_MAX_READ):
                        return True
        return False


def find_number(data: bytes, nonce: bytes) -> LineNumber | None:
    """The number of the first line in a part of a segment that holds a nonce. Pure.

    Args:
        data: begins where a frame does.
        nonce: what to look for.
    """
    if nonce not in data:
        return None
    at = 0
    while isinstance(frame := find_frame(data, at, whole=True), Frame):
        if frame.kind is FrameKind.LINE and nonce in data[frame.start : frame.end]:
            return frame.number
        at = frame.end
    return None


def probe_line(nonce: str, time_ns: int) -> bytes:
    """The probe's event, as Falco would have written it."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return msgspec.json.encode(
        {
            "output": "sib-agent doctor follows this line, which Falco did not see",
            "output_fields": {"sib.probe": nonce},
            "priority": "Informational",
            "rule": PROBE_RULE,
            "source": "sib",
            "tags": ["sib", "sib_demo", "sib_probe"],
            "time": f"{second}.{nanoseconds:09d}Z",
        }
    )
