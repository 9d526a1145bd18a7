"""Readers of CSV, JSON and JSON lines: entries with named fields."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sib_protocol.errors import UNDECODABLE
from sib_server.detection.indicators.formats.lines import text_lines
from sib_server.detection.indicators.formats.records import (
    Reading,
    Record,
    clean_note,
    derived_address,
    parse_confidence,
    parse_time,
)
from sib_server.detection.indicators.kinds import MAX_VALUE, parse_as, recognise

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sib_server.detection.indicators.formats.shape import Shape

MAX_VALUES: Final = 5_000_000
"""The most values in a JSON document, by the signs that part them: at most 400 MB of memory."""

NO_DOCUMENT: Final = "not a JSON document, or one of too many values"
_MAX_DEPTH: Final = 16


def _take(reading: Reading, entry: Mapping[str, Any], shape: Shape) -> None:
    """Turn one entry into a record, or count it as rejected."""
    fields = shape.fields
    value = entry.get(fields.value)
    if not isinstance(value, str):
        reading.reject(entry)
        return
    kind = shape.kind
    if fields.kind is not None:
        named = str(entry.get(fields.kind, "")).strip()
        if named not in shape.kinds:
            # A kind that SIB does not use is no mistake of the feed.
            return
        kind = shape.kinds[named]
    value = value[: MAX_VALUE + 1].strip()
    observable = parse_as(kind, value) if kind else recognise(value)
    if observable is None:
        reading.reject(value)
        return
    record = Record(
        observable,
        first_seen=parse_time(entry.get(fields.first_seen or "")),
        last_seen=parse_time(entry.get(fields.last_seen or "")),
        confidence=parse_confidence(entry.get(fields.confidence or "")),
        note=clean_note(entry.get(fields.note or "")),
    )
    reading.records.append(record)
    if shape.derive_addresses:
        address = derived_address(record)
        if address is not None:
            reading.records.append(address)


def _take_all(reading: Reading, entries: Iterable[Any], shape: Shape, max_records: int) -> None:
    for entry in entries:
        if len(reading.records) >= max_records:
            reading.cut = True
            return
        if isinstance(entry, str):
            _take(reading, {shape.fields.value: entry}, shape)
        elif isinstance(entry, dict):
            _take(reading, entry, shape)
        else:
            reading.reject(entry)


def _cells(line: str, delimiter: str) -> list[str] | None:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True), None)
    except csv.Error:
        return None


def _rows(reading: Reading, content: bytes, shape: Shape) -> Iterator[dict[str, str]]:
    columns: list[str] | None = list(shape.columns) or None
    for line in text_lines(content):
        stripped = line.strip()
        if not stripped:
            continue
        comment = stripped.startswith("#")
        cells = _cells(stripped.lstrip("# ") if comment else line, shape.delimiter)
        # abuse.ch puts the header into a comment; others leave it bare.
        if cells and shape.fields.value in (names := [cell.strip() for cell in cells]):
            columns = names
            continue
        if comment:
            continue
        if columns is None or cells is None or len(cells) < 2 <= len(columns):
            reading.reject(line)
            continue
        yield dict(zip(columns, cells, strict=False))


def read_csv(content: bytes, shape: Shape, max_records: int) -> Reading:
    """Rows with a header, which may stand in a comment; one row a line, ``#`` begins comments."""
    reading = Reading()
    _take_all(reading, _rows(reading, content, shape), shape, max_records)
    return reading


def _reach(tree: Any, way: list[str]) -> Iterator[Any]:
    if not way:
        if isinstance(tree, list):
            yield from tree
        elif isinstance(tree, dict):
            yield tree
        return
    first, rest = way[0], way[1:]
    if first == "*":
        branches = tree.values() if isinstance(tree, dict) else tree
        if isinstance(branches, str) or not hasattr(branches, "__iter__"):
            return
        for branch in branches:
            yield from _reach(branch, rest)
    elif isinstance(tree, dict) and first in tree:
        yield from _reach(tree[first], rest)


def decode_json(content: bytes) -> Any:
    """The document, or ``None`` where it is not JSON or has too many values to be held.

    Each value stands behind one of four signs, so these bound how many there are: an empty list
    takes three bytes in a file, which packs to almost nothing, and sixty in memory.
    """
    if sum(content.count(sign) for sign in (b",", b"[", b"{", b":")) > MAX_VALUES:
        return None
    try:
        return msgspec.json.decode(content)
    except UNDECODABLE:
        return None


def read_json(content: bytes, shape: Shape, max_records: int) -> Reading:
    """One JSON document; ``shape.items`` says where in it the entries are."""
    reading = Reading()
    tree = decode_json(content)
    if tree is None:
        reading.reject(NO_DOCUMENT)
        return reading
    way = [step for step in shape.items.split(".") if step][:_MAX_DEPTH]
    _take_all(reading, _reach(tree, way), shape, max_records)
    return reading


def _objects(reading: Reading, content: bytes) -> Iterator[Any]:
    for line in text_lines(content):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError):
            reading.reject(line)
            continue
        if isinstance(entry, dict) and entry.get("type") == "metadata":
            # Spamhaus ends its lists so; the count shows a download that was cut.
            records = entry.get("records")
            reading.declared = records if isinstance(records, int) else None
            continue
        yield entry


def read_json_lines(content: bytes, shape: Shape, max_records: int) -> Reading:
    """One JSON object a line; one of type ``metadata`` tells how many there are."""
    reading = Reading()
    _take_all(reading, _objects(reading, content), shape, max_records)
    return reading
