"""A batch on the wire: event lines of one stream, joined by newlines, under gzip.

The stream and the first line's number travel in the request's address
(``POST /v1/streams/{stream}/events?first=N``), so the body is nothing but what Falco wrote: a
server may check and skip without looking inside, and ``curl | zcat`` shows it.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import MalformedMessageError, TooLargeError
from sib_protocol.limits import MAX_BATCH_BYTES, MAX_BATCH_LINES

if TYPE_CHECKING:
    from collections.abc import Sequence

_GZIP: Final = 16 + zlib.MAX_WBITS


def encode_lines(lines: Sequence[bytes]) -> bytes:
    """The body of a batch.

    Args:
        lines: at least one; none holds a newline.
    """
    # Level 1: on alerts it already reaches a tenth, and higher levels cost the host's CPU.
    compressor = zlib.compressobj(level=1, wbits=_GZIP)
    return compressor.compress(b"\n".join(lines)) + compressor.flush()


def decode_lines(body: bytes, *, max_bytes: int = MAX_BATCH_BYTES) -> list[bytes]:
    """The lines of a batch's body.

    Args:
        body: as :func:`encode_lines` made it, or as an attacker did.
        max_bytes: the most that may come out; no more memory than that is ever taken.

    Raises:
        TooLargeError: more comes out than allowed.
        MalformedMessageError: it is not one whole gzip member, or ends early.
    """
    decompressor = zlib.decompressobj(wbits=_GZIP)
    try:
        text = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise MalformedMessageError(f"the batch is not gzip: {error}") from error
    if len(text) > max_bytes:
        raise TooLargeError("a batch after decompression", max_bytes)
    if not decompressor.eof:
        raise MalformedMessageError("the batch ends in the middle")
    if decompressor.unused_data:
        raise MalformedMessageError("the batch has bytes after its end")
    if text.count(b"\n") >= MAX_BATCH_LINES:
        raise MalformedMessageError(f"the batch has more than {MAX_BATCH_LINES} lines")
    return text.split(b"\n")
