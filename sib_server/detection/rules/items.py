"""The items of a rules file: rules, macros, lists and requirements, each with its line.

What an item says is kept as Falco takes it: texts. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from sib_server.detection.rules.findings import Place

ExceptionValue: TypeAlias = "str | tuple[str | tuple[str, ...], ...]"
"""For one field a text; for several a tuple, in which a list's values are a tuple again."""


class Operation(Enum):
    """What an override does to a key of an earlier definition."""

    APPEND = "append"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True)
class Text:
    """A text and where it stands. ``block`` is one of YAML's ``|`` and ``>``."""

    value: str
    place: Place
    last_line: int
    block: bool = False


@dataclass(frozen=True, slots=True)
class RuleException:
    """A rule's exception.

    Attributes:
        name: unique in the rule.
        fields: what is compared; empty where an override only adds values.
        single: written as one field and not as a list, so that all values make one list.
        comps: operators; empty for Falco's defaults.
        values: what is excepted.
        place: where it stands.
    """

    name: str
    fields: tuple[str, ...]
    single: bool
    comps: tuple[str, ...]
    values: tuple[ExceptionValue, ...]
    place: Place = field(compare=False)


@dataclass(frozen=True, slots=True)
class RuleItem:
    """A rule as one file says it: a definition, or a change of an earlier one.

    Attributes:
        name: the rule.
        place: its line.
        texts: condition, output, desc, priority, source, as far as they are given.
        flags: enabled, warn_evttypes, skip-if-unknown-filter, capture.
        tags: ``None`` where none are given.
        exceptions: ``None`` where none are given.
        capture_duration: milliseconds, as text.
        override: key -> operation; empty for a definition.
        append: Falco's older word for appending.
    """

    name: str
    place: Place
    texts: dict[str, Text]
    flags: dict[str, bool]
    tags: tuple[str, ...] | None
    exceptions: tuple[RuleException, ...] | None
    capture_duration: str | None
    override: dict[str, Operation]
    append: bool

    @property
    def is_definition(self) -> bool:
        """It stands for itself."""
        only_switch = not self.texts.keys() - {"source"} and "enabled" in self.flags
        return not self.override and not self.append and not only_switch


@dataclass(frozen=True, slots=True)
class MacroItem:
    """A macro as one file says it."""

    name: str
    place: Place
    condition: Text
    append: bool


@dataclass(frozen=True, slots=True)
class ListItem:
    """A list as one file says it."""

    name: str
    place: Place
    items: tuple[str, ...]
    append: bool


@dataclass(frozen=True, slots=True)
class EngineItem:
    """``required_engine_version``."""

    version: str
    place: Place


@dataclass(frozen=True, slots=True)
class PluginsItem:
    """``required_plugin_versions``: name, version and alternatives."""

    plugins: tuple[tuple[tuple[str, str], ...], ...]
    place: Place


Item: TypeAlias = RuleItem | MacroItem | ListItem | EngineItem | PluginsItem
