"""What a host judges by: a rule's condition with its exceptions. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_server.detection.rules.conditions import OPERATORS_OF_LISTS

if TYPE_CHECKING:
    from sib_server.detection.rules.collect import Rule
    from sib_server.detection.rules.items import ExceptionValue, RuleException

DEFAULT_COMP: Final = "="
DEFAULT_SINGLE_COMP: Final = "in"


def full_condition(rule: Rule) -> str:
    """The condition and its exceptions as one text, put together as Falco does."""
    if not rule.exceptions:
        return rule.condition.value
    excepted = [text for exception in rule.exceptions if (text := _excepted(exception))]
    return " and not ".join([f"({rule.condition.value})", *excepted])


def comps(exception: RuleException) -> tuple[str, ...]:
    """An exception's operators, one a field."""
    default = DEFAULT_SINGLE_COMP if exception.single else DEFAULT_COMP
    return exception.comps or (default,) * len(exception.fields)


def _excepted(exception: RuleException) -> str:
    if exception.single:
        values = ", ".join(_blank_safe(str(value)) for value in exception.values)
        operator = comps(exception)[0]
        return f"({exception.fields[0]} {operator} ({values}))" if values else ""
    rows = [f"({_row(exception, value)})" for value in exception.values]
    return f"({' or '.join(rows)})" if rows else ""


def _row(exception: RuleException, value: ExceptionValue) -> str:
    checks = zip(exception.fields, comps(exception), value, strict=True)
    return " and ".join(f"{field} {comp} {_right(comp, part)}" for field, comp, part in checks)


def _right(comp: str, part: str | tuple[str, ...]) -> str:
    if isinstance(part, tuple):
        return f"({', '.join(map(_blank_safe, part))})"
    if comp in OPERATORS_OF_LISTS:
        return part if part.startswith("(") else f"({part})"
    return _blank_safe(part)


def _blank_safe(item: str) -> str:
    return f'"{item}"' if " " in item and item[0] not in "'\"" else item
