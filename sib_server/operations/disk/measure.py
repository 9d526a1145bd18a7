"""What the stores take, found on disk."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import UNDECODABLE
from sib_server.events.failures import JournalMissingError
from sib_server.events.meta import read_cursors, read_minutes
from sib_server.events.retention import used_bytes
from sib_server.events.schema import open_for_reading
from sib_server.operations.disk.decision import JOURNAL, LOKI, PROMETHEUS
from sib_server.operations.disk.plan import Piece, Store, gather
from sib_server.operations.disk.settings import HOUR_NS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterator

_CHUNKS: Final = "chunks"
_MAX_META: Final = 1024 * 1024
_MINUTE_NS: Final = 60 * 10**9


class _BlockMeta(msgspec.Struct):
    """What is wanted of a block's meta.json; times in milliseconds."""

    maxTime: int  # noqa: N815  (Prometheus' word)


def measure_journal(path: Path, sinks: Collection[str]) -> Store | None:
    """The journal; ``None`` without one.

    Events are counted by the minute and taken to be of one size: exact enough to say how far back
    a given room reaches.

    Args:
        path: its file.
        sinks: those that events must have reached.

    Raises:
        JournalError: it cannot be read.
    """
    try:
        connection = open_for_reading(path)
    except JournalMissingError:
        return None
    try:
        connection.execute("BEGIN")
        pieces, undelivered = _journal_pieces(connection, sinks)
        used = used_bytes(connection)
    finally:
        connection.close()
    on_disk = sum(
        file.stat().st_size for file in (path, path.with_name(f"{path.name}-wal")) if file.exists()
    )
    # Indices and what the event rows do not account for stay with the undelivered.
    waiting = max(0, used - sum(piece.size for piece in pieces)) if undelivered else 0
    return Store(JOURNAL, pieces, waiting, max(0, on_disk - used), shrinks=False)


def _journal_pieces(
    connection: sqlite3.Connection, sinks: Collection[str]
) -> tuple[tuple[Piece, ...], int]:
    first, last = connection.execute("SELECT min(seq), max(seq) FROM events").fetchone()
    if last is None:
        return (), 0
    each = used_bytes(connection) / (last - first + 1)
    cursors = read_cursors(connection)
    delivered = min((cursors.get(sink, 0) for sink in sinks), default=last)
    sizes = []
    for minute in read_minutes(connection):
        if minute is None:
            continue
        at, low, high = minute
        count = min(high, delivered) - max(low, first) + 1
        if count > 0:
            sizes.append((at * _MINUTE_NS, int(count * each)))
    return gather(sizes, HOUR_NS), max(0, last - max(delivered, first - 1))


def measure_loki(directory: Path) -> Store | None:
    """A Loki on the file system; ``None`` without one. Its chunks can go, the rest cannot."""
    if not directory.is_dir():
        return None
    chunks: list[tuple[int, int]] = []
    rest = 0
    for path, status in _files(directory):
        if _CHUNKS in path.relative_to(directory).parts[:-1]:
            # Written when the newest line in it was at most an hour or two old.
            chunks.append((status.st_mtime_ns, _allocated(status)))
        else:
            rest += _allocated(status)
    return Store(LOKI, gather(chunks, HOUR_NS), rest)


def measure_prometheus(directory: Path) -> Store | None:
    """A Prometheus; ``None`` without one. Its blocks can go, the head and its log cannot."""
    if not directory.is_dir():
        return None
    pieces = []
    blocks: set[Path] = set()
    for meta in sorted(directory.glob("*/meta.json")):
        try:
            with meta.open("rb") as opened:
                end_ms = msgspec.json.decode(opened.read(_MAX_META), type=_BlockMeta).maxTime
        except (OSError, *UNDECODABLE):
            continue
        blocks.add(meta.parent)
        size = sum(_allocated(status) for _, status in _files(meta.parent))
        pieces.append(Piece(end_ms * 10**6, size))
    rest = sum(
        _allocated(status)
        for path, status in _files(directory)
        if not blocks.intersection(path.parents)
    )
    return Store(PROMETHEUS, tuple(pieces), rest)


def _files(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for folder, _folders, files in os.walk(directory, followlinks=False):
        for name in files:
            path = Path(folder) / name
            try:
                yield path, path.lstat()
            except FileNotFoundError:
                continue  # the store works meanwhile


def _allocated(status: os.stat_result) -> int:
    return status.st_blocks * 512


def file_system(path: Path) -> tuple[int, int, int] | None:
    """(device, total bytes, free bytes) of where a path is; ``None`` where it is not."""
    try:
        device = path.stat().st_dev
        usage = shutil.disk_usage(path)
    except OSError:
        return None
    return device, usage.total, usage.free
