"""Items written for hosts: from what was read and checked, never the bytes of a source.

So a host's Falco reads exactly what was judged here, whatever two YAML parsers make of a
source's rarer forms. The same items give the same bytes. Pure.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sib_server.detection.rules.items import (
    EngineItem,
    ListItem,
    MacroItem,
    Operation,
    PluginsItem,
)
from sib_server.detection.sigma.falco_rule import dump_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sib_server.detection.rules.collect import Macro, NamedList, Rule
    from sib_server.detection.rules.items import ExceptionValue, Item, RuleException, RuleItem

_HEAD = "# Made by SIB from {source}. Changes are lost with the next bundle.\n"


def rules_file(source: str, documents: Iterable[Mapping[str, Any]]) -> bytes:
    """A rules file.

    Args:
        source: named in its first line; one line.
        documents: its items.
    """
    return (_HEAD.format(source=source) + dump_yaml(list(documents))).encode()


def item_document(item: Item, more_tags: tuple[str, ...] = ()) -> dict[str, Any]:
    """One item as Falco reads it.

    Args:
        item: what was read.
        more_tags: added to the tags of a rule's definition.
    """
    if isinstance(item, EngineItem):
        number = item.version.isascii() and item.version.isdigit()
        return {"required_engine_version": int(item.version) if number else item.version}
    if isinstance(item, PluginsItem):
        return {"required_plugin_versions": [_plugin(options) for options in item.plugins]}
    if isinstance(item, ListItem):
        document: dict[str, Any] = {"list": item.name, "items": list(item.items)}
        return document | ({"override": {"items": "append"}} if item.append else {})
    if isinstance(item, MacroItem):
        document = {"macro": item.name, "condition": item.condition.value}
        return document | ({"override": {"condition": "append"}} if item.append else {})
    return _rule_item(item, more_tags)


def _plugin(options: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    first, *others = ({"name": name, "version": version} for name, version in options)
    return {**first, **({"alternatives": others} if others else {})}


def _rule_item(item: RuleItem, more_tags: tuple[str, ...]) -> dict[str, Any]:
    document: dict[str, Any] = {"rule": item.name}
    document |= {key: text.value for key, text in item.texts.items()}
    document |= item.flags
    tags = tuple(dict.fromkeys((*(item.tags or ()), *more_tags)))
    if item.is_definition:
        document |= {"tags": list(tags)} if tags else {}
    elif item.tags is not None:
        document["tags"] = list(item.tags)
    if item.exceptions is not None:
        document["exceptions"] = [exception_document(one) for one in item.exceptions]
    if item.capture_duration is not None:
        document["capture_duration"] = _number(item.capture_duration)
    override = dict(item.override)
    if item.append:
        # Falco's older word for the same, about which it warns.
        keys = ("condition", "exceptions")
        override = {key: Operation.APPEND for key in keys if key in document}
    elif not item.is_definition and not override:
        override = {"enabled": Operation.REPLACE}
    if override:
        document["override"] = {key: override[key].value for key in sorted(override)}
    return document


def exception_document(exception: RuleException) -> dict[str, Any]:
    """One exception of a rule."""
    document: dict[str, Any] = {"name": exception.name}
    if exception.fields:
        document["fields"] = _one_or_many(exception.fields, exception.single)
    if exception.comps:
        document["comps"] = _one_or_many(exception.comps, exception.single)
    if exception.values:
        document["values"] = [value_document(value) for value in exception.values]
    return document


def value_document(value: ExceptionValue) -> object:
    """A value of an exception."""
    if isinstance(value, str):
        return value
    return [part if isinstance(part, str) else list(part) for part in value]


def rule_document(rule: Rule, condition: str, more_tags: tuple[str, ...] = ()) -> dict[str, Any]:
    """A whole definition of a rule as it is after all files.

    Args:
        rule: the rule.
        condition: in place of its own.
        more_tags: beside its own.
    """
    document: dict[str, Any] = {
        "rule": rule.name,
        "desc": rule.desc.value,
        "condition": condition,
        "output": rule.output.value,
        "priority": rule.priority.value,
        "source": rule.source,
        "enabled": rule.enabled,
        **rule.flags,
        "tags": [*rule.tags, *more_tags],
    }
    if rule.capture_duration is not None:
        document["capture_duration"] = _number(rule.capture_duration)
    if rule.exceptions:
        document["exceptions"] = [exception_document(one) for one in rule.exceptions]
    return document


def list_document(named: NamedList) -> dict[str, Any]:
    """A whole definition of a list."""
    return {"list": named.name, "items": list(named.items)}


def macro_document(macro: Macro, condition: str) -> dict[str, Any]:
    """A whole definition of a macro."""
    return {"macro": macro.name, "condition": condition}


def _one_or_many(texts: tuple[str, ...], single: bool) -> str | list[str]:
    return texts[0] if single else list(texts)


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
