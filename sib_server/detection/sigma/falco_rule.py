"""A Falco rule around a condition: name, priority, tags, output and lists."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sib_server.detection.dumping import dump_yaml
from sib_server.detection.sigma.condition import And, Check, Node, Not, Or, render
from sib_server.detection.sigma.levels import level_of, priority_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sigma.correlations import SigmaCorrelationRule
    from sigma.rule import SigmaRule

ENGINE: Final = "0.62.0"
"""The engine whose operators and fields the conditions use (Falco 0.44)."""
LIST_FROM: Final = 8
"""A list of so many values or more becomes a Falco list of its own."""
_LIST_ITEM: Final = re.compile(r"[A-Za-z0-9_/.][A-Za-z0-9_/.-]*")
MAX_NAME: Final = 200
_OUTPUT: Final = (
    "user=%user.name uid=%user.uid program=%proc.exepath command=%proc.cmdline "
    "parent=%proc.pexepath parent_command=%proc.pcmdline cwd=%proc.cwd"
)
_EVENT_OUTPUT: Final = (
    *(
        (field, "server=%fd.sip server_port=%fd.sport client=%fd.cip client_port=%fd.cport")
        for field in ("fd.typechar", "fd.sip", "fd.snet", "fd.sport")
    ),
    ("evt.arg.data", "query=%evt.arg.data"),
    *((field, "file=%fd.name") for field in ("fd.name", "evt.is_open_")),
    ("fs.path.name", "path=%fs.path.name"),
    ("fs.path.target", "target=%fs.path.target"),
    ("fs.path.source", "source=%fs.path.source"),
)


@dataclass(frozen=True, slots=True)
class FalcoRule:
    """One converted rule.

    Attributes:
        name: unique in a rules file.
        description: what it finds, whose it is, and under which licence.
        condition: as Falco reads it.
        output: Falco's output template.
        priority: Falco's word.
        tags: ATT&CK ids and tactics, ``sigma``, and ``sigma:<id>``.
        lists: the lists that the condition names.
    """

    name: str
    description: str
    condition: str
    output: str
    priority: str
    tags: tuple[str, ...]
    lists: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def documents(self) -> list[dict[str, Any]]:
        """The lists and the rule, as items of a rules file."""
        lists: list[dict[str, Any]] = [
            {"list": name, "items": list(items)} for name, items in self.lists
        ]
        rule = {
            "rule": self.name,
            "desc": self.description,
            "condition": self.condition,
            "output": self.output,
            "priority": self.priority,
            "source": "syscall",
            "tags": list(self.tags),
        }
        return [*lists, rule]

    def yaml(self) -> str:
        """A rules file with this rule alone."""
        return dump_yaml(self.documents())


def build_rule(rule: SigmaRule, condition: Node, notes: Iterable[str] = ()) -> FalcoRule:
    """Dress a condition as a rule.

    Args:
        rule: whose title, level, tags and author are taken.
        condition: what Falco judges.
        notes: what people should know of the conversion; part of the description.

    Raises:
        ValueError: the condition is constant.
    """
    identity = str(rule.id) if rule.id else ""
    prefix = f"sigma_{identity.replace('-', '')[:12] or _slug(rule.title)}"
    lists: dict[tuple[str, ...], str] = {}
    text = render(_with_lists(condition, lists, prefix))
    return FalcoRule(
        name=rule.title[:MAX_NAME],
        description=" ".join([_description(rule), *notes]),
        condition=text,
        output=_output(rule, identity, text),
        priority=priority_of(level_of(rule)).value.upper(),
        tags=sigma_tags(rule),
        lists=tuple((name, items) for items, name in lists.items()),
    )


def rules_document(rules: Iterable[FalcoRule]) -> str:
    """One rules file; rules of one name are told apart by their Sigma id."""
    items: list[dict[str, Any]] = [{"required_engine_version": ENGINE}]
    names: set[str] = set()
    for rule in rules:
        documents = rule.documents()
        name = rule.name
        if name in names:
            identity = next((tag for tag in rule.tags if tag.startswith("sigma:")), str(len(names)))
            name = documents[-1]["rule"] = f"{name} ({identity.removeprefix('sigma:')})"
        names.add(name)
        items.extend(documents)
    return dump_yaml(items)


def sigma_tags(rule: SigmaRule | SigmaCorrelationRule) -> tuple[str, ...]:
    """ATT&CK techniques and tactics as Falco's rules write them, and the Sigma id."""
    tags = []
    for tag in rule.tags:
        if tag.namespace == "attack" and re.fullmatch(r"t\d{4}(\.\d{3})?", tag.name):
            tags.append(tag.name.upper())
        elif tag.namespace == "attack" and re.fullmatch(r"[a-z_-]+", tag.name):
            tags.append(f"mitre_{tag.name.replace('-', '_')}")
        else:
            tags.append(f"{tag.namespace}.{tag.name}")
    return tuple(dict.fromkeys([*tags, "sigma", *([f"sigma:{rule.id}"] if rule.id else [])]))


def _description(rule: SigmaRule) -> str:
    about = " ".join((rule.description or rule.title).split())
    author = f" Author: {rule.author}." if rule.author else ""
    licence = f" Licence: {rule.license}." if rule.license else ""
    origin = f"Converted from the Sigma rule {rule.id or 'without an id'}."
    return f"{about} {origin}{author}{licence}"


def _output(rule: SigmaRule, identity: str, condition: str) -> str:
    # The licence of SigmaHQ's rules asks that messages name the author.
    head = f"{rule.title} | sigma={identity or '-'} author={rule.author or '-'}"
    plain = " ".join(head.split()).replace("%", " percent ")
    extra = dict.fromkeys(text for field, text in _EVENT_OUTPUT if field in condition)
    return " ".join([plain, f"evt_type=%evt.type {_OUTPUT}", *extra])


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40] or "rule"


def _with_lists(node: Node, lists: dict[tuple[str, ...], str], prefix: str) -> Node:
    if isinstance(node, Not):
        return Not(_with_lists(node.part, lists, prefix))
    if isinstance(node, And | Or):
        return type(node)(tuple(_with_lists(part, lists, prefix) for part in node.parts))
    if (
        node.operator != "in"
        or node.left == "evt.type"
        or node.bare
        or len(node.values) < LIST_FROM
        or not all(_LIST_ITEM.fullmatch(value) for value in node.values)
    ):
        return node
    name = lists.setdefault(node.values, f"{prefix}_{len(lists) + 1}")
    return Check(node.left, "in", (name,), bare=True)
