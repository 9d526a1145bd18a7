"""Items of several files put together as Falco does: later ones replace, append and override.

Pure. Falco's ways that matter here: a second definition of a name replaces the first; changes of
what was not defined before are refused; lists are known everywhere, macros only after their
definition.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from sib_server.detection.rules.findings import Finding, LintName, Place, Severity
from sib_server.detection.rules.items import (
    EngineItem,
    ListItem,
    MacroItem,
    Operation,
    PluginsItem,
    RuleException,
    RuleItem,
    Text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sib_server.detection.rules.items import Item

DUPLICATE_NAME: Final = LintName("duplicate-name")
NOT_DEFINED: Final = LintName("not-defined")
EXCEPTION: Final = LintName("exceptions")
DEFAULT_SOURCE: Final = "syscall"


class Origin(Enum):
    """Whose a rule is; the value is what `rules list` shows as its source."""

    FALCO = "falco"
    """The Falco project's, loaded by hosts from their own package."""

    SIB = "sib"
    SIGMA = "sigma"
    INTEL = "intel"
    OWN = "own"
    """The administrator's, from the folder of own rules."""


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One rules file, read.

    Attributes:
        file: as findings name it.
        origin: whose it is.
        stem: what its file in a bundle is named after.
        items: in order.
    """

    file: str
    origin: Origin
    stem: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule as it is after all files.

    Attributes:
        name: unique.
        place: of the definition that counts.
        origin: whose that definition is.
        condition: without the exceptions.
        output: Falco's template.
        desc: what it finds and why that matters.
        priority: as written.
        source: Falco's event source.
        tags: as written, without repeats.
        exceptions: by name.
        enabled: whether hosts judge by it.
        flags: further switches of Falco, as far as they were given.
        capture_duration: as written.
        changes: items that changed the definition.
    """

    name: str
    place: Place
    origin: Origin
    condition: Text
    output: Text
    desc: Text
    priority: Text
    source: str
    tags: tuple[str, ...]
    exceptions: tuple[RuleException, ...]
    enabled: bool = True
    flags: Mapping[str, bool] = field(default_factory=dict, hash=False)
    capture_duration: str | None = None
    changes: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class Turn:
    """Where a macro or list stands among all items.

    Attributes:
        first: it was defined first as this one of all items.
        last: it was defined anew or changed last as this one.
    """

    first: int
    last: int

    def sees(self, other: Turn) -> bool:
        """Whether it knows another one: Falco puts in what was defined before the last word."""
        return other.first < self.last


@dataclass(frozen=True, slots=True)
class Macro:
    """A macro as it is after all files."""

    name: str
    place: Place
    origin: Origin
    condition: Text
    turn: Turn
    changes: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True)
class NamedList:
    """A list as it is after all files; for an item that names another list see
    :func:`~.resolving.list_items`."""

    name: str
    place: Place
    origin: Origin
    items: tuple[str, ...]
    turn: Turn
    changes: tuple[Place, ...] = ()


Definition = Rule | Macro | NamedList


@dataclass(frozen=True, slots=True)
class RuleSet:
    """All of it, in the order of first definition.

    Attributes:
        rules, macros, lists: by name.
        engines, plugins: what is asked of the engine.
        replaced: definitions that later ones of the same name took the place of, in order; none of
            the Falco project's.
    """

    rules: Mapping[str, Rule]
    macros: Mapping[str, Macro]
    lists: Mapping[str, NamedList]
    engines: tuple[EngineItem, ...]
    plugins: tuple[PluginsItem, ...]
    replaced: tuple[Definition, ...] = ()

    def earlier(self) -> Iterator[tuple[RuleSet, frozenset[str]]]:
        """The set as it would be by earlier definitions, and whose; each definition comes once."""
        rest = list(self.replaced)
        while rest:
            layer = {(type(one), one.name): one for one in reversed(rest)}
            rest = [one for one in rest if layer[type(one), one.name] is not one]
            rules = {one.name: one for one in layer.values() if isinstance(one, Rule)}
            macros = {one.name: one for one in layer.values() if isinstance(one, Macro)}
            lists = {one.name: one for one in layer.values() if isinstance(one, NamedList)}
            changed = replace(
                self,
                rules={**self.rules, **rules},
                macros={**self.macros, **macros},
                lists={**self.lists, **lists},
            )
            yield changed, frozenset(one.name for one in layer.values())


