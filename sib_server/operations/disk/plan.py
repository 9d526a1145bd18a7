"""What to give up for room. Pure.

Invariant: whatever goes is older than everything that stays in the same room, unless it cannot go:
because it is younger than what is kept in any case, because a sink has not had it, or because the
store gives no room back. And no more goes than is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a store that can go as a whole.

    Attributes:
        end_ns: time of the newest that is in it, nanoseconds since 1970 UTC.
        size: bytes.
    """

    end_ns: int
    size: int


@dataclass(frozen=True, slots=True)
class Store:
    """What a store takes.

    Attributes:
        name: its name.
        pieces: what can go, in any order.
        pinned: bytes that cannot: not yet delivered, indices, what is being written.
        slack: bytes of its files that are free inside and used again by itself alone.
        shrinks: whether its files get smaller when something goes.
    """

    name: str
    pieces: tuple[Piece, ...]
    pinned: int = 0
    slack: int = 0
    shrinks: bool = True

    @property
    def used(self) -> int:
        """Bytes in use."""
        return self.pinned + sum(piece.size for piece in self.pieces)

    @property
    def on_disk(self) -> int:
        """Bytes of its files."""
        return self.used + self.slack

    def kept(self, cut_ns: int | None) -> int:
        """Bytes in use once everything before a time is gone."""
        if cut_ns is None:
            return self.used
        return self.pinned + sum(piece.size for piece in self.pieces if piece.end_ns >= cut_ns)


@dataclass(frozen=True, slots=True)
class Room:
    """Some stores that share room.

    Attributes:
        name: for people: the budget, or a file system.
        stores: names.
        capacity: bytes, for all of them.
    """

    name: str
    stores: frozenset[str]
    capacity: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to go.

    Attributes:
        cuts: store -> everything that ended before this time goes, nanoseconds since 1970 UTC;
            stores that lose nothing are not in it.
        over: rooms that are too small even so, by how many bytes.
    """

    cuts: Mapping[str, int]
    over: Mapping[str, int]


def find_cut(pieces: Iterable[Piece], capacity: int) -> int | None:
    """Before which time everything has to go, so that the rest fits.

    Pieces of the same time go or stay together.

    Returns:
        Nanoseconds since 1970 UTC; ``None`` where all fits.
    """
    left = capacity
    for piece in sorted(pieces, key=lambda piece: -piece.end_ns):
        left -= piece.size
        if left < 0:
            return piece.end_ns + 1
    return None


def make_plan(stores: Sequence[Store], rooms: Sequence[Room], *, keep_from_ns: int) -> Plan:
    """Make room.

    Args:
        stores: all.
        rooms: each store may be in several.
        keep_from_ns: what ended at or after this time stays in any case.
    """
    cuts: dict[str, int] = {}
    over: dict[str, int] = {}
    for room in rooms:
        members = [store for store in stores if store.name in room.stores]
        shrinking = [store for store in members if store.shrinks]
        together = find_cut(_pieces(members), room.capacity - sum(s.pinned for s in members))
        # A store that keeps its file leaves the others what its file does not take.
        fixed = sum(store.on_disk for store in members if not store.shrinks)
        others = find_cut(
            _pieces(shrinking), room.capacity - fixed - sum(s.pinned for s in shrinking)
        )
        for store in members:
            wanted = [together, others] if store.shrinks else [together]
            cut = max((min(cut, keep_from_ns) for cut in wanted if cut is not None), default=None)
            if cut is not None and any(piece.end_ns < cut for piece in store.pieces):
                cuts[store.name] = max(cut, cuts.get(store.name, cut))
    for room in rooms:
        members = [store for store in stores if store.name in room.stores]
        left = sum(store.kept(cuts.get(store.name)) for store in members)
        if left > room.capacity:
            over[room.name] = left - room.capacity
    return Plan(cuts, over)


def _pieces(stores: Iterable[Store]) -> list[Piece]:
    return [piece for store in stores for piece in store.pieces]


def pinned(store: Store) -> Store:
    """A store as one of which nothing can go."""
    return Store(store.name, (), store.used, store.slack, store.shrinks)


def gather(sizes: Iterable[tuple[int, int]], step_ns: int) -> tuple[Piece, ...]:
    """Pieces of many (time, bytes), one for each step of time; each ends with its step."""
    found: dict[int, int] = {}
    for time_ns, size in sizes:
        step = time_ns // step_ns
        found[step] = found.get(step, 0) + size
    return tuple(
        Piece((step + 1) * step_ns - 1, size) for step, size in sorted(found.items()) if size
    )
