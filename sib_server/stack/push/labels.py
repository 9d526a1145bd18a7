"""A Loki stream's labels as text: ``{name="value", name="value"}``. Pure.

Read more strictly than Loki reads it: what two readers could take differently is refused, so that
the labels SIB checked are the labels that Loki stores.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_LABELS: Final = 30
MAX_LABELS_BYTES: Final = 16 * 1024
MAX_VALUE_BYTES: Final = 2048

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*", re.ASCII)
_PAIR: Final = re.compile(
    r"[ \t]*(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"
    r'"(?P<value>(?:[^"\\\n]|\\.)*)"[ \t]*(?P<end>,|\})',
    re.ASCII,
)
_ESCAPE: Final = re.compile(
    r"\\(?:(?P<one>[abfnrtv\\\"])|x(?P<x>[0-7][0-9a-fA-F])"
    r"|u(?P<u>[0-9a-fA-F]{4})|U(?P<U>[0-9a-fA-F]{8})|(?P<bad>.?))",
    re.ASCII | re.DOTALL,
)
_ONE: Final = {
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "n": "\n",
    "r": "\r",
    "t": "\t",
    "v": "\v",
    "\\": "\\",
    '"': '"',
}
_QUOTED: Final = {
    **{code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)},
    **{ord(char): f"\\{short}" for short, char in _ONE.items()},
}


def _unescape(match: re.Match[str]) -> str:
    if match["one"]:
        return _ONE[match["one"]]
    digits = match["x"] or match["u"] or match["U"]
    if digits is None:
        raise MalformedMessageError(f"a label's value has the unknown escape {match[0]!r}")
    code = int(digits, 16)
    if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
        raise MalformedMessageError(f"a label's value has {match[0]!r}, which is no character")
    return chr(code)


def parse_labels(text: bytes) -> dict[str, str]:
    """Read a stream's labels.

    Raises:
        MalformedMessageError: they are not written as Loki's own clients write them, a name
            comes twice, or there are too many or too large ones.
    """
    if len(text) > MAX_LABELS_BYTES:
        raise MalformedMessageError(f"a stream's labels are over {MAX_LABELS_BYTES} bytes")
    try:
        decoded = text.decode().strip(" \t")
    except UnicodeDecodeError as error:
        raise MalformedMessageError("a stream's labels are not UTF-8") from error
    if not decoded.startswith("{"):
        raise MalformedMessageError(f"{decoded[:80]!r} are not a stream's labels")
    labels: dict[str, str] = {}
    at = 1
    ended = decoded[1:].strip(" \t") == "}"
    while not ended:
        match = _PAIR.match(decoded, at)
        if match is None:
            raise MalformedMessageError(f"{decoded[at : at + 80]!r} is not a label and its value")
        if match["name"] in labels:
            raise MalformedMessageError(f"the label {match['name']!r} comes twice in a stream")
        labels[match["name"]] = _ESCAPE.sub(_unescape, match["value"])
        at = match.end()
        ended = match["end"] == "}"
        if ended and at != len(decoded):
            raise MalformedMessageError(f"{decoded[at : at + 80]!r} follows a stream's labels")
    check_labels(labels)
    return labels


def check_labels(labels: Mapping[str, str]) -> None:
    """Hold a stream's labels to the bounds. Raises MalformedMessageError."""
    if len(labels) > MAX_LABELS:
        raise MalformedMessageError(f"a stream has {len(labels)} labels; {MAX_LABELS} are allowed")
    for name, value in labels.items():
        if not _NAME.fullmatch(name):
            raise MalformedMessageError(f"{name[:80]!r} cannot name a label")
        if len(value.encode("utf-8", "replace")) > MAX_VALUE_BYTES:
            raise MalformedMessageError(f"the label {name!r} is over {MAX_VALUE_BYTES} bytes")


def format_labels(labels: Mapping[str, str]) -> bytes:
    """Write a stream's labels, sorted by name as Loki does."""
    pairs = (f'{name}="{labels[name].translate(_QUOTED)}"' for name in sorted(labels))
    return ("{" + ", ".join(pairs) + "}").encode()
