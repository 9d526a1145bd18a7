"""Reader of STIX 2.1 bundles and of the patterns in their indicators.

A pattern becomes indicators only as far as each would be true alone: comparisons by ``=`` and
``IN`` that are joined by ``OR``. Under ``AND`` only a file's hash is taken, because it names one
file whatever else is said of it. Negations, other operators and observations in sequence are
refused, never weakened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sib_server.detection.indicators.formats.records import (
    Reading,
    Record,
    clean_note,
    derived_address,
    parse_confidence,
    parse_time,
)
from sib_server.detection.indicators.formats.tables import NO_DOCUMENT, decode_json
from sib_server.detection.indicators.kinds import FILE_HASHES, Kind, Observable, parse_as

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_server.detection.indicators.formats.shape import Shape

_MAX_PATTERN: Final = 64 * 1024
_MAX_DEPTH: Final = 32

_PATHS: Final = {
    "ipv4-addr:value": Kind.ADDRESS,
    "ipv6-addr:value": Kind.ADDRESS,
    "network-traffic:dst_ref.value": Kind.ADDRESS,
    "network-traffic:src_ref.value": Kind.ADDRESS,
    "domain-name:value": Kind.DOMAIN,
    "url:value": Kind.URL,
    "file:hashes.md5": Kind.MD5,
    "file:hashes.sha-1": Kind.SHA1,
    "file:hashes.sha1": Kind.SHA1,
    "file:hashes.sha-256": Kind.SHA256,
    "file:hashes.sha256": Kind.SHA256,
    "x509-certificate:hashes.sha-1": Kind.CERTIFICATE,
    "x509-certificate:hashes.sha1": Kind.CERTIFICATE,
}

_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<string>'(?:[^'\\]|\\.)*')
      | (?P<path>[a-z0-9-]+:[A-Za-z0-9_.\-'\[\]*]+)
      | (?P<word>[A-Za-z]+)
      | (?P<sign>!=|<=|>=|=|<|>|\(|\)|\[|\]|,)
      | (?P<number>-?\d+(?:\.\d+)?)
    )""",
    re.VERBOSE,
)


class _RefusedError(Exception):
    """The pattern says more than a list of indicators can."""


@dataclass(frozen=True, slots=True)
class _Token:
    sort: str
    text: str


def _tokens(pattern: str) -> Iterator[_Token]:
    at = 0
    while at < len(pattern):
        match = _TOKEN.match(pattern, at)
        if match is None or match.lastgroup is None:
            if not pattern[at:].strip():
                return
            raise _RefusedError
        at = match.end()
        yield _Token(match.lastgroup, match[match.lastgroup])


class _Parser:
    """A recursive descent over one pattern; the answer of each step is the indicators in it."""

    def __init__(self, pattern: str) -> None:
        self._tokens = list(_tokens(pattern))
        self._at = 0

    def _peek(self) -> str:
        return self._tokens[self._at].text if self._at < len(self._tokens) else ""

    def _next(self, wanted: str | None = None) -> _Token:
        if self._at >= len(self._tokens):
            raise _RefusedError
        token = self._tokens[self._at]
        if wanted is not None and token.text != wanted:
            raise _RefusedError
        self._at += 1
        return token

    def pattern(self) -> list[Observable]:
        found = self._observation()
        while self._peek() == "OR":
            self._next()
            found += self._observation()
        if self._at != len(self._tokens):
            raise _RefusedError
        return found

    def _observation(self) -> list[Observable]:
        self._next("[")
        found = self._either(0)
        self._next("]")
        return found

    def _either(self, depth: int) -> list[Observable]:
        found = self._both(depth)
        while self._peek() == "OR":
            self._next()
            found += self._both(depth)
        return found

    def _both(self, depth: int) -> list[Observable]:
        found = self._comparison(depth)
        joined = False
        while self._peek() == "AND":
            self._next()
            joined = True
            found += self._comparison(depth)
        if joined:
            found = [observable for observable in found if observable.kind in FILE_HASHES]
            if not found:
                raise _RefusedError
        return found

    def _comparison(self, depth: int) -> list[Observable]:
        if depth > _MAX_DEPTH:
            raise _RefusedError
        if self._peek() == "(":
            self._next()
            found = self._either(depth + 1)
            self._next(")")
            return found
        path = self._next()
        if path.sort != "path":
            raise _RefusedError
        operator = self._next().text
        if operator == "=":
            values = [self._value()]
        elif operator == "IN":
            self._next("(")
            values = [self._value()]
            while self._peek() == ",":
                self._next()
                values.append(self._value())
            self._next(")")
        else:
            raise _RefusedError
        kind = _PATHS.get(path.text.replace("'", "").lower())
        if kind is None:
            # Legitimate beside a hash ("file:name = ... AND file:hashes..."), useless alone.
            return []
        read = [parse_as(kind, value) for value in values]
        found = [observable for observable in read if observable is not None]
        if len(found) != len(read):
            raise _RefusedError
        return found

    def _value(self) -> str:
        token = self._next()
        if token.sort == "string":
            return re.sub(r"\\(.)", r"\1", token.text[1:-1])
        if token.sort in ("number", "word"):
            return token.text
        raise _RefusedError


def parse_pattern(pattern: str) -> list[Observable] | None:
    """The indicators that a STIX pattern stands for; ``None`` where it stands for more."""
    if len(pattern) > _MAX_PATTERN:
        return None
    try:
        found = _Parser(pattern).pattern()
    except _RefusedError:
        return None
    return found or None


def _indicators(tree: Any) -> Iterator[dict[str, Any]]:
    objects = tree.get("objects") if isinstance(tree, dict) else tree
    if isinstance(objects, list):
        for item in objects:
            if isinstance(item, dict) and item.get("type") == "indicator":
                yield item


def read_stix(content: bytes, shape: Shape, max_records: int) -> Reading:
    """The indicators of a bundle; revoked ones and other pattern languages are passed over."""
    reading = Reading()
    tree = decode_json(content)
    if tree is None:
        reading.reject(NO_DOCUMENT)
        return reading
    for item in _indicators(tree):
        if item.get("revoked") is True or item.get("pattern_type", "stix") != "stix":
            continue
        pattern = item.get("pattern")
        observables = parse_pattern(pattern) if isinstance(pattern, str) else None
        if observables is None:
            reading.reject(pattern)
            continue
        for observable in observables:
            if len(reading.records) >= max_records:
                reading.cut = True
                return reading
            record = Record(
                observable,
                first_seen=parse_time(item.get("valid_from")),
                valid_until=parse_time(item.get("valid_until")),
                confidence=parse_confidence(item.get("confidence")),
                note=clean_note(item.get("name")),
            )
            reading.records.append(record)
            address = derived_address(record) if shape.derive_addresses else None
            if address is not None:
                reading.records.append(address)
    return reading
