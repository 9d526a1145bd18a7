"""What every HTTP client of SIB's needs when the other side may answer anything."""

from __future__ import annotations

from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import aiohttp

_LONGEST_RETRY_AFTER: Final = 300.0
_CHUNK: Final = 64 * 1024


async def read_bounded(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The first ``limit`` bytes of an answer's body; what is behind them is not read."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK):
        body += chunk
        if len(body) >= limit:
            # The rest would have to be read before the connection could be used again.
            response.close()
            break
    return bytes(body[:limit])


def parse_retry_after(text: str | None) -> float | None:
    """Seconds of a ``Retry-After`` header; None for none and for a date; 5 minutes at most."""
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    return min(float(text), _LONGEST_RETRY_AFTER)


def parse_date_ns(text: str | None) -> int | None:
    """A ``Date`` header as nanoseconds since 1970 UTC; None for none and for nonsense."""
    if text is None or len(text) > 64:
        return None
    try:
        found = parsedate_to_datetime(text)
        return int(found.timestamp()) * 1_000_000_000
    except (ValueError, OverflowError):
        return None
