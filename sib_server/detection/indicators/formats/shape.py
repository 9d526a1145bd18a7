"""How a feed is written: the part of a feed's definition that its reader needs."""

from __future__ import annotations

from enum import Enum

import msgspec

from sib_server.detection.indicators.kinds import Kind


class Format(Enum):
    """The formats that can be read."""

    TEXT = "text"
    HOSTFILE = "hostfile"
    CSV = "csv"
    JSON = "json"
    JSON_LINES = "json-lines"
    MISP = "misp"
    STIX = "stix"


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where in a CSV row or JSON object things stand, by column or key name.

    Attributes:
        value: the indicator.
        kind: what kind it is, where entries differ; see ``kinds`` of :class:`Shape`.
        first_seen: when the feed saw it first.
        last_seen: when the feed saw it last.
        confidence: 0 to 100.
        note: a name for people.
    """

    value: str = "value"
    kind: str | None = None
    first_seen: str | None = None
    last_seen: str | None = None
    confidence: str | None = None
    note: str | None = None


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a feed is written.

    Attributes:
        format: what reads it.
        kind: the kind of all its entries; ``None``: each is recognised by its form.
        kinds: what the feed calls a kind -> the kind; entries of other kinds are passed over.
        fields: where things stand (CSV and JSON).
        columns: the columns in order, for a CSV file without a header that names them.
        delimiter: between CSV columns.
        items: the way to the list of entries in a JSON document: keys joined by dots, ``*`` for
            each of a list or of an object's values; empty for the document itself.
        derive_addresses: a URL whose host is an address makes that address an indicator too.
    """

    format: Format = Format.TEXT
    kind: Kind | None = None
    kinds: dict[str, Kind] = {}
    fields: Fields = Fields()
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    items: str = ""
    derive_addresses: bool = False
