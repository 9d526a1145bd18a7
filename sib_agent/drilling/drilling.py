"""Doing drills on a host, and following each one's event through the spool to the server."""

from __future__ import annotations

import os
import platform
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_agent.client import ServerBusyError, ServerRefusedError, ServerUnreachableError
from sib_agent.drilling.follower import SpoolFollower
from sib_protocol.drills.engine import falco_version
from sib_protocol.drills.marks import Mark, new_run, parse_alert
from sib_protocol.drills.model import Kind
from sib_protocol.drills.records import DrillRecord, drill_event
from sib_protocol.drills.sandbox import missing_programs, perform
from sib_protocol.drills.verdicts import judge, not_run
from sib_protocol.errors import ExitCode, FileAccessError, SibError
from sib_protocol.messages import StreamAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence, Set
    from pathlib import Path

    from sib_agent.client import ServerClient
    from sib_agent.drilling.follower import SpooledLine
    from sib_protocol.drills.marks import Alert
    from sib_protocol.drills.model import RuleDrill
    from sib_protocol.drills.sandbox import Outcome
    from sib_protocol.drills.verdicts import Planned, Verdict

_STEP_S: Final = 0.02
_UNKNOWN_STREAM: Final = "unknown_stream"
_QUIET_S: Final = 1.0
"""How long nothing has to come after a quiet case."""


class NoDrillsError(SibError):
    """Nothing to drill."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, place: Path, asked: Sequence[str]) -> None:
        what = f"no drill for {', '.join(asked)}" if asked else "no drills"
        super().__init__(
            f"{what} in {place}",
            "drills come with the host's bundle ('sib-agent status'); --from names another folder",
        )


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, in seconds.

    Attributes:
        spool: from the act until its event is in the spool.
        server: from then until the server has it.
    """

    spool: float = 8.0
    server: float = 20.0


@dataclass(frozen=True, slots=True)
class Drilled:
    """What came of one act.

    Attributes:
        verdict: fired, silent, quiet, noisy or not run.
        to_spool_s: from the act to the spool.
        to_server_s: from the act until the server had it.
    """

    verdict: Verdict
    to_spool_s: float | None = None
    to_server_s: float | None = None

    @property
    def is_well(self) -> bool:
        """Whether all went as it should, up to the server."""
        arrived = self.verdict.kind is Kind.QUIET or self.to_server_s is not None
        return self.verdict.result.is_well and arrived

    def record(self, engine: str, bundle: str) -> DrillRecord:
        """What the server is told."""
        verdict = self.verdict
        return DrillRecord(
            verdict.id,
            verdict.rule,
            verdict.result,
            engine,
            platform.release(),
            bundle,
            self.to_spool_s,
            self.to_server_s,
            verdict.why,
            verdict.name,
        )


def choose(
    drills: Iterable[RuleDrill], rules: Sequence[str], tactics: Set[str], files: dict[str, str]
) -> list[RuleDrill]:
    """The drills that were asked for. Pure.

    Args:
        drills: all.
        rules: ids or names; empty for all.
        tactics: names of files without their ending; empty for all.
        files: drill id -> the name of its file, without the ending.
    """
    asked = set(rules)
    return [
        drill
        for drill in drills
        if (not asked or {drill.id, drill.rule} & asked)
        and (not tactics or files.get(drill.id, "") in tactics)
    ]


def unknown_names(
    drills: Iterable[RuleDrill], rules: Sequence[str], tactics: Set[str], files: dict[str, str]
) -> list[str]:
    """Of what was asked for, as :func:`choose` takes it, that for which there is no drill. Pure."""
    known = {name for drill in drills for name in (drill.id, drill.rule)}
    return [
        *(rule for rule in rules if rule not in known),
        *sorted(tactics - set(files.values())),
    ]


