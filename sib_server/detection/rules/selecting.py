"""Rules found by what a person calls them: an id, a name, a technique, a tag. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sib_protocol.errors import ExitCode, SibError
from sib_protocol.events import TECHNIQUE
from sib_server.detection.rules.decisions import Switch, selects
from sib_server.detection.rules.findings import meant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_server.detection.rules.catalogue import Entry
    from sib_server.detection.rules.decisions import Selector


class NoSuchRuleError(SibError):
    """Nothing is called so.

    Attributes:
        text: what was asked for.
    """

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, text: str, entries: Sequence[Entry], *, falco_known: bool) -> None:
        remedy = "`sib-server rules list` shows all ids and names"
        if not falco_known:
            remedy += "; the Falco project's rules are not known here (detection.falco_rules)"
        known = [name for entry in entries for name in (entry.id, entry.rule.name)]
        near = meant(text, known)
        super().__init__(f"no rule has the id, name, tag or technique {text!r}{near}", remedy)
        self.text = text


def select(
    text: str, entries: Sequence[Entry], at: str, *, enabled: bool, falco_known: bool
) -> tuple[Switch, list[Entry]]:
    """The switch that a person means, and the rules that it is about now.

    An id is tried first, then a name, a technique (with its sub-techniques), a tag.

    Args:
        text: as typed.
        entries: all rules.
        at: now, ISO 8601 UTC.
        enabled: on or off.
        falco_known: whether the Falco project's rules are among the entries.

    Raises:
        NoSuchRuleError: it is about no rule.
    """
    ways: tuple[Selector, ...] = ("id", "name", "technique", "tag")
    for way in ways:
        if way == "technique" and not TECHNIQUE.fullmatch(text):
            continue
        switch = Switch(by=way, value=text, enabled=enabled, at=at)
        found = [entry for entry in entries if selects(switch, entry.rule, entry.id)]
        if found:
            return switch, found
    raise NoSuchRuleError(text, entries, falco_known=falco_known)


def find_rule(text: str, entries: Sequence[Entry], *, falco_known: bool) -> Entry:
    """The one rule of an id or a name.

    Raises:
        NoSuchRuleError: there is none.
    """
    for entry in entries:
        if text in {entry.id, entry.rule.name}:
            return entry
    raise NoSuchRuleError(text, entries, falco_known=falco_known)
