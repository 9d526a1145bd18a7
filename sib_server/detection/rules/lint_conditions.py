"""Lints about conditions: what hosts would refuse, and what costs them. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, TypeVar

from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.conditions import (
    MAX_VALUE_BYTES,
    OPERATORS,
    OPERATORS_OF_LISTS,
    Comparison,
    FieldOf,
    checks,
    fields,
    macros,
    values,
)
from sib_server.detection.rules.effective import comps
from sib_server.detection.rules.event_types import EVENT_TYPE, event_types
from sib_server.detection.rules.expressions import backtracks, refusal
from sib_server.detection.rules.findings import Finding, LintName, Severity, meant
from sib_server.detection.rules.resolving import ResolveError
from sib_server.detection.rules.resolving import list_items as resolved_items

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sib_server.detection.rules.collect import Macro, Rule
    from sib_server.detection.rules.conditions import Condition, Value
    from sib_server.detection.rules.subject import Read, Subject

_Defined = TypeVar("_Defined", "Rule", "Macro")
CONDITION: Final = LintName("condition")
UNKNOWN_NAME: Final = LintName("unknown-name")
UNKNOWN_FIELD: Final = LintName("unknown-field")
UNKNOWN_EVENT: Final = LintName("unknown-event-type")
NO_EVENT_TYPE: Final = LintName("no-event-type")
EXPRESSION: Final = LintName("regular-expression")
LIST_ITEM: Final = LintName("list-item")
EXCEPTION_FIELD: Final = LintName("exceptions")
SYSCALL: Final = "syscall"
_UNLISTED: Final = "Falco takes the field {!r} for the sake of old rules, and no longer lists it"
_SETS: Final = frozenset({"in", "intersects", "pmatch"})
_BREAKS: Final = re.compile(r"[()\"'=,\t\n\r]")


def read_conditions(subject: Subject) -> Iterator[Finding]:
    """Conditions are Falco's language, and every macro in them is known."""
    for rule in (*subject.judged(), *_changed(subject, subject.rules.rules.values())):
        read = subject.read_rules[rule.name]
        # What is wrong in a macro is told there, once.
        if not (read.unresolved and read.condition and _names_broken(subject, read.condition)):
            yield from _unread(subject, rule, read)
    for macro in (*subject.judged_macros(), *_changed(subject, subject.rules.macros.values())):
        yield from _unread(subject, macro, subject.read_macros[macro.name])


def _changed(subject: Subject, definitions: Iterable[_Defined]) -> Iterator[_Defined]:
    """What of the Falco project's others changed."""
    theirs = {file.file for file in subject.files if file.origin is Origin.FALCO}
    for one in definitions:
        if one.origin is Origin.FALCO and any(place.file not in theirs for place in one.changes):
            yield one


def _names_broken(subject: Subject, condition: Condition) -> bool:
    named = {one.name for one in macros(condition)}
    return any(
        macro.name in named and subject.read_macros[macro.name].problem is not None
        for macro in subject.judged_macros()
    )


def _unread(subject: Subject, about: Rule | Macro, read: Read) -> Iterator[Finding]:
    if read.problem is None:
        return
    severity, reason = Severity.ERROR, read.problem
    if read.unknown and not subject.falco_known:
        severity = Severity.WARNING
        reason += "; whether the Falco project has it is not known here (detection.falco_rules)"
    lint = UNKNOWN_NAME if read.unresolved else CONDITION
    yield Finding(about.condition.place, about.name, lint, reason, severity)


def _conditions(subject: Subject) -> Iterator[tuple[Rule | Macro, Condition]]:
    """Each condition once, where it is written."""
    for rule in subject.judged():
        condition = subject.read_rules[rule.name].condition
        if condition is not None and rule.source == SYSCALL:
            yield rule, condition
    for macro in subject.judged_macros():
        condition = subject.read_macros[macro.name].condition
        if condition is not None:
            yield macro, condition


def _compared(subject: Subject) -> Iterator[tuple[Rule | Macro, Comparison, Value]]:
    """Each value that something is compared with."""
    for about, condition in _conditions(subject):
        for check in checks(condition):
            if isinstance(check, Comparison):
                for value in values(check):
                    yield about, check, value


def unknown_fields(subject: Subject) -> Iterator[Finding]:
    """Falco refuses a field that it does not know, and with it the whole file."""
    for about, condition in _conditions(subject):
        seen: set[str] = set()
        for field in fields(condition):
            problem, severity = _field_problem(subject, field), Severity.ERROR
            if problem is None and subject.facts.fields.get(field.name) == "unlisted":
                problem, severity = _UNLISTED.format(field.name), Severity.WARNING
            if problem is not None and problem not in seen:
                seen.add(problem)
                yield Finding(about.condition.place, about.name, UNKNOWN_FIELD, problem, severity)


def _field_problem(subject: Subject, field: FieldOf) -> str | None:
    facts = subject.facts
    found = facts.field(field.name)
    if found is None:
        return f"Falco {facts.falco} knows no field {field.name!r}{meant(field.name, facts.fields)}"
    name, dotted = found
    argument = dotted if dotted is not None else field.argument
    if argument is None and facts.fields[name] == "required":
        return f"the field {name!r} needs an argument in brackets"
    if argument is not None and facts.fields[name] in {"", "unlisted"}:
        return f"the field {name!r} takes no argument"
    return None


