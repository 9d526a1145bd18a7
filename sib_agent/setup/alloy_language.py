"""Writing Alloy's configuration language: blocks of attributes, as ``alloy fmt`` sets them. Pure.

Only what SIB needs of the language. Text is always quoted here, so that no setting can begin an
expression of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Reference:
    """An expression that names another component's export, like ``loki.write.server.receiver``."""

    text: str


Value: TypeAlias = "str | int | bool | Reference | Sequence[Value] | Mapping[str, Value]"


@dataclass(frozen=True, slots=True)
class Block:
    """One block.

    Attributes:
        name: like ``loki.write``.
        label: the component's own name, or empty.
        attributes: in the order in which they are written.
        blocks: within it, below the attributes.
    """

    name: str
    label: str = ""
    attributes: Mapping[str, Value] = field(default_factory=dict)
    blocks: tuple[Block, ...] = ()


def render(blocks: Sequence[Block]) -> str:
    """The text of a configuration."""
    return "\n\n".join(_block(block, "") for block in blocks) + "\n"


def quote(text: str) -> str:
    """A text as a string literal; its escapes are those of JSON."""
    return json.dumps(text, ensure_ascii=False)


def _block(block: Block, indent: str) -> str:
    head = f"{indent}{block.name}" + (f" {quote(block.label)}" if block.label else "")
    inner = f"{indent}\t"
    lines = _aligned(
        {name: _value(value, inner) for name, value in block.attributes.items()}, inner
    )
    parts = ["\n".join(lines)] if lines else []
    parts += [_block(child, inner) for child in block.blocks]
    if not parts:
        return f"{head} {{ }}"
    return f"{head} {{\n" + "\n\n".join(parts) + f"\n{indent}}}"


def _aligned(texts: Mapping[str, str], indent: str) -> list[str]:
    """Each attribute's line; those up to one of several lines have their signs in one column."""
    lines: list[str] = []
    group: list[str] = []
    for name, text in texts.items():
        group.append(name)
        if "\n" in text or len(lines) + len(group) == len(texts):
            width = max(map(len, group))
            lines += [f"{indent}{item:{width}} = {texts[item]}" for item in group]
            group = []
    return lines


def _value(value: Value, indent: str) -> str:
    if isinstance(value, Reference):
        return value.text
    if isinstance(value, Mapping):
        return _object(value, indent)
    if isinstance(value, str):
        return quote(value)
    if isinstance(value, (bool, int)):
        return json.dumps(value)
    return _list(value, indent)


def _object(items: Mapping[str, Value], indent: str) -> str:
    inner = f"{indent}\t"
    width = max(map(len, items), default=0)
    lines = [f"{inner}{key:{width}} = {_value(item, inner)},\n" for key, item in items.items()]
    return "{\n" + "".join(lines) + f"{indent}}}"


def _list(items: Sequence[Value], indent: str) -> str:
    if len(items) < 2:
        return "[" + "".join(_value(item, indent) for item in items) + "]"
    inner = f"{indent}\t"
    return "[\n" + "".join(f"{inner}{_value(item, inner)},\n" for item in items) + f"{indent}]"
