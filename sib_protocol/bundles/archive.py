"""The archive that a part of a bundle is: gzip around a plain ustar archive of regular files.

The same files always make the same bytes, so that a part that did not change is recognised by its
digest. Reading is by a strict reader of our own and not by :mod:`tarfile`: what an archive may hold
is so little (small regular files with plain names) that everything else is refused rather than
understood. An archive has been verified by TUF before it is read; this is for the day when the
server itself was taken over.
"""

from __future__ import annotations

import gzip
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Mapping

_BLOCK: Final = 512
_NAME: Final = re.compile(r"(rules|drills)/[A-Za-z0-9][A-Za-z0-9._+-]{0,79}\.yaml")
_LEVEL: Final = 9


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """How much an archive may hold.

    Attributes:
        packed: bytes of the archive itself.
        unpacked: bytes after decompression, headers included.
        file: bytes of one file.
        files: how many files.
    """

    packed: int = 16 * 1024 * 1024
    unpacked: int = 64 * 1024 * 1024
    file: int = 16 * 1024 * 1024
    files: int = 2000


LIMITS: Final = ArchiveLimits()
"""What a host takes and a server publishes."""


class ArchiveError(SibError):
    """An archive that is not one of a bundle, or a file that cannot be in one."""

    exit_code = ExitCode.UNTRUSTED

    def __init__(self, reason: str) -> None:
        super().__init__(f"not a bundle's archive: {reason}")
        self.reason = reason


def check_name(name: str) -> str:
    """Whether a file may have this name: ``rules/NAME.yaml`` or ``drills/NAME.yaml``.

    Raises:
        ArchiveError: it may not.
    """
    if not _NAME.fullmatch(name):
        raise ArchiveError(f"{name[:120]!r} is not a file's name in a bundle")
    return name


def pack(files: Mapping[str, bytes], limits: ArchiveLimits = LIMITS) -> bytes:
    """Make the archive of some files; the same files make the same bytes.

    Raises:
        ArchiveError: a name that cannot be, or more than fits.
    """
    blocks = []
    for name in sorted(files):
        content = files[name]
        blocks += [_header(check_name(name), len(content)), content, _padding(len(content))]
    blocks.append(bytes(2 * _BLOCK))
    packed = gzip.compress(b"".join(blocks), _LEVEL, mtime=0)
    # Whoever publishes learns what a host would say, before a host says it.
    unpack(packed, limits)
    return packed


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _header(name: str, size: int) -> bytes:
    fields = (
        name.encode().ljust(100, b"\0"),
        b"0000644\0",
        b"0000000\0",
        b"0000000\0",
        b"%011o\0" % size,
        b"%011o\0" % 0,
        b" " * 8,
        b"0",
        bytes(100),
        b"ustar\x0000",
    )
    header = b"".join(fields).ljust(_BLOCK, b"\0")
    return header[:148] + b"%06o\0 " % sum(header) + header[156:]


def unpack(packed: bytes, limits: ArchiveLimits = LIMITS) -> dict[str, bytes]:
    """The files of an archive, by name.

    Raises:
        ArchiveError: anything but small regular files with plain names, each once.
    """
    if len(packed) > limits.packed:
        raise ArchiveError(f"it is larger than the {limits.packed} bytes allowed")
    data = _decompress(packed, limits.unpacked)
    files: dict[str, bytes] = {}
    place = 0
    while True:
        header = data[place : place + _BLOCK]
        if len(header) < _BLOCK:
            raise ArchiveError("it is cut short")
        if not any(header):
            break
        name, size = _read_header(header)
        if size > limits.file:
            raise ArchiveError(f"{name} is larger than the {limits.file} bytes allowed")
        if name in files:
            raise ArchiveError(f"{name} is in it twice")
        if len(files) == limits.files:
            raise ArchiveError(f"there are more than the {limits.files} files allowed")
        begin = place + _BLOCK
        place = begin + size + (-size % _BLOCK)
        if place > len(data):
            raise ArchiveError("it is cut short")
        files[name] = data[begin : begin + size]
    if any(data[place:]):
        raise ArchiveError("something follows its end")
    return files


def _decompress(packed: bytes, most: int) -> bytes:
    reader = zlib.decompressobj(wbits=31)
    try:
        data = reader.decompress(packed, most + 1)
    except zlib.error as error:
        raise ArchiveError("it is not gzip, or damaged") from error
    if len(data) > most:
        raise ArchiveError(f"it unpacks to more than the {most} bytes allowed")
    if not reader.eof or reader.unused_data:
        raise ArchiveError("it is cut short, or something follows its end")
    return data


def _read_header(header: bytes) -> tuple[str, int]:
    """A file's name and size.

    The header that :func:`pack` writes for the two is the only one that is taken: no links,
    directories, devices, long names, owners or rights to think about.
    """
    try:
        name = header[:100].rstrip(b"\0").decode("ascii")
        size = int(header[124:135].decode("ascii"), 8)
    except ValueError as error:
        raise ArchiveError("a damaged header") from error
    check_name(name)
    if size < 0 or header != _header(name, size):
        raise ArchiveError(f"{name} is not a plain file")
    return name, size
