"""The pages of a journal's file and of its write-ahead log, read without SQLite."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_server.events.schema import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

_WAL_HEADER: Final = 32
_FRAME_HEADER: Final = 24


class RawPages:
    """A file of pages, each after a header of a fixed size; a last part of a page is filled up.

    Use as a context manager.
    """

    def __init__(self, path: Path, *, skip: int = 0, header: int = 0) -> None:
        self._path = path
        self._skip = skip
        self._header = header
        self._descriptor = -1
        self.count = 0

    def __enter__(self) -> RawPages:
        self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        size = os.fstat(self._descriptor).st_size - self._skip
        step = PAGE_SIZE + self._header
        self.count = max(0, -(-size // step))
        return self

    def __exit__(self, *_exception: object) -> None:
        os.close(self._descriptor)

    def _read(self, index: int) -> bytes:
        step = PAGE_SIZE + self._header
        return os.pread(self._descriptor, step, self._skip + index * step)

    def page(self, index: int) -> bytes | None:
        """The page at an index from 0; ``None`` beyond the end."""
        if not 0 <= index < self.count:
            return None
        return self._read(index)[self._header :].ljust(PAGE_SIZE, b"\0")

    def header(self, index: int) -> bytes:
        """What stands before the page at an index."""
        return self._read(index)[: self._header]


class WalPages:
    """The frames of a write-ahead log, also of those that SQLite would not read any more."""

    def __init__(self, pages: RawPages) -> None:
        self._pages = pages
        self._latest: dict[int, int] = {}
        for index in range(pages.count):
            self._latest[int.from_bytes(pages.header(index)[:4], "big")] = index

    def fetch(self, number: int) -> bytes | None:
        """The last version of a page, by its number in the database; ``None`` where none is."""
        index = self._latest.get(number)
        return None if index is None else self._pages.page(index)

    def all(self) -> Iterator[bytes]:
        """Every frame's page, in the order of writing."""
        for index in range(self._pages.count):
            page = self._pages.page(index)
            if page is not None:
                yield page


def wal_path(path: Path) -> Path:
    """Where SQLite keeps a database's write-ahead log."""
    return path.with_name(path.name + "-wal")


def open_database(path: Path) -> RawPages:
    """The database's own pages."""
    return RawPages(path)


def open_wal(path: Path) -> RawPages:
    """The frames of the database's log; none where there is no log."""
    log = wal_path(path)
    return RawPages(
        log if log.exists() else Path(os.devnull), skip=_WAL_HEADER, header=_FRAME_HEADER
    )
