"""The guard's decision, as a file: root writes it, the server and the doctor go by it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import UNDECODABLE
from sib_server.events.retention import RetentionPolicy
from sib_server.operations.disk.settings import DECISION
from sib_server.stack.loki import TENANT

if TYPE_CHECKING:
    from pathlib import Path

JOURNAL: Final = "journal"
LOKI: Final = "loki"
PROMETHEUS: Final = "prometheus"
_MAX_BYTES: Final = 64 * 1024
_log: Final = logging.getLogger(__name__)


class StoreUse(msgspec.Struct, frozen=True):
    """What a store takes, and what it is to give up.

    Attributes:
        name: journal, loki or prometheus.
        used: bytes in use.
        slack: bytes free inside of its files.
        undelivered: bytes that a sink has not had; they stay.
        cut_ns: what is older goes, nanoseconds since 1970 UTC; ``None``: nothing goes early.
    """

    name: str
    used: int
    slack: int
    undelivered: int
    cut_ns: int | None


class Decision(msgspec.Struct, frozen=True):
    """What the guard found and decided.

    Attributes:
        time_ns: when, nanoseconds since 1970 UTC.
        capacity: the smallest room, bytes.
        free: bytes free on the journal's file system.
        stores: each of them.
        over: room -> bytes too many, also after everything that may go is gone.
        prometheus_bytes: what Prometheus' own limit would have to be for its fair share; ``None``
            where it is small enough.
    """

    time_ns: int
    capacity: int
    free: int
    stores: tuple[StoreUse, ...]
    over: dict[str, int]
    prometheus_bytes: int | None = None

    def store(self, name: str) -> StoreUse | None:
        """One store, or ``None``."""
        return next((store for store in self.stores if store.name == name), None)

    @property
    def shortened(self) -> dict[str, int]:
        """Stores that give something up early -> before which time."""
        return {store.name: store.cut_ns for store in self.stores if store.cut_ns is not None}


def read_decision(directory: Path) -> Decision | None:
    """The last decision; ``None`` where there is none that can be read."""
    try:
        with (directory / DECISION).open("rb") as opened:
            return msgspec.json.decode(opened.read(_MAX_BYTES), type=Decision)
    except FileNotFoundError:
        return None
    except (OSError, *UNDECODABLE) as error:
        _log.warning("%s cannot be used: %s", directory / DECISION, error)
        return None


def tighten(
    policy: RetentionPolicy, decision: Decision | None, *, now_ns: int, keep_ns: int
) -> RetentionPolicy:
    """The journal's policy under a decision. Pure.

    Args:
        policy: of the settings.
        decision: the guard's.
        now_ns: nanoseconds since 1970 UTC.
        keep_ns: what is younger stays, whatever the decision says.
    """
    store = None if decision is None else decision.store(JOURNAL)
    if store is None or store.cut_ns is None:
        return policy
    age = max(now_ns - store.cut_ns, keep_ns)
    if policy.max_age_ns is not None:
        age = min(age, policy.max_age_ns)
    return RetentionPolicy(age, policy.max_bytes)


def loki_hours(decision: Decision, retention_days: int, now_ns: int) -> int | None:
    """How long the local Loki is to keep under a decision, hours; ``None``: as it is set. Pure.

    Args:
        decision: the guard's.
        retention_days: what Loki keeps by its own settings. Its compactor is late, so there may be
            older data, and a cut among them must not have Loki keep more.
        now_ns: nanoseconds since 1970 UTC.
    """
    store = decision.store(LOKI)
    if store is None or store.cut_ns is None:
        return None
    hours = max(24, (now_ns - store.cut_ns) // (3600 * 10**9))
    return hours if hours < retention_days * 24 else None


def overrides(decision: Decision, retention_days: int, now_ns: int) -> bytes:
    """The local Loki's runtime configuration under a decision: YAML, as JSON is. Pure.

    Args:
        decision: the guard's.
        retention_days: what Loki keeps by its own settings.
        now_ns: nanoseconds since 1970 UTC.
    """
    hours = loki_hours(decision, retention_days, now_ns)
    # Whatever tenant is sent, it is this one: the local Loki has none.
    limits = {} if hours is None else {TENANT: {"retention_period": f"{hours}h"}}
    return msgspec.json.encode({"overrides": limits}) + b"\n"


def is_news(before: Decision | None, now: Decision) -> bool:
    """Whether a decision is worth an event: something begins to be given up early, or to be over.

    Not each time a little more goes: a disk that is full for a week is one piece of news.
    """
    known = set() if before is None else {*before.shortened, *before.over}
    return bool({*now.shortened, *now.over} - known)
