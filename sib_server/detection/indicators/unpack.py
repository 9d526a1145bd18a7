"""Undoing a feed's compression without trusting it. Pure."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import Final

from sib_server.detection.indicators.admission import Refusal, Trouble

_GZIP_MAGIC: Final = b"\x1f\x8b"
_ZIP_MAGIC: Final = b"PK\x03\x04"
_ZIP_ENTRY: Final = b"PK\x01\x02"
_MOST_ENTRIES: Final = 64
_STEP: Final = 1 << 20


class RefusedDownloadError(Exception):
    """A download that cannot be taken; carries why."""

    def __init__(self, refusal: Refusal, retry_after: float = 0.0) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal
        self.retry_after = retry_after


def refuse(trouble: Trouble, reason: str, retry_after: float = 0.0) -> RefusedDownloadError:
    """The exception for a refusal."""
    return RefusedDownloadError(Refusal(trouble, reason), retry_after)


def gunzip(content: bytes, max_bytes: int) -> bytes:
    """The content of a gzip file of one member or more.

    Raises:
        RefusedDownloadError: damaged, cut short, or larger than allowed.
    """
    pieces: list[bytes] = []
    room = max_bytes
    rest = content
    while rest:
        decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        try:
            piece = decompressor.decompress(rest, room + 1)
        except zlib.error as error:
            raise refuse(Trouble.DAMAGED, f"its gzip is damaged: {error}") from error
        if len(piece) > room:
            raise refuse(Trouble.TOO_LARGE, f"it unpacks to more than {max_bytes} bytes")
        if not decompressor.eof:
            raise refuse(Trouble.DAMAGED, "its gzip ends in the middle")
        pieces.append(piece)
        room -= len(piece)
        rest = decompressor.unused_data
        if not rest.startswith(_GZIP_MAGIC):
            # Padding after the last member is common and harmless.
            break
    return b"".join(pieces)


def unzip(content: bytes, max_bytes: int) -> bytes:
    """The one file in a zip archive.

    Raises:
        RefusedDownloadError: damaged, not exactly one file, or larger than allowed.
    """
    if content.count(_ZIP_ENTRY) > _MOST_ENTRIES:
        # zipfile would make an object of each before anything can be asked.
        raise refuse(Trouble.DAMAGED, "its zip holds many files, not one")
    pieces: list[bytes] = []
    room = max_bytes
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            if len(members) == 1:
                # What the archive says of its sizes is not believed: the bytes are counted.
                with archive.open(members[0]) as file:
                    while room >= 0 and (piece := file.read(min(_STEP, room + 1))):
                        room -= len(piece)
                        pieces.append(piece)
    except Exception as error:
        # zipfile raises BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError and
        # struct.error by turns on hostile archives; none of them may pass.
        raise refuse(Trouble.DAMAGED, f"its zip is damaged: {error}") from error
    if len(members) != 1:
        raise refuse(Trouble.DAMAGED, f"its zip holds {len(members)} files, not one")
    if room < 0:
        raise refuse(Trouble.TOO_LARGE, f"it unpacks to more than {max_bytes} bytes")
    return b"".join(pieces)


def unpack(content: bytes, max_bytes: int) -> bytes:
    """A feed's content, whether it comes plain, as gzip or as zip (told by its first bytes).

    Raises:
        RefusedDownloadError: damaged or larger than allowed.
    """
    if content.startswith(_GZIP_MAGIC):
        return gunzip(content, max_bytes)
    if content.startswith(_ZIP_MAGIC):
        return unzip(content, max_bytes)
    if len(content) > max_bytes:
        raise refuse(Trouble.TOO_LARGE, f"it is larger than {max_bytes} bytes")
    return content