class Driller:
    """Does acts and follows their events.

    Args:
        spool: the spool's folder.
        client: speaks to the server.
        patience: how long is waited.
    """

    def __init__(self, spool: Path, client: ServerClient, patience: Patience | None = None) -> None:
        self._spool = spool
        self._client = client
        self._patience = patience or Patience()
        self._run = new_run()

    def run(
        self,
        planned: Sequence[Planned],
        ours: Set[str],
        done: Callable[[Drilled], None] = lambda _: None,
    ) -> list[Drilled]:
        """Do all acts, one after the other.

        Args:
            planned: the acts.
            ours: names of the rules that quiet cases must not fire.
            done: called after each.

        Raises:
            IsolationError: they cannot be isolated here.
            FileAccessError: there is no spool.
        """
        found = []
        with closing(SpoolFollower(self._spool)) as follower:
            for one in planned:
                drilled = self._one(one, ours, follower)
                found.append(drilled)
                done(drilled)
        return found

    def _one(self, one: Planned, ours: Set[str], follower: SpoolFollower) -> Drilled:
        if missing := missing_programs(one.act):
            return Drilled(not_run(one, f"not on this host: {', '.join(missing)}"))
        # What came before is not this act's, and need not be read later.
        for _ in follower.new_lines():
            pass
        outcome = perform(one.act, Mark(self._run, one.number))
        alerts, line = self._await(one, follower)
        spooled = time.time_ns()
        verdict = judge(one, outcome, alerts, ours | {one.drill.rule})
        if one.kind is Kind.QUIET or line is None:
            return Drilled(verdict)
        arrived = self._arrived(line)
        return Drilled(
            verdict,
            _seconds(outcome, spooled),
            _seconds(outcome, time.time_ns()) if arrived else None,
        )

    def _await(
        self, one: Planned, follower: SpoolFollower
    ) -> tuple[list[Alert], SpooledLine | None]:
        """The act's alerts, until its rule's is among them or the time is up."""
        alerts: list[Alert] = []
        waiting = self._patience.spool if one.kind is Kind.DRILL else _QUIET_S
        deadline = time.monotonic() + waiting
        while True:
            for line in follower.new_lines():
                alert = parse_alert(line.line)
                mark = alert.mark if alert is not None else None
                if alert is None or mark != Mark(self._run, one.number):
                    continue
                alerts.append(alert)
                if one.kind is Kind.DRILL and alert.rule == one.drill.rule:
                    return alerts, line
            if time.monotonic() > deadline:
                return alerts, None
            time.sleep(_STEP_S)

    def _arrived(self, line: SpooledLine) -> bool:
        """Whether the server says, before the time is up, that it has the line."""
        deadline = time.monotonic() + self._patience.server
        while True:
            try:
                answer = self._client.get(f"/v1/streams/{line.stream}").decode(StreamAnswer)
                if answer.next > line.number:
                    return True
            except (ServerBusyError, ServerUnreachableError):
                pass
            except ServerRefusedError as error:
                # A stream of which nothing has arrived is not known there.
                if error.code != _UNKNOWN_STREAM:
                    raise
            if time.monotonic() > deadline:
                return False
            time.sleep(_STEP_S)


def _seconds(outcome: Outcome, now_ns: int) -> float:
    return round(max(0, now_ns - outcome.started_ns) / 1e9, 3)


def engine_version(program: Path) -> str:
    """The version of the host's Falco; empty where it cannot be asked."""
    try:
        return falco_version(program)
    except SibError:
        return ""


def report(found: Iterable[Drilled], events_file: Path, engine: str, bundle: str) -> None:
    """Tell the server, by events of their own in the file that Falco writes to.

    Opened, appended and closed as Falco does it, so that the agent can take the file over.

    Raises:
        FileAccessError: it cannot be written.
    """
    records = [one.record(engine, bundle) for one in found if one.verdict.kind is Kind.DRILL]
    lines = b"".join(drill_event(record, time.time_ns()) + b"\n" for record in records)
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(events_file, flags, 0o640)
        try:
            folder = events_file.parent.stat()
            if os.fstat(descriptor).st_size == 0 and os.geteuid() == 0:
                # Made just now: the agent is in the folder's group, and reads and renames it.
                os.fchown(descriptor, folder.st_uid, folder.st_gid)
            view = memoryview(lines)
            while view:
                view = view[os.write(descriptor, view) :]
        finally:
            os.close(descriptor)
    except OSError as error:
        raise FileAccessError(events_file, error.strerror or str(error)) from error
