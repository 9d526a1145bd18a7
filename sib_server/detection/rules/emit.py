"""Items written for hosts: from what was read and checked, never the bytes of a source.

So a host's Falco reads exactly what was judged here, whatever two YAML parsers make of a
source's rarer forms. The same items give the same bytes. Pure.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from sib_server.detection.dumping import dump_yaml
from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.effective import full_condition
from sib_server.detection.rules.findings import Finding, LintName
from sib_server.detection.rules.items import (
    EngineItem,
    ListItem,
    MacroItem,
    Operation,
    PluginsItem,
    RuleItem,
)
from sib_server.detection.rules.parsing import ConditionError, parse
from sib_server.detection.rules.resolving import ResolveError, Resolver, list_items
from sib_server.detection.rules.writing import write

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sib_server.detection.rules.collect import Macro, NamedList, Rule, RuleSet
    from sib_server.detection.rules.items import ExceptionValue, Item, RuleException

CONDITION: Final = LintName("condition")
_NEVER: Final = "evt.type = execve and evt.num = 0"
"""For a rule that is switched off: any engine reads it, and it costs nothing."""
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


def source_documents(items: Iterable[Item], rules: RuleSet) -> list[dict[str, Any]]:
    """The items of a source as hosts are given them.

    Changes of what the Falco project defines are left out, since Falco refuses a change of what a
    host has not; :func:`decided_documents` has them as whole definitions.
    """
    return [item_document(item) for item in items if _is_told(item, rules)]


def _is_told(item: Item, rules: RuleSet) -> bool:
    known: Rule | Macro | NamedList | None
    if isinstance(item, RuleItem):
        known, changes = rules.rules.get(item.name), not item.is_definition
    elif isinstance(item, MacroItem):
        known, changes = rules.macros.get(item.name), item.append
    elif isinstance(item, ListItem):
        known, changes = rules.lists.get(item.name), item.append
    else:
        return True
    if not changes:
        return True
    return known is not None and known.origin is not Origin.FALCO and item.place in known.changes


def decided_documents(
    before: RuleSet, after: RuleSet
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """What was decided, and what was changed of the Falco project's rules.

    Args:
        before: as all files say it.
        after: with decisions.

    Returns:
        Documents, and rules that cannot be told to hosts.
    """
    resolver = Resolver(after)
    findings: list[Finding] = []
    documents: list[dict[str, Any]] = [
        {"list": named.name, "items": list(list_items(named.name, after.lists))}
        for named in after.lists.values()
        if named.origin is Origin.FALCO and named.changes
    ]
    for macro in after.macros.values():
        if macro.origin is Origin.FALCO and macro.changes:
            text = _resolved(macro.condition.value, resolver, macro, findings)
            if text is not None:
                documents.append({"macro": macro.name, "condition": text})
    for name, rule in after.rules.items():
        was = before.rules[name]
        if rule.origin is Origin.FALCO:
            if was.changes or rule != was:
                documents += _whole(rule, resolver, findings)
        elif rule != was:
            documents.append(_override(was, rule))
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


def _whole(rule: Rule, resolver: Resolver, findings: list[Finding]) -> list[dict[str, Any]]:
    """A definition that names nothing which a host might not have."""
    condition: str | None = _NEVER
    if rule.enabled:
        condition = _resolved(full_condition(rule), resolver, rule, findings)
    if condition is None:
        return []
    document: dict[str, Any] = {
        "rule": rule.name,
        "desc": rule.desc.value,
        "condition": condition,
        # What is switched off needs no fields, which a host's engine might not know.
        "output": rule.output.value if rule.enabled else rule.name.replace("%", " "),
        "priority": rule.priority.value,
        "source": rule.source,
        "enabled": rule.enabled,
        **rule.flags,
        "tags": list(rule.tags),
    }
    if rule.capture_duration is not None:
        document["capture_duration"] = _number(rule.capture_duration)
    return [document]


def _resolved(
    text: str, resolver: Resolver, about: Rule | Macro, findings: list[Finding]
) -> str | None:
    try:
        return write(resolver.resolved(parse(text)))
    except (ConditionError, ResolveError) as error:
        findings.append(Finding(about.condition.place, about.name, CONDITION, str(error)))
        return None


def _one_or_many(texts: tuple[str, ...], single: bool) -> str | list[str]:
    return texts[0] if single else list(texts)


def _number(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else text
