"""Giving up the oldest events, by age and by size, but none that a sink still needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_server.events.meta import read_cursors, write_meta

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection

    from sib_server.events.journal import Journal

_STEP_EVENTS: Final = 500
_STEP_BYTES: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What to keep.

    Attributes:
        max_age_ns: events received longer ago than this go; ``None``: age does not matter.
        max_bytes: when the file's pages in use take more than this, the oldest events go;
            ``None``: size does not matter.
    """

    max_age_ns: int | None
    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class PruneStep:
    """What one step did.

    Attributes:
        pruned: how many events it gave up.
        more: whether another step is worth it now.
        held_back: whether events that are due are kept because a sink has not delivered them.
    """

    pruned: int
    more: bool
    held_back: bool


def plan_prune(
    oldest: list[tuple[int, int, int | None]],
    policy: RetentionPolicy,
    *,
    now_ns: int,
    used_bytes: int,
    kept_from: int,
) -> tuple[int, bool]:
    """How many of the oldest events to give up.

    Args:
        oldest: (place, received_ns, bytes) of the oldest events, in order.
        policy: what to keep.
        now_ns: the server's clock.
        used_bytes: what the file uses.
        kept_from: events at or above this place are kept in any case.

    Returns:
        How many, and whether ``kept_from`` was what ended it.
    """
    count = size = 0
    for seq, received_ns, length in oldest:
        old = policy.max_age_ns is not None and received_ns < now_ns - policy.max_age_ns
        large = policy.max_bytes is not None and used_bytes - size > policy.max_bytes
        if not (old or large) or size >= _STEP_BYTES:
            return count, False
        if seq >= kept_from:
            return count, True
        count += 1
        size += length or 0
    return count, False


def used_bytes(connection: sqlite3.Connection) -> int:
    """What the file's pages in use take; free pages are used again before it grows."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (page_size,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * page_size)


def prune_step(
    journal: Journal, policy: RetentionPolicy, *, sinks: Collection[str], now_ns: int
) -> PruneStep:
    """Give up at most 500 events or 4 MiB of the oldest, in one transaction of its own.

    The newest event always stays, so that the next one's place is known to be new.

    Args:
        journal: in the writer's thread (``JournalWriter.run``).
        policy: what to keep.
        sinks: those that events must have reached; one without a cursor holds everything.
        now_ns: the server's clock.

    Raises:
        JournalError: nothing has changed.
    """
    with journal.transaction() as connection:
        oldest = connection.execute(
            "SELECT seq, received_ns, length(line) FROM events ORDER BY seq LIMIT ?",
            (_STEP_EVENTS,),
        ).fetchall()
        (newest,) = connection.execute("SELECT max(seq) FROM events").fetchone()
        cursors = read_cursors(connection)
        delivered = min((cursors.get(sink, 0) for sink in sinks), default=newest or 0)
        count, held_back = plan_prune(
            oldest,
            policy,
            now_ns=now_ns,
            used_bytes=used_bytes(connection),
            kept_from=min(delivered + 1, newest or 0),
        )
        if count:
            last = oldest[count - 1][0]
            connection.execute("DELETE FROM events WHERE seq <= ?", (last,))
            connection.execute("DELETE FROM minutes WHERE last_seq <= ?", (last,))
            # A salvage must not bring back what lies on in the free pages.
            write_meta(connection, "pruned", str(last))
    more = count == _STEP_EVENTS or (count > 0 and not held_back)
    return PruneStep(count, more, held_back and (newest or 0) > delivered)
