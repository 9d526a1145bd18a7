"""What the doctor says of the disk guard's decision. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sib_protocol.checks import Finding, failed, skipped, warning, well
from sib_protocol.machine import size
from sib_server.operations.disk.decision import JOURNAL

if TYPE_CHECKING:
    from sib_server.operations.disk.decision import Decision

_STALE_NS: Final = 20 * 60 * 10**9
_DAY_NS: Final = 24 * 3600 * 10**9
_PERIOD: Final = re.compile(rb"(?m)^retention_period: *(\S+) *$")
_PART: Final = re.compile(r"(\d+)(y|w|d|h|ms|m|s)")
_HOURS: Final = {"y": 8760.0, "w": 168.0, "d": 24.0, "h": 1.0, "m": 1 / 60, "s": 1 / 3600, "ms": 0}
_ROOM: Final = "give the machine a larger disk, or keep less (disk.*, journal.retention_days)"


def judge_disk_use(decision: Decision | None, now_ns: int) -> list[Finding]:
    """How the stores fit into their room.

    Args:
        decision: the guard's last; ``None`` where there is none.
        now_ns: nanoseconds since 1970 UTC.
    """
    if decision is None:
        return [
            skipped(
                "disk-guard",
                "the disk guard has not looked yet",
                "systemctl enable --now sib-server-disk-guard.timer",
            )
        ]
    findings = []
    used = sum(store.used for store in decision.stores)
    seen = f"{size(used)} of {size(decision.capacity)} are used"
    age = now_ns - decision.time_ns
    if age > _STALE_NS:
        findings.append(
            warning(
                "disk-guard",
                f"it looked {age / 60e9:.0f} minutes ago",
                "systemctl start sib-server-disk-guard.timer; 'sib-server logs disk-guard'",
            )
        )
    for room, amount in sorted(decision.over.items()):
        findings.append(
            failed(
                "disk-budget", f"{room}: {size(amount)} too much, all that may go is gone", _ROOM
            )
        )
    for name, cut_ns in sorted(decision.shortened.items()):
        findings.append(
            warning(
                f"disk-{name}",
                f"for want of room it keeps {(decision.time_ns - cut_ns) / _DAY_NS:.1f} days only",
                _ROOM,
            )
        )
    journal = decision.store(JOURNAL)
    if journal is not None and journal.slack > max(journal.used, decision.capacity // 4):
        findings.append(
            warning(
                "disk-journal-slack",
                f"{size(journal.slack)} of the journal's file are free inside",
                "it uses them again; to give them back: stop the server, 'sib-server journal"
                " salvage OLD NEW', and put NEW in OLD's place",
            )
        )
    if decision.prometheus_bytes is not None:
        findings.append(
            warning(
                "disk-prometheus",
                "it takes more than its share, and the others make room for it",
                f"set stack.prometheus.retention_bytes to {decision.prometheus_bytes};"
                " 'sib-server setup'",
            )
        )
    return findings or [well("disk-guard", seen)]


def judge_loki_limits(wanted_hours: int, limits: bytes) -> Finding:
    """Whether Loki took up how long it is to keep.

    Args:
        wanted_hours: by the guard's decision.
        limits: Loki's page of the limits in force for one tenant, YAML.
    """
    check = "disk-loki-limit"
    found = _PERIOD.search(limits)
    parts = _PART.findall(found[1].decode("utf-8", "replace")) if found else []
    if not parts:
        return warning(
            check, "Loki does not say how long it keeps", "is its version one that SIB ships?"
        )
    hours = sum(int(number) * _HOURS[unit] for number, unit in parts)
    if hours > wanted_hours:
        return failed(
            check,
            f"Loki still keeps {hours:.0f} hours, the disk guard wants {wanted_hours}",
            "it looks every ten seconds; 'sib-server logs loki' says why it does not take it up",
        )
    return well(check, f"Loki keeps {hours:.0f} hours")
