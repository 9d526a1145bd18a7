"""What an administrator decided about rules: switched on or off, and tuned. Pure.

Decisions are kept apart from rules, so that a new version of a rule keeps them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec

from sib_protocol.events import TECHNIQUE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_server.detection.rules.collect import Rule


Selector: TypeAlias = Literal["id", "name", "tag", "technique"]


class Switch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rules switched on or off; of several that select a rule the last one counts.

    Attributes:
        by: what ``value`` is.
        value: an id, a name, a tag, or a technique with its sub-techniques.
        enabled: on or off.
        at: when it was decided, ISO 8601 UTC.
    """

    by: Selector
    value: str
    enabled: bool
    at: str


class Tuning(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Values added to a rule's exception.

    Attributes:
        id: short, for taking it back.
        rule: the rule's name.
        exception: the exception's name.
        fields: what the exception compares; it is left out once the rule's own has other fields.
        adds_exception: the rule has none of that name; it is added whole.
        values: one value a field.
        event_id: the event that it was made for.
        at: when, ISO 8601 UTC.
    """

    id: str
    rule: str
    exception: str
    fields: tuple[str, ...]
    adds_exception: bool
    values: tuple[str, ...]
    event_id: str
    at: str


class Decisions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All of them, in the order in which they were made."""

    format: int = 1
    switches: tuple[Switch, ...] = ()
    tunings: tuple[Tuning, ...] = ()


def selects(switch: Switch, rule: Rule, rule_id: str) -> bool:
    """Whether a switch is about a rule."""
    if switch.by == "name":
        return switch.value == rule.name
    if switch.by == "id":
        return switch.value == rule_id != ""
    if switch.by == "tag":
        return switch.value in rule.tags
    return any(
        tag == switch.value or tag.startswith(f"{switch.value}.")
        for tag in rule.tags
        if TECHNIQUE.fullmatch(tag)
    )


def is_enabled(rule: Rule, rule_id: str, switches: Iterable[Switch]) -> bool:
    """Whether hosts judge by a rule: as the last switch says, or else as the rule itself."""
    enabled = rule.enabled
    for switch in switches:
        if selects(switch, rule, rule_id):
            enabled = switch.enabled
    return enabled


def with_switch(decisions: Decisions, switch: Switch) -> Decisions:
    """The decisions with one more; an older one about the same is dropped."""
    kept = [old for old in decisions.switches if (old.by, old.value) != (switch.by, switch.value)]
    return msgspec.structs.replace(decisions, switches=(*kept, switch))


def with_tuning(decisions: Decisions, tuning: Tuning) -> Decisions:
    """The decisions with one more tuning."""
    return msgspec.structs.replace(decisions, tunings=(*decisions.tunings, tuning))


def without_tunings(decisions: Decisions, ids: Iterable[str]) -> Decisions:
    """The decisions without some tunings."""
    gone = set(ids)
    kept = tuple(tuning for tuning in decisions.tunings if tuning.id not in gone)
    return msgspec.structs.replace(decisions, tunings=kept)
