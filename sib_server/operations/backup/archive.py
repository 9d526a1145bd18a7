"""The archive inside a backup: a gzipped tar of plain files, the manifest first.

Any ``tar`` reads it. We read only what we wrote: each header must be the one that the manifest
leads to expect, so that no link, no device and no size of tar's own extensions is ever looked at.
"""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from sib_server.operations.backup.errors import ArchiveRefusedError, ChangedMeanwhileError
from sib_server.operations.backup.manifest import (
    MANIFEST,
    MAX_MANIFEST_BYTES,
    Manifest,
    parse_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from sib_server.operations.backup.manifest import Entry

_BLOCK: Final = 512
_CHUNK: Final = 256 * 1024
_USTAR_LARGEST: Final = 8**11


class Readable(Protocol):
    """What bytes come from."""

    def read(self, size: int, /) -> bytes:
        """At most so many; none at the end."""


class GeneratedReader:
    """A file to read from, made of chunks as they come.

    Args:
        chunks: never empty ones.
    """

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = memoryview(b"")

    def read(self, size: int = -1, /) -> bytes:
        """At most ``size`` bytes; all without."""
        if size < 0:
            return bytes(self._left) + b"".join(self._chunks)
        if not self._left:
            self._left = memoryview(next(self._chunks, b""))
        taken, self._left = self._left[:size], self._left[size:]
        return bytes(taken)


def _header(name: str, size: int, mode: int, mtime: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, mode, mtime
    # GNU's form of a size above 8 GiB is still one header, and every tar reads it.
    if size < _USTAR_LARGEST:
        return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def fits_header(name: str) -> bool:
    """Whether a path fits into a plain header: 100 bytes, and 155 more before a slash."""
    try:
        _header(name, 0, 0, 0)
    except (ValueError, UnicodeEncodeError):
        return False
    return True


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _tar(manifest: Manifest, open_entry: Callable[[Entry], BinaryIO]) -> Iterator[bytes]:
    mtime = manifest.taken_ns // 10**9
    text = msgspec.json.encode(manifest)
    yield _header(MANIFEST, len(text), 0o600, mtime) + text + _padding(len(text))
    for entry in manifest.entries:
        yield _header(entry.path, entry.size, entry.mode, mtime)
        left = entry.size
        with open_entry(entry) as source:
            while left:
                chunk = source.read(min(left, _CHUNK))
                if not chunk:
                    raise ChangedMeanwhileError(entry.path)
                left -= len(chunk)
                yield chunk
        yield _padding(entry.size)
    yield bytes(2 * _BLOCK)


def write_archive(
    manifest: Manifest, open_entry: Callable[[Entry], BinaryIO], *, level: int = 3
) -> Iterator[bytes]:
    """The archive's bytes, in chunks.

    Args:
        manifest: what goes in.
        open_entry: opens a file's copy.
        level: gzip's.

    Raises:
        ChangedMeanwhileError: a copy is shorter than the manifest says.
    """
    compressor = zlib.compressobj(level, wbits=31)
    for chunk in _tar(manifest, open_entry):
        compressed = compressor.compress(chunk)
        if compressed:
            yield compressed
    yield compressor.flush()


class ArchiveReader:
    """Reads an archive from its beginning to its end.

    Args:
        source: decrypted bytes, which may still be anything.

    Raises:
        ArchiveRefusedError: from every method, when they are not what they should be.
    """

    def __init__(self, source: BinaryIO) -> None:
        self._tar = gzip.GzipFile(fileobj=source, mode="rb")
        self._waiting: Iterator[Entry] = iter(())
        name, size = self._next_header()
        if name != MANIFEST or size > MAX_MANIFEST_BYTES:
            raise ArchiveRefusedError("it does not begin with a manifest")
        self.manifest = parse_manifest(b"".join(self._content(size)))
        self._waiting = iter(self.manifest.entries)

    def next_entry(self, take: Callable[[bytes], object]) -> Entry | None:
        """Hand the next file's content over, in chunks.

        The chunks are verified only when this returns: what was done with them before counts for
        nothing if it raises.

        Returns:
            The file; ``None`` after the last, when the archive was read to its end.
        """
        entry = next(self._waiting, None)
        if entry is None:
            self._finish()
            return None
        if self._next_header() != (entry.path, entry.size):
            raise ArchiveRefusedError(f"{entry.path!r} is not where it should be")
        digest = hashlib.sha256()
        for chunk in self._content(entry.size):
            digest.update(chunk)
            take(chunk)
        if digest.hexdigest() != entry.sha256:
            raise ArchiveRefusedError(f"{entry.path!r} is not what was backed up")
        return entry

    def _next_header(self) -> tuple[str, int]:
        block = self._read(_BLOCK)
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, UnicodeDecodeError) as error:
            raise ArchiveRefusedError(f"it is no tar of SIB's ({error})") from error
        if info.type != tarfile.REGTYPE or info.linkname:
            raise ArchiveRefusedError(f"{info.name[:120]!r} is no plain file")
        return info.name, info.size

    def _content(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            chunk = self._read(min(left, _CHUNK))
            left -= len(chunk)
            yield chunk
        if self._read(-size % _BLOCK).strip(b"\0"):
            raise ArchiveRefusedError("there is something between its files")

    def _finish(self) -> None:
        if self._read(2 * _BLOCK).strip(b"\0") or self._some(1):
            raise ArchiveRefusedError("there is something behind its last file")

    def _read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        parts = []
        while size:
            part = self._some(size)
            if not part:
                raise ArchiveRefusedError("it ends in the middle")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        try:
            return self._tar.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ArchiveRefusedError(f"it is damaged ({error})") from error
