"""Finding in an event what could be an indicator. Pure; never raises, whatever the line holds."""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sib_protocol.errors import UNDECODABLE
from sib_server.detection.indicators.kinds import (
    Kind,
    Observable,
    parse_address,
    parse_domain,
    parse_hash,
    parse_url,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MAX_FOUND: Final = 64
_MAX_LINE: Final = 1024 * 1024
_MAX_TEXT: Final = 16 * 1024

_URL: Final = re.compile(r"(?:https?|ftp)://[^\s\"'<>|;`\\^{}]{1,2000}", re.IGNORECASE)
_ADDRESS4: Final = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\d|\.\d)")
_ADDRESS6: Final = re.compile(
    r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])"
)
_HASH: Final = re.compile(
    r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{64}|[0-9A-Fa-f]{40}|[0-9A-Fa-f]{32})(?![0-9A-Za-z])"
)
_DOMAIN: Final = re.compile(
    r"(?<![A-Za-z0-9_@./-])(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.){1,8}[A-Za-z][A-Za-z0-9-]{1,62}(?![A-Za-z0-9_-])"
)
_DOTTED: Final = re.compile(r"[A-Za-z0-9_]\.[A-Za-z0-9]")
_SHORTEST_HASH: Final = 32
_TUPLE: Final = re.compile(r"\[?([0-9A-Fa-f:.]+?)\]?:(\d{1,5})")
_QUESTION_FIELD: Final = "evt.buffer"


class _Event(msgspec.Struct):
    output_fields: dict[str, Any] = {}
    output: str = ""
    source: str = ""


_decoder: Final = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class Found:
    """Something in an event that could be an indicator.

    Attributes:
        field: the output field in which it stands.
        observable: what it is.
    """

    field: str
    observable: Observable


def _from_texts(texts: Sequence[tuple[str, str]]) -> Iterator[tuple[str, Observable | None]]:
    """What stands in texts, by field.

    All texts are searched as one, since most events hold nothing and a search costs more to begin
    than to do. None of the expressions reaches over the end of a line.
    """
    ends: list[int] = []
    length = 0
    for _, text in texts:
        length += len(text) + 1
        ends.append(length)
    joined = "\n".join([text for _, text in texts])

    def all_of(
        expression: re.Pattern[str], parse: Callable[[str], Observable | None]
    ) -> Iterator[tuple[str, Observable | None]]:
        for match in expression.finditer(joined):
            yield texts[bisect_right(ends, match.start())][0], parse(match[0])

    if "://" in joined:
        yield from all_of(_URL, lambda found: parse_url(found.rstrip(".,)]")))
    if _DOTTED.search(joined):
        yield from all_of(_ADDRESS4, parse_address)
        yield from all_of(_DOMAIN, parse_domain)
    if joined.count(":") > 1:
        yield from all_of(_ADDRESS6, parse_address)
    if len(joined) >= _SHORTEST_HASH:
        yield from all_of(_HASH, parse_hash)


def _from_connection(text: str) -> Iterator[Observable | None]:
    """The ends of ``1.2.3.4:5->6.7.8.9:10``, which an IPv6 address makes ambiguous."""
    for end in text.split("->"):
        match = _TUPLE.fullmatch(end)
        if match:
            yield parse_address(match[1])


def question_name(buffer: str) -> Observable | None:
    """The name in a DNS question as Falco shows its bytes: those that cannot be printed are dots.

    Before the name stand zeros of the header and the length of its first label, after it a zero
    and the type: so the name is what stands between runs of dots.
    """
    for piece in re.split(r"\.{2,}", buffer):
        domain = parse_domain(piece.strip("."))
        if domain is not None:
            return domain
    return None


def observables_in(line: bytes) -> tuple[Found, ...]:
    """What could be an indicator in an event line, each once, at most :data:`MAX_FOUND`.

    Paths are not looked into: ``/usr/lib/libc.so`` would be a domain. SIB's own events are passed
    over, since they name indicators themselves.
    """
    if len(line) > _MAX_LINE:
        return ()
    try:
        event = _decoder.decode(line)
    except UNDECODABLE:
        return ()
    if event.source == "sib":
        return ()
    found: dict[Observable, Found] = {}
    for field, observable in _candidates(event):
        if observable is not None and observable not in found:
            found[observable] = Found(field, observable)
            if len(found) >= MAX_FOUND:
                break
    return tuple(found.values())


def _candidates(event: _Event) -> Iterator[tuple[str, Observable | None]]:
    texts: list[tuple[str, str]] = []
    for field, value in event.output_fields.items():
        if not isinstance(value, str) or not value or value.startswith("/"):
            continue
        text = value[:_MAX_TEXT]
        if "->" in text and field.startswith("fd."):
            # Before the texts: what the kernel says must not be crowded out by what a host says.
            for observable in _from_connection(text):
                yield field, observable
            continue
        texts.append((field, text))
        if field == _QUESTION_FIELD:
            yield field, question_name(text)
    if texts:
        yield from _from_texts(texts)


def is_interesting(found: Found) -> bool:
    """Whether it is worth a lookup: a private address never is an indicator."""
    if found.observable.kind is not Kind.ADDRESS:
        return True
    return not found.observable.value.startswith(("127.", "10.", "192.168.", "169.254."))
