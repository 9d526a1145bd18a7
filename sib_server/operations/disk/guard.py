"""One round of the guard: measure, plan, write the decision down, say so where it is news."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import FileAccessError
from sib_protocol.events import Priority, sib_event
from sib_protocol.files import write_atomic
from sib_server.operations.accounts import acting_as, server_account
from sib_server.operations.disk.decision import (
    JOURNAL,
    LOKI,
    PROMETHEUS,
    Decision,
    StoreUse,
    is_news,
    overrides,
    read_decision,
)
from sib_server.operations.disk.measure import (
    file_system,
    measure_journal,
    measure_loki,
    measure_prometheus,
)
from sib_server.operations.disk.plan import Plan, Room, Store, make_plan, pinned
from sib_server.operations.disk.settings import DECISION, OVERRIDES

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from sib_server.operations.disk.settings import DiskSettings
    from sib_server.settings import ServerSettings

RULE: Final = "SIB disk guard"


def measure(settings: ServerSettings, sinks: Collection[str]) -> dict[str, tuple[Store, Path]]:
    """What there is on this machine: name -> (the store, its directory). Raises JournalError."""
    disk, journal = settings.disk, settings.journal.path
    with acting_as(server_account(journal.parent)):
        own = measure_journal(journal, sinks)
    found = {
        JOURNAL: (own, journal.parent),
        LOKI: (measure_loki(disk.loki_directory), disk.loki_directory),
        PROMETHEUS: (measure_prometheus(disk.prometheus_directory), disk.prometheus_directory),
    }
    return {name: (store, path) for name, (store, path) in found.items() if store is not None}


def rooms_of(
    disk: DiskSettings, stores: Sequence[Store], systems: Mapping[str, tuple[int, int, int]]
) -> list[Room]:
    """Which stores share which room. Pure.

    Args:
        disk: the settings.
        stores: all.
        systems: store -> (device, total, free) of its file system.
    """
    rooms = []
    if disk.budget_bytes is not None:
        every = frozenset(store.name for store in stores)
        rooms.append(Room("disk.budget_bytes", every, disk.budget_bytes))
    for device in sorted({device for device, _, _ in systems.values()}):
        names = frozenset(name for name, system in systems.items() if system[0] == device)
        _, total, free = next(system for system in systems.values() if system[0] == device)
        on_disk = sum(store.on_disk for store in stores if store.name in names)
        # What they have and what is free stays the same sum, whatever they give up.
        capacity = min(int(total * disk.share), on_disk + free - disk.reserve_bytes)
        rooms.append(Room(f"the file system of {min(names)}", names, max(0, capacity)))
    return rooms


def decide(
    stores: Sequence[Store], rooms: Sequence[Room], *, free: int, now_ns: int, keep_ns: int
) -> Decision:
    """What each store is to give up. Pure.

    Prometheus' limits are flags, so at run time its bytes are fixed and the others make room; what
    its limit would have to be for its fair share is told.
    """
    keep_from_ns = now_ns - keep_ns
    fair = make_plan(stores, rooms, keep_from_ns=keep_from_ns)
    enforced = make_plan(
        [pinned(store) if store.name == PROMETHEUS else store for store in stores],
        rooms,
        keep_from_ns=keep_from_ns,
    )
    return Decision(
        time_ns=now_ns,
        capacity=min((room.capacity for room in rooms), default=0),
        free=free,
        stores=tuple(_use(store, enforced) for store in stores),
        over=dict(enforced.over),
        prometheus_bytes=next(
            (
                store.kept(fair.cuts[PROMETHEUS])
                for store in stores
                if store.name == PROMETHEUS and PROMETHEUS in fair.cuts
            ),
            None,
        ),
    )


def _use(store: Store, plan: Plan) -> StoreUse:
    return StoreUse(
        name=store.name,
        used=store.used,
        slack=store.slack,
        undelivered=store.pinned if store.name == JOURNAL else 0,
        cut_ns=plan.cuts.get(store.name),
    )


def run_guard(
    settings: ServerSettings, sinks: Collection[str], *, now_ns: int | None = None
) -> tuple[Decision, Decision | None]:
    """Measure and decide; changes nothing.

    Returns:
        The decision, and the one before.

    Raises:
        JournalError: the journal cannot be read.
    """
    disk = settings.disk
    found = measure(settings, sinks)
    stores = [store for store, _ in found.values()]
    systems = {
        name: system
        for name, (_, path) in found.items()
        if (system := file_system(path)) is not None
    }
    decision = decide(
        stores,
        rooms_of(disk, stores, systems),
        free=systems[JOURNAL][2] if JOURNAL in systems else 0,
        now_ns=time.time_ns() if now_ns is None else now_ns,
        keep_ns=disk.keep_ns,
    )
    return decision, read_decision(disk.directory)


def enforce(settings: ServerSettings, decision: Decision, before: Decision | None) -> bytes | None:
    """Write a decision down, for the server and Loki to go by.

    Returns:
        The event that tells of it, where it is news.

    Raises:
        FileAccessError: the directory cannot be written.
    """
    directory = settings.disk.directory
    wanted = overrides(decision, settings.stack.loki.retention_days, decision.time_ns)
    try:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        place = directory / OVERRIDES
        # Loki loads it again whenever its content changes.
        if not place.exists() or place.read_bytes() != wanted:
            write_atomic(place, wanted, 0o644)
        write_atomic(directory / DECISION, msgspec.json.encode(decision), 0o644)
    except OSError as error:
        raise FileAccessError(
            directory, error.strerror or str(error), "run this as root, or see disk.directory"
        ) from error
    return event(decision) if is_news(before, decision) else None


def event(decision: Decision) -> bytes:
    """The event that tells what is given up early, or what does not fit."""
    parts = [
        f"{name}: what is older than {_days(decision.time_ns - cut)} goes before its time"
        for name, cut in sorted(decision.shortened.items())
    ]
    parts += [
        f"{name} is {size} bytes over, and all that may go is gone"
        for name, size in sorted(decision.over.items())
    ]
    fields: dict[str, str | int] = {
        "sib.capacity_bytes": decision.capacity,
        "sib.free_bytes": decision.free,
    }
    for store in decision.stores:
        fields[f"sib.{store.name}_bytes"] = store.used
    return sib_event(
        rule=RULE,
        priority=Priority.CRITICAL if decision.over else Priority.WARNING,
        time_ns=decision.time_ns,
        output=f"The disk is too small for what is to be kept. {'; '.join(parts)}",
        fields=fields,
    )


def _days(nanoseconds: int) -> str:
    return f"{nanoseconds / (24 * 3600 * 10**9):.1f} days"
