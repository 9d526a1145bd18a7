"""How the agent is, judged from what it wrote down."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sib_agent.health import Snapshot
from sib_protocol.errors import UNDECODABLE, FileAccessError
from sib_protocol.messages import BundleOutcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_protocol.identity import Identity
    from sib_protocol.messages import BundleEnd, BundleHealth
    from sib_protocol.units import UnitState

_FRESH_SECONDS: Final = 30.0
_QUOTA_WARNING: Final = 0.8
_MAX_FILE: Final = 256 * 1024


class Standing(Enum):
    """How an agent is."""

    WELL = "well"
    TROUBLED = "troubled"
    STOPPED = "stopped"


def load_snapshot(path: Path) -> Snapshot | None:
    """The daemon's last snapshot; ``None`` if there is none, or another version's.

    Raises:
        FileAccessError: it is not ours to read.
    """
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_FILE), type=Snapshot)
    except (FileNotFoundError, NotADirectoryError, *UNDECODABLE):
        return None
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error), "run it as root") from error


def is_alive(pid: int) -> bool:
    """Whether a process of this number is there."""
    return Path(f"/proc/{pid}").exists()


def judge_standing(
    identity: Identity, snapshot: Snapshot | None, now: float, *, alive: bool = True
) -> tuple[Standing, list[str]]:
    """What to say of an agent.

    Args:
        identity: in force.
        snapshot: the daemon's last one.
        now: seconds since 1970 UTC.
        alive: whether the snapshot's process is there.

    Returns:
        The standing, and each problem with what to do about it.
    """
    problems = []
    if identity.not_after <= now:
        problems.append("the certificate has ended: run 'sib-agent renew'")
    # The status file's time is the same clock's, unless that was set in between.
    if snapshot is None or not alive or abs(now - snapshot.written) > _FRESH_SECONDS:
        problems.append("the daemon does not run: 'systemctl start sib-agent'")
        return Standing.STOPPED, problems
    report = snapshot.report
    if snapshot.link != "connected":
        problems.append(snapshot.link_problem or "no answer from the server yet")
    if snapshot.renewal_problem:
        problems.append(f"the certificate cannot be renewed: {snapshot.renewal_problem}")
    if report.source_problem:
        problems.append(f"Falco's events file: {report.source_problem}")
    if report.spool.problem:
        problems.append(f"the spool: {report.spool.problem}")
    if report.spool.bytes > _QUOTA_WARNING * report.spool.quota:
        problems.append("the spool is nearly full: its oldest lines will be given up")
    problems += bundle_problems(report.bundle)
    return (Standing.TROUBLED if problems else Standing.WELL), problems


def bundle_problems(bundle: BundleHealth | None) -> list[str]:
    """What a person should know of the host's bundle."""
    if bundle is None:
        return []
    kept = [f"new bundles may be kept from this host: {bundle.withheld}"] if bundle.withheld else []
    return kept + ([] if bundle.ended is None else _end_problems(bundle.ended))


def _end_problems(ended: BundleEnd) -> list[str]:
    if ended.outcome is BundleOutcome.UNPROVEN:
        return [f"bundle {ended.version} could not be proven: {ended.reason}"]
    if ended.outcome is BundleOutcome.REFUSED:
        return [f"bundle {ended.version} was refused: {ended.reason}"]
    if ended.outcome is BundleOutcome.ROLLED_BACK:
        return [f"bundle {ended.version} was taken back: {ended.reason}"]
    return []


def judge_units(
    standing: Standing, problems: Sequence[str], units: Sequence[UnitState]
) -> tuple[Standing, list[str]]:
    """What to say of an agent whose host's other units are in trouble.

    Args:
        standing: of the agent itself.
        problems: its own.
        units: of this host.
    """
    more = [
        f"{unit.unit} failed ({unit.result}): 'sib-agent logs {unit.component}'"
        for unit in units
        if unit.troubled
    ]
    if more and standing is Standing.WELL:
        standing = Standing.TROUBLED
    return standing, [*problems, *more]
