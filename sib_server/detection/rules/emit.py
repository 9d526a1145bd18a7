"""Items written for hosts: from what was read and checked, never the bytes of a source.

So a host's Falco reads exactly what was judged here, whatever two YAML parsers make of a
source's rarer forms. The same items give the same bytes. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sib_server.detection.dumping import dump_yaml
from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.effective import comps
from sib_server.detection.rules.findings import Finding
from sib_server.detection.rules.items import (
    EngineItem,
    ListItem,
    MacroItem,
    Operation,
    PluginsItem,
    RuleItem,
)
from sib_server.detection.rules.tuned import TUNING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sib_server.detection.rules.collect import Macro, NamedList, Rule, RuleSet
    from sib_server.detection.rules.items import ExceptionValue, Item, RuleException
    from sib_server.detection.rules.ordering import Orderer

_HEAD = "# Made by SIB from {source}. Changes are lost with the next bundle.\n"


def rules_file(source: str, documents: Iterable[Mapping[str, Any]]) -> bytes:
    """A rules file.

    Args:
        source: named in its first line; one line.
        documents: its items.
    """
    return (_HEAD.format(source=source) + dump_yaml(list(documents))).encode()


def item_document(item: Item) -> dict[str, Any]:
    """One item as Falco reads it."""
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
    return _rule_item(item)


def _plugin(options: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    first, *others = ({"name": name, "version": version} for name, version in options)
    return {**first, **({"alternatives": others} if others else {})}


def _rule_item(item: RuleItem) -> dict[str, Any]:
    document: dict[str, Any] = {"rule": item.name}
    document |= {key: text.value for key, text in item.texts.items()}
    document |= item.flags
    if item.tags is not None:
        document["tags"] = list(dict.fromkeys(item.tags))
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
        # Falco has defaults, which it forgets where an override replaces exceptions.
        document["comps"] = _one_or_many(comps(exception), exception.single)
    if exception.values:
        document["values"] = [value_document(value) for value in exception.values]
    return document


def value_document(value: ExceptionValue) -> object:
    """A value of an exception."""
    if isinstance(value, str):
        return value
    return [part if isinstance(part, str) else list(part) for part in value]


def source_documents(
    items: Iterable[Item], origin: Origin, rules: RuleSet, orderer: Orderer
) -> list[dict[str, Any]]:
    """The items of a source as hosts are given them.

    Args:
        items: in order.
        origin: whose they are.
        rules: what became of them.
        orderer: of the conditions in those rules.
    """
    return [
        document
        for item in items
        if _is_told(item, rules)
        and (document := _source_document(item, origin, rules, orderer)) is not None
    ]


def _source_document(
    item: Item, origin: Origin, rules: RuleSet, orderer: Orderer
) -> dict[str, Any] | None:
    document = item_document(item)
    if origin is Origin.FALCO:
        # Hosts would refuse the whole file for a plugin that they have not, and for what is wrong
        # in a copy that is newer than this SIB.
        defines = isinstance(item, RuleItem) and item.is_definition
        if isinstance(item, PluginsItem) or (defines and not orderer.reads(document["condition"])):
            return None
        if defines:
            document["skip-if-unknown-filter"] = True
    # The indicators' conditions are made in the order that suits their numbers.
    if origin is not Origin.INTEL and _is_final(item, rules):
        document["condition"] = orderer.ordered(document["condition"])
    return document


def _is_told(item: Item, rules: RuleSet) -> bool:
    """Changes of what is not there are left out: Falco refuses a file for them."""
    known: Rule | Macro | NamedList | None
    if isinstance(item, RuleItem):
        known, changes = rules.rules.get(item.name), not item.is_definition
    elif isinstance(item, MacroItem):
        known, changes = rules.macros.get(item.name), item.append
    elif isinstance(item, ListItem):
        known, changes = rules.lists.get(item.name), item.append
    else:
        return True
    return not changes or (known is not None and item.place in known.changes)


def _is_final(item: Item, rules: RuleSet) -> bool:
    """Nothing takes the place of a condition, or is added to it by Falco as text."""
    known: Rule | Macro | None = None
    if isinstance(item, RuleItem):
        known = rules.rules.get(item.name)
    elif isinstance(item, MacroItem):
        known = rules.macros.get(item.name)
    return known is not None and known.place == item.place and not known.changes


def decided_documents(
    before: RuleSet, after: RuleSet, orderer: Orderer
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """What was decided about rules.

    Args:
        before: as all files say it.
        after: with decisions.
        orderer: which knows what of the Falco project's was left out.

    Returns:
        Documents, and decisions that cannot be told to hosts.
    """
    documents: list[dict[str, Any]] = []
    findings: list[Finding] = []
    for name, rule in after.rules.items():
        if rule == before.rules[name]:
            continue
        if rule.origin is Origin.FALCO and not orderer.reads(rule.condition.value):
            reason = "this SIB cannot read the rule, so what was decided about it reaches no host"
            findings.append(Finding(rule.place, name, TUNING, reason))
            continue
        documents.append(_override(before.rules[name], rule))
    return documents, findings


def _override(was: Rule, rule: Rule) -> dict[str, Any]:
    document: dict[str, Any] = {"rule": rule.name}
    override: dict[str, str] = {}
    added = [one for exception in rule.exceptions if (one := _added(was, exception)) is not None]
    if added:
        document["exceptions"] = [exception_document(one) for one in added]
        override["exceptions"] = Operation.APPEND.value
    if rule.enabled != was.enabled:
        document["enabled"] = rule.enabled
        override["enabled"] = Operation.REPLACE.value
    return {**document, "override": override}


def _added(was: Rule, exception: RuleException) -> RuleException | None:
    """The values that a tuning added to an exception; the whole where it is new."""
    known = next((one for one in was.exceptions if one.name == exception.name), None)
    if known is None:
        return exception
    values = exception.values[len(known.values) :]
    return replace(known, fields=(), comps=(), values=values) if values else None


def _one_or_many(texts: tuple[str, ...], single: bool) -> str | list[str]:
    return texts[0] if single else list(texts)


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
