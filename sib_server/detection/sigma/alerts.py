"""What Loki's ruler says of the alerts of imported rules, and the events that they become. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import UNDECODABLE, MalformedMessageError
from sib_protocol.events import parse_time_ns, sib_event
from sib_protocol.ids import HostName, parse_host_name
from sib_server.detection.sigma.levels import priority_of
from sib_server.detection.sigma.ruler import SOURCE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from sib_protocol.events import Priority

PATH: Final = "/prometheus/api/v1/alerts"
"""Of Loki: where the ruler says which alerts fire."""
MOST_BYTES: Final = 16 * 1024 * 1024
"""Of its answer."""
MOST_AT_ONCE: Final = 500
"""Alerts that become events in one look. The others fire still, and become some in the next."""

_MOST_TEXT: Final = 2_000
_MOST_LABELS: Final = 16
_OWN_LABELS: Final = frozenset({"alertname", "severity", "source", "sigma_id", "technique", "host"})


class _Alert(msgspec.Struct):
    labels: dict[str, str]
    state: str
    annotations: dict[str, str] = {}
    activeAt: str | None = None  # noqa: N815  (Loki's word)
    value: str = ""


class _Alerts(msgspec.Struct):
    alerts: list[_Alert]


class _Answer(msgspec.Struct):
    data: _Alerts


_decoder: Final = msgspec.json.Decoder(_Answer)


@dataclass(frozen=True, slots=True)
class FiringAlert:
    """An imported rule that holds now, for one host or for the whole fleet.

    Attributes:
        key: tells it from every other one, and from itself at another time.
        title: the Sigma rule's.
        sigma_id: the Sigma rule's.
        priority: by the rule's level.
        host: whose log lines they are; ``None`` for a rule over several hosts' lines.
        techniques: of ATT&CK.
        since_ns: since when, nanoseconds since 1970 UTC.
        value: what the rule counted, as Loki writes it.
        description: of the rule.
        labels: further ones, by which the rule groups what it counts.
    """

    key: str
    title: str
    sigma_id: str
    priority: Priority
    host: HostName | None
    techniques: tuple[str, ...]
    since_ns: int
    value: str
    description: str
    labels: tuple[tuple[str, str], ...]


def parse_alerts(content: bytes) -> list[FiringAlert]:
    """The alerts of imported rules in an answer of the ruler's, those that fire longest first.

    Raises:
        MalformedMessageError: it is none.
    """
    try:
        answer = _decoder.decode(content)
    except UNDECODABLE as error:
        raise MalformedMessageError(f"the ruler's answer cannot be read: {error}") from error
    found = (_firing(alert) for alert in answer.data.alerts)
    return sorted(
        (alert for alert in found if alert is not None), key=lambda one: (one.since_ns, one.key)
    )


def _firing(alert: _Alert) -> FiringAlert | None:
    labels = alert.labels
    since_ns = parse_time_ns(alert.activeAt or "")
    if alert.state != "firing" or labels.get("source") != SOURCE or since_ns is None:
        return None
    others = sorted((name, text) for name, text in labels.items() if name not in _OWN_LABELS)
    technique = labels.get("technique", "")
    return FiringAlert(
        key=hashlib.sha256(msgspec.json.encode([sorted(labels.items()), since_ns])).hexdigest(),
        title=labels.get("alertname", "")[:_MOST_TEXT],
        sigma_id=labels.get("sigma_id", "")[:64],
        priority=priority_of(labels.get("severity", "")),
        host=_host(labels.get("host")),
        techniques=tuple(technique[:_MOST_TEXT].split(",")) if technique else (),
        since_ns=since_ns,
        value=alert.value[:64],
        description=alert.annotations.get("description", "")[:_MOST_TEXT],
        labels=tuple((name[:64], text[:256]) for name, text in others[:_MOST_LABELS]),
    )


def _host(text: str | None) -> HostName | None:
    try:
        return parse_host_name(text) if text else None
    except MalformedMessageError:
        return None


def choose_new(alerts: Iterable[FiringAlert], known: Collection[str]) -> list[FiringAlert]:
    """Those that have not become events yet, at most :data:`MOST_AT_ONCE`."""
    return [alert for alert in alerts if alert.key not in known][:MOST_AT_ONCE]


def alert_event(alert: FiringAlert) -> bytes:
    """An alert as an event line."""
    where = f" on {alert.host}" if alert.host is not None else ""
    fields: dict[str, str | int] = {
        "sib.sigma_id": alert.sigma_id,
        "sib.value": alert.value,
        **{f"sib.label.{name}": text for name, text in alert.labels},
    }
    if alert.host is not None:
        fields["sib.host"] = alert.host
    return sib_event(
        rule=alert.title,
        priority=alert.priority,
        time_ns=alert.since_ns,
        output=f"{alert.title}{where}: {alert.description or 'no description'}",
        fields=fields,
        tags=(*alert.techniques, f"sigma:{alert.sigma_id}"),
        source=SOURCE,
    )
