"""Reader of MISP's JSON: events, their attributes and their objects' attributes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sib_server.detection.indicators.formats.records import (
    Reading,
    Record,
    clean_note,
    derived_address,
    parse_time,
)
from sib_server.detection.indicators.formats.tables import NO_DOCUMENT, decode_json
from sib_server.detection.indicators.kinds import Kind, parse_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_server.detection.indicators.formats.shape import Shape

_TYPES: Final[dict[str, tuple[Kind | None, ...]]] = {
    "ip-src": (Kind.ADDRESS,),
    "ip-dst": (Kind.ADDRESS,),
    "ip-src|port": (Kind.ADDRESS, None),
    "ip-dst|port": (Kind.ADDRESS, None),
    "domain": (Kind.DOMAIN,),
    "hostname": (Kind.DOMAIN,),
    "hostname|port": (Kind.DOMAIN, None),
    "domain|ip": (Kind.DOMAIN, Kind.ADDRESS),
    "url": (Kind.URL,),
    "link": (),
    "md5": (Kind.MD5,),
    "sha1": (Kind.SHA1,),
    "sha256": (Kind.SHA256,),
    "filename|md5": (None, Kind.MD5),
    "filename|sha1": (None, Kind.SHA1),
    "filename|sha256": (None, Kind.SHA256),
    "x509-fingerprint-sha1": (Kind.CERTIFICATE,),
}
"""Attribute type -> the kind of each part between bars; ``None`` for parts that are none."""


def _events(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        tree = tree.get("response", tree)
    for item in tree if isinstance(tree, list) else [tree]:
        if isinstance(item, dict):
            event = item.get("Event", item)
            if isinstance(event, dict):
                yield event


def _attributes(event: dict[str, Any]) -> Iterator[dict[str, Any]]:
    holders = [event]
    objects = event.get("Object")
    if isinstance(objects, list):
        holders.extend(item for item in objects if isinstance(item, dict))
    for holder in holders:
        attributes = holder.get("Attribute")
        if isinstance(attributes, list):
            yield from (item for item in attributes if isinstance(item, dict))


def _read_attribute(reading: Reading, attribute: dict[str, Any], note: str, derive: bool) -> None:
    kinds = _TYPES.get(str(attribute.get("type")), ())
    # to_ids is MISP's word for "good enough to alarm on"; the rest is context.
    if not kinds or attribute.get("to_ids") is False or attribute.get("deleted") is True:
        return
    value = attribute.get("value")
    if not isinstance(value, str):
        reading.reject(attribute)
        return
    parts = value.split("|") if len(kinds) > 1 else [value]
    if len(parts) != len(kinds):
        reading.reject(value)
        return
    for kind, part in zip(kinds, parts, strict=True):
        if kind is None:
            continue
        observable = parse_as(kind, part)
        if observable is None:
            reading.reject(value)
            continue
        record = Record(
            observable,
            first_seen=parse_time(attribute.get("first_seen") or attribute.get("timestamp")),
            last_seen=parse_time(attribute.get("last_seen")),
            note=note,
        )
        reading.records.append(record)
        address = derived_address(record) if derive else None
        if address is not None:
            reading.records.append(address)


def read_misp(content: bytes, shape: Shape, max_records: int) -> Reading:
    """A MISP event, a list of them, or the answer of a search (``response``)."""
    reading = Reading()
    tree = decode_json(content)
    if tree is None:
        reading.reject(NO_DOCUMENT)
        return reading
    for event in _events(tree):
        note = clean_note(event.get("info"))
        for attribute in _attributes(event):
            if len(reading.records) >= max_records:
                reading.cut = True
                return reading
            _read_attribute(reading, attribute, note, shape.derive_addresses)
    return reading
