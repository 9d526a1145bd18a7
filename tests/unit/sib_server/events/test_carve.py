"""Finding rows in raw pages, beside SQLite itself."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from sib_server.events import carve, schema
from sib_server.events.raw import RawPages

int64 = st.integers(-(2**63), 2**63 - 1)
numbers = st.one_of(st.integers(-2, 300), int64, st.sampled_from([2**n - 1 for n in range(63)]))
blobs = st.one_of(
    st.binary(max_size=60),
    # Around the sizes at which a payload begins to overflow, and at which its chain grows a page.
    st.integers(3900, 4100).map(lambda size: b"\xaa" * size),
    st.integers(8000, 8300).map(lambda size: bytes(range(256)) * 33 + b"z" * (size % 97)),
)
rows = st.tuples(numbers, numbers, blobs, numbers, numbers, st.none() | numbers, numbers, blobs)


@settings(max_examples=60, deadline=None)
@given(events=st.dictionaries(numbers, rows, max_size=30))
def test_every_row_that_sqlite_wrote_is_found(
    events: dict[int, tuple[int | bytes | None, ...]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        connection = sqlite3.connect(path)
        connection.execute(f"PRAGMA page_size = {schema.PAGE_SIZE}")
        connection.executescript(schema.TABLES.replace("UNIQUE INDEX", "INDEX"))
        with connection:
            connection.executemany(
                "INSERT INTO events VALUES (?,?,?,?,?,?,?,?,?)",
                [(seq, *row) for seq, row in events.items()],
            )
        connection.close()
        found: dict[int, list[tuple[carve.Value, ...]]] = {}
        with RawPages(path) as pages:
            for index in range(pages.count):
                for cell in carve.find_cells(
                    pages.page(index) or b"",
                    index + 1,
                    carve.EVENTS,
                    lambda number: pages.page(number - 1),
                ):
                    found.setdefault(cell.rowid, []).append(cell.values[1:])
        for seq, row in events.items():
            assert row in found[seq]


@given(page=st.binary(min_size=512, max_size=4096), chain=st.binary(min_size=512, max_size=512))
def test_garbage_is_survived(page: bytes, chain: bytes) -> None:
    for shape in (carve.EVENTS, carve.STREAMS, carve.CURSORS, carve.META):
        for cell in carve.find_cells(page, 1, shape, lambda _number: chain):
            assert len(cell.values) == shape.columns


@settings(max_examples=300)
@given(data=st.data())
def test_nearly_rows_are_survived(data: st.DataObject) -> None:
    """What looks like a record header, with anything behind it."""
    types = data.draw(st.lists(st.integers(0, 255), min_size=8, max_size=14))
    before = data.draw(st.binary(min_size=0, max_size=12))
    header = bytes([0, 1, 1, 12, 1, 1, 0, 1, 0x8F, 0xFF, 0x7F][: data.draw(st.integers(2, 11))])
    page = (before + bytes([data.draw(st.integers(3, 32))]) + header + bytes(types)).ljust(
        600, b"\1"
    )
    for cell in carve.find_cells(page, 1, carve.EVENTS, lambda _number: None):
        assert all(0 <= start < end <= len(page) for _page, start, end in cell.spans)


@given(st.integers(0, 2**56 - 1))
def test_varints_there_and_back(value: int) -> None:
    data = carve.encode_varint(value)
    assert carve.read_varint(b"\xff" + data + b"\0", 1) == (value, 1 + len(data))
    assert carve.read_varint(data[:-1], 0) is None


def test_long_varints_are_signed() -> None:
    assert carve.read_varint(b"\xff" * 9, 0) == (-1, 9)
    assert carve.read_varint(b"\x80" * 8 + b"\x05", 0) == (5, 9)
    assert carve.read_varint(b"\xff" * 8, 0) is None
