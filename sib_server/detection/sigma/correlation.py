"""Sigma's correlation rules as LogQL metric queries. Pure.

The events of a rule that Falco judges are in Loki too (the stream ``syscall``, with the rule's tags
as structured metadata, its Sigma id among them), so a correlation may join what Falco and what log
lines show.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sigma.correlations import (
    SigmaCorrelationCondition,
    SigmaCorrelationConditionOperator,
    SigmaCorrelationType,
)

from sib_server.detection.sigma.logql import LogQLUnsupportedError
from sib_server.detection.sigma.streams import FALCO

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from sigma.correlations import SigmaCorrelationRule, SigmaRuleReference

_OPERATORS: Final = {
    SigmaCorrelationConditionOperator.LT: "<",
    SigmaCorrelationConditionOperator.LTE: "<=",
    SigmaCorrelationConditionOperator.GT: ">",
    SigmaCorrelationConditionOperator.GTE: ">=",
    SigmaCorrelationConditionOperator.EQ: "==",
}
_HOST_FIELDS: Final = frozenset(
    {"host", "host.name", "hostname", "Hostname", "HostName", "Computer", "ComputerName"}
)


@dataclass(frozen=True, slots=True)
class Search:
    """The log lines of one referenced rule.

    Attributes:
        queries: LogQL log queries, of which any may match a line.
        labels: Sigma field -> label that the queries give.
        event_fields: Sigma field -> Falco field, where the lines are Falco's events.
    """

    queries: tuple[str, ...]
    labels: Mapping[str, str]
    event_fields: Mapping[str, str] | None = None


def event_search(rule_name: str, sigma_id: UUID | None, fields: Mapping[str, str]) -> Search:
    """The events that a Falco rule wrote: by its Sigma id, since names need not be unique."""
    if sigma_id is not None:
        which = f"tags=~`(.*,)?sigma:{sigma_id}(,.*)?`"
    else:
        quoted = rule_name.replace("\\", "\\\\").replace('"', '\\"')
        which = f'rule="{quoted}"'
    return Search((f'{{source="{FALCO}"}} | {which}',), {}, fields)


def correlation_query(
    rule: SigmaCorrelationRule, searches: Mapping[SigmaRuleReference, Search]
) -> str:
    """A LogQL expression that has a sample wherever the correlation holds.

    Raises:
        LogQLUnsupportedError: LogQL cannot count this.
    """
    condition = rule.condition
    if not isinstance(condition, SigmaCorrelationCondition):
        raise LogQLUnsupportedError("LogQL cannot say a correlation with a condition over rules")
    operator = _OPERATORS.get(condition.op)
    if operator is None:
        raise LogQLUnsupportedError(f"LogQL has no comparison {condition.op.name} for a count")
    if condition.count < 1 or operator in {"<", "<="}:
        raise LogQLUnsupportedError("LogQL cannot see that nothing happened in a group")
    groups = _Groups(rule, searches)
    limit = f"{operator} {condition.count}"
    if rule.type is SigmaCorrelationType.EVENT_COUNT:
        return f"sum{groups.by()} ({groups.union()}) {limit}"
    if rule.type is SigmaCorrelationType.VALUE_COUNT:
        if not isinstance(condition.fieldref, str):
            raise LogQLUnsupportedError("LogQL counts the values of one field")
        field = condition.fieldref
        each = f"sum{groups.by(field)} ({groups.union(field)})"
        return f"count{groups.by()} ({each}) {limit}"
    if rule.type is SigmaCorrelationType.TEMPORAL:
        return f"count{groups.by()} ({groups.union()}) {limit}"
    raise LogQLUnsupportedError(f"LogQL cannot say a correlation of the type {rule.type.name}")


class _Groups:
    """The labels by which a correlation groups, and its searches with them."""

    def __init__(
        self, rule: SigmaCorrelationRule, searches: Mapping[SigmaRuleReference, Search]
    ) -> None:
        self.names = tuple(rule.group_by or ())
        self.timespan = rule.timespan.spec
        if re.fullmatch(r"\d+[smhdwy]", self.timespan) is None:
            raise LogQLUnsupportedError(f"LogQL has no range of {self.timespan}")
        self.searches = searches
        self.aliases = {
            alias.alias: {reference.reference: field for reference, field in alias.mapping.items()}
            for alias in rule.aliases
        }

    def by(self, *more: str) -> str:
        labels = [_label(name) for name in (*self.names, *more)]
        return f" by ({', '.join(labels)})" if labels else ""

    def union(self, *more: str) -> str:
        """The counts of all searches, kept apart by the label ``sigma_rule``."""
        counts: list[str] = []
        for number, (reference, search) in enumerate(self.searches.items(), start=1):
            names = (*self.names, *more)
            fields = {
                name: self.aliases.get(name, {}).get(reference.reference, name) for name in names
            }
            if len(search.queries) != 1:
                raise LogQLUnsupportedError("a referenced rule is too long for one LogQL query")
            one = self._count(search.queries[0], search, fields)
            counts.append(f'label_replace({one}, "sigma_rule", "{number}", "", "")')
        return " or ".join(counts)

    def _count(self, query: str, search: Search, fields: Mapping[str, str]) -> str:
        steps = [query]
        for name, field in fields.items():
            label = _label(name)
            if field in _HOST_FIELDS:
                if label != "host":
                    steps.append(f"label_format {label}=host")
            elif search.event_fields is not None:
                source = search.event_fields.get(field)
                if source is None:
                    raise LogQLUnsupportedError(
                        f"Falco's events have no field for {field}, or not each of them"
                    )
                steps.append(f'json {label}="output_fields[\\"{source}\\"]"')
            else:
                source = search.labels.get(field)
                if source is None:
                    raise LogQLUnsupportedError(f"log lines of this source have no field {field}")
                if source != label:
                    steps.append(f"label_format {label}={source}")
            # Sigma correlates events that have the field.
            steps.append(f'{label}!=""')
        by = f" by ({', '.join(map(_label, fields))})" if fields else ""
        return f"sum{by} (count_over_time({' | '.join(steps)} [{self.timespan}]))"


def _label(name: str) -> str:
    if name in _HOST_FIELDS:
        return "host"
    label = re.sub(r"[^a-zA-Z0-9_]", "_", name)
    return f"_{label}" if label[:1].isdigit() else label
