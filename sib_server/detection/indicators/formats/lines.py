"""Readers of text lists and host files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_server.detection.indicators.formats.records import Reading, Record
from sib_server.detection.indicators.kinds import parse_address, parse_as, parse_domain, recognise

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_server.detection.indicators.formats.shape import Shape

MAX_LINE: Final = 64 * 1024
"""The longest line, bytes; what is longer is cut."""

MAX_LINES: Final = 5_000_000
"""The most lines that are looked at, empty ones and comments included."""

_LOCAL_NAMES: Final = frozenset(
    {"localhost", "localhost.localdomain", "local", "broadcasthost", "ip6-localhost"}
)


def text_lines(content: bytes) -> Iterator[str]:
    """The lines of a file, whatever their ends, one at a time and cut to :data:`MAX_LINE`.

    Bytes that are not UTF-8 are replaced. After :data:`MAX_LINES` no more are told: a feed that is
    nothing but line ends would take hours otherwise.
    """
    at = 3 if content.startswith(b"\xef\xbb\xbf") else 0
    for _ in range(MAX_LINES):
        end = content.find(b"\n", at)
        last = end < 0
        line = content[at : min(at + MAX_LINE, len(content) if last else end)]
        yield line.decode("utf-8", errors="replace").rstrip("\r")
        if last:
            return
        at = end + 1


def entry_of(line: str) -> str:
    """A line without its comment and white space; empty where nothing is left."""
    entry = line.strip()
    if entry.startswith(("#", ";", "//")):
        return ""
    for sign in "#;":
        at = entry.find(sign)
        while at > 0 and not entry[at - 1].isspace():
            at = entry.find(sign, at + 1)
        if at > 0:
            entry = entry[:at].rstrip()
    return entry


def read_text(content: bytes, shape: Shape, max_records: int) -> Reading:
    """One indicator a line, first on its line; ``#``, ``;`` and ``//`` begin comments."""
    reading = Reading()
    for line in text_lines(content):
        entry = entry_of(line)
        if not entry:
            continue
        if len(reading.records) >= max_records:
            reading.cut = True
            break
        word = entry.split(maxsplit=1)[0].strip(",\"'")
        observable = parse_as(shape.kind, word) if shape.kind else recognise(word)
        if observable is None:
            reading.reject(entry)
        else:
            reading.records.append(Record(observable))
    return reading


def read_hostfile(content: bytes, shape: Shape, max_records: int) -> Reading:  # noqa: ARG001 -
    # every reader has the same shape, and a host file leaves nothing to be said.
    """``0.0.0.0 bad.example`` a line: the names are the indicators, the address is not."""
    reading = Reading()
    for line in text_lines(content):
        words = entry_of(line).split()
        if not words:
            continue
        if len(words) < 2 or parse_address(words[0].split("%", 1)[0]) is None:
            reading.reject(line)
            continue
        for name in words[1:]:
            if name.lower() in _LOCAL_NAMES or name.startswith("ip6-"):
                continue
            if len(reading.records) >= max_records:
                reading.cut = True
                return reading
            domain = parse_domain(name)
            if domain is None:
                reading.reject(name)
            else:
                reading.records.append(Record(domain))
    return reading
