"""YAML read for its lines: what stands where, within bounds, and nothing interpreted.

Falco takes every scalar for text and decodes it where it is used; so does this. Tags, merge keys
and types have no meaning, so nothing can be constructed, and what an alias repeats is counted as
often as it is repeated. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES: Final = 32 * 1024 * 1024
"""The largest file: half a million addresses are 11 MB."""
MAX_NODES: Final = 1_500_000
"""Values in a file, those that aliases repeat included."""
MAX_DEPTH: Final = 12
"""Falco's deepest form is an exception's value: five levels."""

_INDENTED: Final = "is a line above indented otherwise than its neighbours?"
# What the parser says, and what it mostly comes from.
_HINTS: Final = {
    "mapping values are not allowed in this context": (
        "is the line indented further than the one above, or does `: ` stand in a text without "
        "quotes?"
    ),
    "did not find expected key": _INDENTED,
    "did not find expected '-' indicator": _INDENTED,
    "found character that cannot start any token": "does the text want quotes?",
    "found unexpected end of stream": "is a quote or bracket left open?",
}
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})


class DocumentError(ValueError):
    """Text that is not a rules file.

    Attributes:
        line: where, from 1.
        reason: why.
    """

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text. ``line`` is where it begins, ``last_line`` where it ends, both from 1."""

    text: str
    line: int
    last_line: int
    plain: bool = True
    block: bool = False

    @property
    def is_null(self) -> bool:
        """Nothing stands there."""
        return self.plain and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Sequence:
    """Values in order."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Mapping:
    """Values by key; a key that is there twice is an error before this is made."""

    entries: dict[str, Node]
    line: int

    def __hash__(self) -> int:
        return id(self)


Node: TypeAlias = Scalar | Sequence | Mapping


def read_documents(content: bytes) -> list[Node]:
    """The documents of a file, empty ones left out.

    Raises:
        DocumentError: not UTF-8, not YAML, or beyond the bounds.
    """
    if len(content) > MAX_BYTES:
        raise DocumentError(1, f"larger than {MAX_BYTES // 2**20} MiB")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DocumentError(line, "not UTF-8 text") from error
    try:
        return _Composer(yaml.parse(text, Loader=yaml.CSafeLoader)).documents()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = error.problem or error.context or "not YAML"
        hint = f"; {_HINTS[reason]}" if reason in _HINTS else ""
        raise DocumentError(mark.line + 1 if mark else 1, f"not YAML: {reason}{hint}") from error
    except yaml.YAMLError as error:
        # A character that YAML has not: the reader knows its position only.
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        raise DocumentError(line, f"not YAML: {getattr(error, 'reason', error)}") from error


class _Composer:
    """Builds nodes from the parser's events; recursion is as deep as MAX_DEPTH."""

    def __init__(self, events: Iterator[yaml.Event]) -> None:
        self._events = events
        self._anchors: dict[str, tuple[Node, int, int]] = {}
        self._count = 0

    def documents(self) -> list[Node]:
        found: list[Node] = []
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._anchors = {}
                node = self._node(next(self._events), 0)
                if not (isinstance(node, Scalar) and node.is_null):
                    found.append(node)
        return found

    def _node(self, event: yaml.Event, depth: int) -> Node:
        line = _line(event.start_mark)
        before = self._count
        self._spend(1, line)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise DocumentError(line, f"the alias *{event.anchor} has no anchor before it")
            node, size, height = self._anchors[event.anchor]
            self._spend(size - 1, line)
            if depth + height > MAX_DEPTH:
                raise DocumentError(line, f"nested deeper than {MAX_DEPTH} levels")
            return node
        if depth >= MAX_DEPTH:
            raise DocumentError(line, f"nested deeper than {MAX_DEPTH} levels")
        if isinstance(event, yaml.ScalarEvent):
            node = _scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = Sequence(tuple(self._members(yaml.SequenceEndEvent, depth)), line)
        else:
            node = self._mapping(depth, line)
        anchor = getattr(event, "anchor", None)
        if anchor is not None:
            self._anchors[anchor] = (node, self._count - before, _height(node))
        return node

    def _members(self, end: type[yaml.Event], depth: int) -> Iterator[Node]:
        for event in self._events:
            if isinstance(event, end):
                return
            yield self._node(event, depth + 1)

    def _mapping(self, depth: int, line: int) -> Mapping:
        entries: dict[str, Node] = {}
        members = self._members(yaml.MappingEndEvent, depth)
        for key in members:
            value = next(members)
            if not isinstance(key, Scalar):
                raise DocumentError(key.line, "a key that is not text")
            if key.text in entries:
                raise DocumentError(key.line, f"the key {key.text!r} is there twice")
            entries[key.text] = value
        return Mapping(entries, line)

    def _spend(self, nodes: int, line: int) -> None:
        self._count += nodes
        if self._count > MAX_NODES:
            raise DocumentError(line, f"more than {MAX_NODES} values")


def _height(node: Node) -> int:
    if isinstance(node, Scalar):
        return 1
    parts = node.items if isinstance(node, Sequence) else node.entries.values()
    return 1 + max(map(_height, parts), default=0)


def _line(mark: Any) -> int:
    """Of a mark of either of the library's two parsers, whose types say that it may be missing."""
    line: int = mark.line
    return line + 1


def _scalar(event: yaml.ScalarEvent) -> Scalar:
    return Scalar(
        event.value,
        _line(event.start_mark),
        _line(event.end_mark),
        plain=not event.style,
        block=event.style in ("|", ">"),
    )