def collect(files: Iterable[SourceFile]) -> tuple[RuleSet, list[Finding]]:
    """Put files together in the order given.

    Returns:
        The set, and what Falco would refuse or silently replace.
    """
    collector = _Collector()
    for file in files:
        before = len(collector.findings)
        for item in file.items:
            collector.add(file.origin, item)
        if file.origin is Origin.FALCO:
            collector.findings[before:] = softened(collector.findings[before:])
    return collector.result(), collector.findings


def softened(findings: Iterable[Finding]) -> list[Finding]:
    """Findings about the Falco project's rules: what hosts make of those keeps no bundle back."""
    return [replace(finding, severity=Severity.WARNING) for finding in findings]


class _Collector:
    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self._macros: dict[str, Macro] = {}
        self._lists: dict[str, NamedList] = {}
        self._engines: list[EngineItem] = []
        self._plugins: list[PluginsItem] = []
        self._earlier: list[Definition] = []
        self._count = 0
        self.findings: list[Finding] = []

    def result(self) -> RuleSet:
        return RuleSet(
            self._rules,
            self._macros,
            self._lists,
            tuple(self._engines),
            tuple(self._plugins),
            tuple(self._earlier),
        )

    def add(self, origin: Origin, item: Item) -> None:
        if isinstance(item, EngineItem):
            self._engines.append(item)
        elif isinstance(item, PluginsItem):
            self._plugins.append(item)
        elif isinstance(item, ListItem):
            self._list(origin, item)
        elif isinstance(item, MacroItem):
            self._macro(origin, item)
        else:
            self._rule(origin, item)

    def _turn(self, before: Macro | NamedList | None) -> Turn:
        self._count += 1
        return Turn(self._count if before is None else before.turn.first, self._count)

    def _list(self, origin: Origin, item: ListItem) -> None:
        before = self._lists.get(item.name)
        if item.append:
            if before is None:
                self._undefined(item, "list")
                return
            items = before.items + item.items
            changed = (*before.changes, item.place)
            turn = self._turn(before)
            self._lists[item.name] = replace(before, items=items, turn=turn, changes=changed)
            return
        self._replaced(before, origin, item, "list")
        turn = self._turn(before)
        self._lists[item.name] = NamedList(item.name, item.place, origin, item.items, turn)

    def _macro(self, origin: Origin, item: MacroItem) -> None:
        before = self._macros.get(item.name)
        if item.append:
            if before is None:
                self._undefined(item, "macro")
                return
            condition = _joined(before.condition, item.condition)
            changed = (*before.changes, item.place)
            turn = self._turn(before)
            self._macros[item.name] = replace(
                before, condition=condition, turn=turn, changes=changed
            )
            return
        self._replaced(before, origin, item, "macro")
        turn = self._turn(before)
        self._macros[item.name] = Macro(item.name, item.place, origin, item.condition, turn)

    def _rule(self, origin: Origin, item: RuleItem) -> None:
        before = self._rules.get(item.name)
        if item.is_definition:
            self._replaced(before, origin, item, "rule")
            self._rules[item.name] = _defined(origin, item)
            return
        if before is None:
            self._undefined(item, "rule")
            return
        self._rules[item.name] = self._changed(before, item)

    def _changed(self, before: Rule, item: RuleItem) -> Rule:
        """The rule with an override, an appended item or a bare switch applied."""
        if item.append:
            # Falco's older word is about these two, whatever else stands there.
            operations = dict.fromkeys(("condition", "exceptions"), Operation.APPEND)
        else:
            operations = item.override or {"enabled": Operation.REPLACE}
        after = before
        for key, operation in operations.items():
            adds = operation is Operation.APPEND
            if key == "tags" and item.tags is not None:
                tags = (*before.tags, *item.tags) if adds else item.tags
                after = replace(after, tags=tuple(dict.fromkeys(tags)))
            elif key == "exceptions" and item.exceptions is not None:
                given = item.exceptions
                merged = self._merged(before, given) if adds else given
                after = replace(after, exceptions=merged)
            elif key == "enabled":
                after = replace(after, enabled=item.flags["enabled"])
            elif key in item.flags:
                after = replace(after, flags={**after.flags, key: item.flags[key]})
            elif key == "capture_duration":
                after = replace(after, capture_duration=item.capture_duration)
            elif key in item.texts and key != "source":
                text = item.texts[key]
                joined = _joined(getattr(before, key), text) if adds else text
                changed: dict[str, Any] = {key: joined}
                after = replace(after, **changed)
        return replace(after, changes=(*before.changes, item.place))

    def _merged(self, before: Rule, given: tuple[RuleException, ...]) -> tuple[RuleException, ...]:
        merged = {exception.name: exception for exception in before.exceptions}
        for exception in given:
            known = merged.get(exception.name)
            if known is None and not (exception.fields and exception.values):
                problem = "is new, so it needs fields and values"
            elif known is not None and (exception.fields or exception.comps):
                problem = "is there already, so only values can be added"
            elif known is not None and not all(_fits(known, value) for value in exception.values):
                problem = f"has a value that does not fit its fields, {', '.join(known.fields)}"
            elif known is None:
                merged[exception.name] = exception
                continue
            else:
                values = known.values + exception.values
                merged[exception.name] = replace(known, values=values)
                continue
            self.findings.append(
                Finding(
                    exception.place, before.name, EXCEPTION,
                    f"the exception {exception.name!r} {problem}",
                )
            )  # fmt: skip
        return tuple(merged.values())

    def _undefined(self, item: RuleItem | MacroItem | ListItem, kind: str) -> None:
        reason = f"changes a {kind} that is not defined before; Falco would refuse the file"
        self.findings.append(Finding(item.place, item.name, NOT_DEFINED, reason))

    def _replaced(
        self,
        before: Definition | None,
        origin: Origin,
        item: RuleItem | MacroItem | ListItem,
        kind: str,
    ) -> None:
        if before is None or origin is Origin.FALCO is before.origin:
            # The project's files of several maturities repeat what they share.
            return
        if before.origin is not Origin.FALCO:
            self._earlier.append(before)
        # To write a whole definition anew is how an administrator changes what others wrote.
        meant = origin is Origin.OWN and before.origin is not Origin.OWN
        severity = Severity.WARNING if meant else Severity.ERROR
        reason = f"replaces the {kind} of the same name at {before.place}"
        self.findings.append(Finding(item.place, item.name, DUPLICATE_NAME, reason, severity))


def _fits(known: RuleException, value: object) -> bool:
    if known.single:
        return isinstance(value, str)
    return isinstance(value, tuple) and len(value) == len(known.fields)


def _joined(before: Text, more: Text) -> Text:
    # Falco joins conditions by a blank: the added one begins with `and` or `or`.
    return replace(before, value=f"{before.value} {more.value}", last_line=before.place.line)


def _defined(origin: Origin, item: RuleItem) -> Rule:
    flags = {key: flag for key, flag in item.flags.items() if key != "enabled"}
    source = item.texts.get("source")
    return Rule(
        item.name,
        item.place,
        origin,
        item.texts["condition"],
        item.texts["output"],
        item.texts["desc"],
        item.texts["priority"],
        source.value if source is not None else DEFAULT_SOURCE,
        tuple(dict.fromkeys(item.tags or ())),
        item.exceptions or (),
        item.flags.get("enabled", True),
        flags,
        item.capture_duration,
    )
