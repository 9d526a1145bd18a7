"""One door to all readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_server.detection.indicators.formats.lines import read_hostfile, read_text
from sib_server.detection.indicators.formats.misp import read_misp
from sib_server.detection.indicators.formats.shape import Format, Shape
from sib_server.detection.indicators.formats.stix import read_stix
from sib_server.detection.indicators.formats.tables import read_csv, read_json, read_json_lines

if TYPE_CHECKING:
    from collections.abc import Callable

    from sib_server.detection.indicators.formats.records import Reading

_READERS: Final[dict[Format, Callable[[bytes, Shape, int], Reading]]] = {
    Format.TEXT: read_text,
    Format.HOSTFILE: read_hostfile,
    Format.CSV: read_csv,
    Format.JSON: read_json,
    Format.JSON_LINES: read_json_lines,
    Format.MISP: read_misp,
    Format.STIX: read_stix,
}


def read_feed(content: bytes, shape: Shape, *, max_records: int) -> Reading:
    """Read a feed's content; never raises, whatever it holds.

    Args:
        content: as downloaded and decompressed.
        shape: how the feed is written.
        max_records: no more than this many records (one more where a URL names an address).
    """
    return _READERS[shape.format](content, shape, max_records)
