"""Loki ruler groups around LogQL expressions. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sib_server.detection.dumping import dump_yaml
from sib_server.detection.sigma.levels import level_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sigma.correlations import SigmaCorrelationRule
    from sigma.rule import SigmaRule

INTERVAL: Final = "1m"
WINDOW: Final = "5m"
"""How far back each evaluation looks: a line may reach Loki some minutes after it was written."""
SOURCE: Final = "sigma"
"""The label ``source`` of imported rules' alerts, and the source of the events that they become."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule.

    Attributes:
        name: the Sigma rule's title.
        expression: LogQL that has a sample wherever the alert holds.
        labels: ``severity``, ``sigma_id``, ``source``, ``technique``.
        annotations: for people.
    """

    name: str
    expression: str
    labels: tuple[tuple[str, str], ...]
    annotations: tuple[tuple[str, str], ...]

    def group(self) -> dict[str, Any]:
        """A ruler group with this alert alone."""
        identity = dict(self.labels).get("sigma_id", "")
        return {
            "name": f"sigma {identity or self.name}",
            "interval": INTERVAL,
            "rules": [
                {
                    "alert": self.name,
                    "expr": self.expression,
                    "labels": dict(self.labels),
                    "annotations": dict(self.annotations),
                }
            ],
        }

    def yaml(self) -> str:
        """A ruler file with this alert alone."""
        return dump_yaml({"groups": [self.group()]})


def count_expression(queries: Sequence[str]) -> str:
    """Hosts with a line that any of the queries finds."""
    parts = [f"sum by (host) (count_over_time({query} [{WINDOW}])) > 0" for query in queries]
    return parts[0] if len(parts) == 1 else " or ".join(f"({part})" for part in parts)


def build_alert(
    rule: SigmaRule | SigmaCorrelationRule, identity: str, expression: str, tags: Iterable[str]
) -> Alert:
    """Dress an expression as an alert."""
    techniques = [tag for tag in tags if tag[:1] == "T" and tag[1:5].isdigit()]
    labels = {
        "severity": level_of(rule),
        "source": SOURCE,
        "sigma_id": identity,
        **({"technique": ",".join(techniques)} if techniques else {}),
    }
    annotations = {
        "summary": rule.title,
        "description": " ".join((rule.description or rule.title).split()),
        # The licence of SigmaHQ's rules asks that messages name the author.
        **({"author": rule.author} if rule.author else {}),
    }
    return Alert(
        name=rule.title,
        expression=expression,
        labels=tuple(labels.items()),
        # The ruler expands templates in annotations; a rule's text is none.
        annotations=tuple((key, text.replace("{{", "{ {")) for key, text in annotations.items()),
    )


def ruler_document(groups: Iterable[dict[str, Any]]) -> str:
    """One ruler file."""
    return dump_yaml({"groups": list(groups)})
