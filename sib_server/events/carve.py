"""Finding rows in the raw pages of a SQLite file, however damaged the file around them is.

A row of a table is a *cell* on a leaf page: its payload's size and its rowid as variable-length
integers, then the record (a header of serial types, then the values); a payload that is too long
for its page goes on in a chain of overflow pages (https://www.sqlite.org/fileformat2.html, sections
1.6 and 2.1). Nothing else is trusted here, neither page headers nor cell pointers nor the tree: the
record headers of SIB's tables have a shape that a regular expression finds anywhere in a page, and
the checksum in each row says whether what was found is one.

Pure: bytes in, cells out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Value: TypeAlias = int | bytes | None
Span: TypeAlias = tuple[int, int, int]
"""Page number, first byte, one beyond the last byte."""

MAX_PAYLOAD: Final = 16 * 1024 * 1024
_INT: Final = rb"[\x01-\x06\x08\x09]"
_INT_OR_NULL: Final = rb"[\x00-\x06\x08\x09]"
_BLOB: Final = rb"(?:[\x0c-\x7f]|[\x80-\xff]{1,3}[\x00-\x7f])"
_INT_BYTES: Final = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the record headers of one table look like.

    Attributes:
        pattern: matches where such a header may begin, without taking it.
        columns: how many values a row has, its rowid's place (read as ``None``) included.
    """

    pattern: re.Pattern[bytes]
    columns: int


def _shape(*types: bytes) -> Shape:
    # The rowid's own column comes first in all of SIB's tables, and is stored as NULL there.
    return Shape(re.compile(rb"(?s)(?=[\x03-\x20]\x00" + b"".join(types) + b")"), len(types) + 1)


EVENTS: Final = _shape(_INT, _INT, _BLOB, _INT, _INT, _INT_OR_NULL, _INT, _BLOB)
STREAMS: Final = _shape(rb"\x2c", rb"\x2c", _INT, _INT)
CURSORS: Final = _shape(_BLOB, _INT, _INT)
META: Final = _shape(_BLOB, _BLOB, _INT)


@dataclass(frozen=True, slots=True)
class Cell:
    """One row as found; whether it is whole, its checksum must say.

    Attributes:
        rowid: the integer key.
        values: the columns; the rowid's own is ``None``.
        spans: the bytes it consists of, overflow pages with their chain pointers included.
    """

    rowid: int
    values: tuple[Value, ...]
    spans: tuple[Span, ...]


def read_varint(data: bytes, at: int) -> tuple[int, int] | None:
    """A variable-length integer (signed 64 bits) and where it ends; ``None`` where data ends."""
    value = 0
    for index in range(8):
        if at + index >= len(data):
            return None
        byte = data[at + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, at + index + 1
    if at + 8 >= len(data):
        return None
    value = value << 8 | data[at + 8]
    return (value - 2**64 if value >= 2**63 else value), at + 9


def encode_varint(value: int) -> bytes:
    """The shortest form, as SQLite writes it, of a value from 0 to 2**56 - 1."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def local_bytes(payload: int, usable: int) -> int:
    """How much of a payload is on the leaf page itself (file format, section 1.6)."""
    if payload <= usable - 35:
        return payload
    least = (usable - 12) * 32 // 255 - 23
    fitting = least + (payload - least) % (usable - 4)
    return fitting if fitting <= usable - 35 else least


def find_cells(
    page: bytes, number: int, shape: Shape, fetch: Callable[[int], bytes | None]
) -> Iterator[Cell]:
    """Every place in a page that can be read as a row of this shape.

    Args:
        page: its bytes; the whole page is usable (no reserved space at its end).
        number: its number, for spans.
        shape: the table's.
        fetch: gives overflow pages by number; ``None`` where there is none.
    """
    for match in shape.pattern.finditer(page):
        cell = _read_cell(page, number, match.start(), shape, fetch)
        if cell is not None:
            yield cell


def _read_cell(
    page: bytes, number: int, at: int, shape: Shape, fetch: Callable[[int], bytes | None]
) -> Cell | None:
    types = _serial_types(page, at, shape.columns)
    if types is None:
        return None
    total = page[at] + sum(map(_size, types))
    start = _cell_start(page, at, total)
    if total > MAX_PAYLOAD or start is None:
        return None
    rowid, _end = read_varint(page, start + len(encode_varint(total))) or (0, 0)
    local = local_bytes(total, len(page))
    end = at + local
    if end + (4 if local < total else 0) > len(page):
        return None
    payload, spans = page[at:end], [(number, start, end)]
    if local < total:
        spans = [(number, start, end + 4)]
        rest = _read_chain(page[end : end + 4], total - local, len(page), fetch, spans)
        if rest is None:
            return None
        payload += rest
    return Cell(rowid, _values(payload, page[at], types), tuple(spans))


def _serial_types(page: bytes, at: int, columns: int) -> list[int] | None:
    """The types of a record's values; ``None`` unless exactly these columns fill the header."""
    end = at + page[at]
    types: list[int] = []
    at += 1
    while at < end:
        step = read_varint(page, at)
        if step is None or step[0] < 0:
            return None
        types.append(step[0])
        at = step[1]
    return types if at == end and len(types) == columns else None


def _size(serial_type: int) -> int:
    if serial_type >= 12:
        return (serial_type - 12) // 2
    return _INT_BYTES.get(serial_type, MAX_PAYLOAD + 1)


def _cell_start(page: bytes, at: int, total: int) -> int | None:
    """Where the cell begins whose record begins at ``at``: two integers stand before it."""
    size = encode_varint(total)
    for length in range(1, 10):
        start = at - length - len(size)
        if start < 0 or page[start : start + len(size)] != size:
            continue
        step = read_varint(page, at - length)
        if step is not None and step[1] == at:
            return start
    return None


def _read_chain(
    pointer: bytes,
    wanted: int,
    usable: int,
    fetch: Callable[[int], bytes | None],
    spans: list[Span],
) -> bytes | None:
    parts: list[bytes] = []
    while wanted > 0:
        number = int.from_bytes(pointer, "big")
        page = fetch(number) if number else None
        if page is None:
            return None
        take = min(wanted, usable - 4)
        pointer = page[:4]
        parts.append(page[4 : 4 + take])
        spans.append((number, 0, 4 + take))
        wanted -= take
    return b"".join(parts)


def _values(payload: bytes, at: int, types: list[int]) -> tuple[Value, ...]:
    values: list[Value] = []
    for kind in types:
        end = at + _size(kind)
        if kind >= 12:
            values.append(payload[at:end])
        elif kind == 0:
            values.append(None)
        elif kind >= 8:
            values.append(kind - 8)
        else:
            values.append(int.from_bytes(payload[at:end], "big", signed=True))
        at = end
    return tuple(values)
