"""What doctor says of what it found. Pure."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from sib_agent.standing import Standing, judge_standing
from sib_protocol.checks import Finding, Verdict, failed, skipped, warning, well

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sib_agent.doctor.probe import ProbeOutcome
    from sib_agent.health import Snapshot
    from sib_agent.settings import AgentSettings
    from sib_protocol.identity import Identity
    from sib_protocol.units import UnitState

_LATE_SHARE: Final = 0.8
"""Of a certificate's life; renewal begins at two thirds of it."""

_CLOCK_WARNING: Final = 5.0
_CLOCK_FAILED: Final = 300.0
_SLOW: Final = 5.0


def judge_units(states: Sequence[UnitState] | None, settings: AgentSettings) -> list[Finding]:
    """Whether what should run does."""
    if states is None:
        return [skipped("units", "systemd does not run here")]
    wanted = {"agent": True, "falco": settings.falco.enabled, "alloy": settings.alloy.enabled}
    return [_judge_unit(state) for state in states if wanted.get(state.component, state.troubled)]


def _judge_unit(state: UnitState) -> Finding:
    logs = f"sib-agent logs {state.component}"
    if state.troubled:
        return failed(
            "units",
            f"{state.unit} has failed ({state.result})",
            f"{logs}; then systemctl restart {state.unit}",
        )
    if state.active != "active":
        return failed("units", f"{state.unit} is {state.active}", f"systemctl start {state.unit}")
    if state.restarts:
        return warning("units", f"{state.unit} was started {state.restarts} times again", logs)
    return well("units", f"{state.unit} is {state.detail}")


def judge_identity(identity: Identity, now: float) -> Finding:
    """Whether the certificate is good and renewed in time."""
    end = datetime.fromtimestamp(identity.not_after, timezone.utc)
    told = f"{identity.host_name}, certificate until {end:%Y-%m-%d %H:%M} UTC"
    if identity.not_after <= now:
        return failed("identity", f"{told}: it has ended", "sib-agent renew")
    if now < identity.not_before:
        return failed("identity", f"{told}: by this clock it has not begun", "set the clock right")
    life = max(1, identity.not_after - identity.issued)
    if (now - identity.issued) / life > _LATE_SHARE:
        return warning(
            "identity",
            f"{told}: it should have been renewed by now",
            "sib-agent renew; sib-agent logs agent",
        )
    return well("identity", told)


def judge_clock_difference(difference: float) -> Finding:
    """Whether host and server agree on the time.

    Args:
        difference: the server's clock minus the host's, seconds.
    """
    ahead = "behind" if difference > 0 else "ahead of"
    told = f"this clock is {abs(difference):.1f} s {ahead} the server's"
    cure = "set both right: 'timedatectl set-ntp true', or install chrony"
    if abs(difference) > _CLOCK_FAILED:
        return failed("clock", told, cure)
    if abs(difference) > _CLOCK_WARNING:
        return warning("clock", told, cure)
    return well("clock", told)


def judge_daemon(
    identity: Identity, snapshot: Snapshot | None, now: float, *, alive: bool
) -> list[Finding]:
    """What the daemon says of itself."""
    standing, problems = judge_standing(identity, snapshot, now, alive=alive)
    verdict = Verdict.FAILED if standing is Standing.STOPPED else Verdict.WARNING
    if problems:
        return [
            Finding("agent", verdict, *_split(problem, "sib-agent logs agent"))
            for problem in problems
        ]
    assert snapshot is not None  # noqa: S101  (without one it is stopped)
    spool = snapshot.report.spool
    waiting = spool.next - spool.acknowledged
    return [well("agent", f"{snapshot.lines_sent} lines sent, {waiting} waiting")]


def _split(problem: str, otherwise: str) -> tuple[str, str]:
    """A standing's problem may carry what to do behind a colon, in quotes."""
    text, _, cure = problem.rpartition(": ")
    if "'" in cure:
        return text, cure.partition("'")[2].partition("'")[0]
    return problem, otherwise


def judge_probe(outcome: ProbeOutcome, settings: AgentSettings, seconds: float) -> Finding:
    """How far an event came, and how fast."""
    waited = f"within {seconds:.0f} s"
    finding: Finding
    if outcome.written is None and outcome.problem is not None:
        finding = failed("event", f"no event could be made: {outcome.problem}", "run it as root")
    elif outcome.written is None:
        finding = failed(
            "event",
            f"Falco wrote nothing about a program that was started ({waited})"
            if outcome.by_falco
            else f"a line appended to {settings.events.file} was lost ({waited})",
            "sib-agent setup --check; sib-agent logs falco"
            if outcome.by_falco
            else "see who else takes lines from there",
        )
    elif outcome.spooled is None:
        finding = failed(
            "event",
            f"an event is in {settings.events.file}, and the agent did not take it ({waited})",
            "sib-agent logs agent; the folder must be writable for the group sib-agent",
        )
    elif outcome.acknowledged is None:
        why = f": {outcome.problem}" if outcome.problem else ""
        finding = failed(
            "event",
            f"event {outcome.number} waits in the spool, not acknowledged ({waited}){why}",
            "it is safe there; sib-agent logs agent, and 'sib-server doctor' on the server",
        )
    else:
        begin = "Falco saw it after" if outcome.by_falco else "written in Falco's place, read after"
        told = (
            f"event {outcome.number}: {begin} {outcome.written:.2f} s, in the spool after"
            f" {outcome.spooled:.2f} s, at the server after {outcome.acknowledged:.2f} s"
        )
        finding = (
            warning("event", told, "see whether host, network and server are overloaded")
            if outcome.acknowledged > _SLOW
            else well("event", told)
        )
    return finding


def judge_unreadable(files: Sequence[Path], looked_at: int) -> Finding:
    """Whether Alloy may read the logs that it is to ship."""
    if not looked_at:
        return well("logs", "no log files match the settings' patterns; journald is read anyway")
    if files:
        folders = sorted({str(file.parent) for file in files})
        shown = ", ".join(map(str, files[:3])) + (", …" if len(files) > 3 else "")
        return warning(
            "logs",
            f"Alloy may not read {len(files)} of {looked_at} log files: {shown}",
            "; ".join(
                f"setfacl -R -m u:sib-agent:rX -m d:u:sib-agent:rX {folder}" for folder in folders
            ),
        )
    return well("logs", f"Alloy may read all {looked_at} log files")