def unknown_events(subject: Subject) -> Iterator[Finding]:
    """A misspelt type never happens."""
    known = {*subject.facts.events, *subject.rules.lists}
    for about, check, value in _compared(subject):
        if not isinstance(check.left, FieldOf) or check.left.name != EVENT_TYPE:
            continue
        if check.operator in {"=", "==", "!=", "in"} and value.text not in known:
            reason = (
                f"Falco {subject.facts.falco} knows no event type {value.text!r}"
                f"{meant(value.text, known)}"
            )
            yield Finding(about.condition.place, about.name, UNKNOWN_EVENT, reason)


def misspelt_lists(subject: Subject) -> Iterator[Finding]:
    """A misspelt list is a text to Falco, which nothing is called: the rule would not fire."""
    lists = subject.rules.lists
    for about, check, value in _compared(subject):
        if check.operator not in _SETS or value.quoted or value.text in lists:
            continue
        if "_" in value.text and (near := meant(value.text, lists)):
            reason = f"there is no list {value.text!r}{near}"
            yield Finding(about.condition.place, about.name, UNKNOWN_NAME, reason, Severity.WARNING)


def no_event_type(subject: Subject) -> Iterator[Finding]:
    """A condition that names no type of event is judged for every system call of every host."""
    for rule in subject.judged():
        resolved = subject.read_rules[rule.name].resolved
        if resolved is None or rule.source != SYSCALL or rule.flags.get("warn_evttypes") is False:
            continue
        if event_types(resolved).are_all:
            reason = (
                "the condition holds for no certain evt.type, so hosts judge every event by it; "
                "begin it with one, such as evt.type = execve"
            )
            yield Finding(rule.condition.place, rule.name, NO_EVENT_TYPE, reason, Severity.WARNING)


def expressions(subject: Subject) -> Iterator[Finding]:
    """Regular expressions that Falco's engine refuses, or that explode in others."""
    for about, check, value in _compared(subject):
        if not check.operator.startswith("regex"):
            continue
        problem = refusal(value.text)
        if problem is not None:
            reason = f"the expression {value.text[:80]!r} {problem}"
            yield Finding(about.condition.place, about.name, EXPRESSION, reason)
        elif (part := backtracks(value.text)) is not None:
            reason = f"{part[:80]!r} repeats what repeats: other engines backtrack over it"
            yield Finding(about.condition.place, about.name, EXPRESSION, reason, Severity.WARNING)


def long_values(subject: Subject) -> Iterator[Finding]:
    """Falco refuses a value of more than 255 bytes, and with it the whole file."""
    for about, _, value in _compared(subject):
        if (reason := _too_long(value.text)) is not None:
            yield Finding(about.condition.place, about.name, CONDITION, reason)


def _too_long(text: str) -> str | None:
    size = len(text.encode(errors="replace"))
    if size <= MAX_VALUE_BYTES:
        return None
    return f"{text[:40]!r} has {size} bytes, and Falco takes {MAX_VALUE_BYTES} of a value"


def list_items(subject: Subject) -> Iterator[Finding]:
    """Falco puts items into conditions as text, so one with a bracket breaks the condition."""
    for one in subject.rules.lists.values():
        if one.origin is Origin.FALCO:
            continue
        for item in one.items:
            inside = (
                item[1:-1] if len(item) > 1 and item[0] == item[-1] and item[0] in "'\"" else None
            )
            bare = inside is None and " " not in item
            broken = bool(_BREAKS.search(item)) if bare else (inside or item).count('"') > 0
            if not item or broken:
                reason = f"the item {item[:60]!r} would break a condition; put it into quotes twice"
                yield Finding(one.place, one.name, LIST_ITEM, reason)
            elif (long := _too_long(inside or item)) is not None:
                yield Finding(one.place, one.name, LIST_ITEM, long)


def nested_lists(subject: Subject) -> Iterator[Finding]:
    """Falco puts lists into lists one level deep: what is deeper stays a mere name."""
    lists = subject.rules.lists
    for one in lists.values():
        if one.origin is Origin.FALCO:
            continue
        try:
            left = (set(resolved_items(one.name, lists)) & lists.keys()) - {one.name}
        except ResolveError as error:
            yield Finding(one.place, one.name, LIST_ITEM, str(error))
            continue
        for name in sorted(left):
            reason = f"Falco does not put in the items of the list {name!r} here; name them anew"
            yield Finding(one.place, one.name, LIST_ITEM, reason)


def exception_fields(subject: Subject) -> Iterator[Finding]:
    """An exception's fields and operators are Falco's; without values no condition shows that."""
    for rule in subject.judged():
        for exception in rule.exceptions:
            known = OPERATORS_OF_LISTS if exception.single else OPERATORS
            for operator in comps(exception):
                if operator not in known:
                    reason = f"the exception {exception.name!r} compares by {operator[:40]!r}"
                    yield Finding(rule.place, rule.name, EXCEPTION_FIELD, reason)
        if rule.source != SYSCALL:
            continue
        for exception in rule.exceptions:
            for name in exception.fields:
                # A transformer around a field is read with the condition once it has values.
                plain = name.partition("[")[0]
                if "(" not in name and subject.facts.field(plain) is None:
                    reason = (
                        f"the exception {exception.name!r} compares {name!r}, a field that Falco "
                        f"{subject.facts.falco} does not know{meant(plain, subject.facts.fields)}"
                    )
                    yield Finding(rule.place, rule.name, EXCEPTION_FIELD, reason)
