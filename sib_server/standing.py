"""How the server is, judged from its files and its own metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec
import urllib3
from prometheus_client.parser import text_string_to_metric_families
from urllib3.exceptions import HTTPError

from sib_server.events.failures import JournalMissingError
from sib_server.events.reader import JournalReader
from sib_server.operations.stores import StoreState, store_states
from sib_server.operations.units import UnitState, unit_states

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sib_server.fleet.health import HealthState
    from sib_server.pki.authority import Authority
    from sib_server.settings import ServerSettings

_SECONDS: Final = 3.0
_MAX_METRICS: Final = 4 * 1024 * 1024
_LATE_SECONDS: Final = 300.0
_SOON_SECONDS: Final = 24 * 3600.0


class Standing(Enum):
    """How a server is."""

    WELL = "well"
    TROUBLED = "troubled"
    STOPPED = "stopped"


class SinkStanding(msgspec.Struct, frozen=True):
    """How a sink is.

    Attributes:
        name: the sink's.
        lag_events: events not yet delivered.
        lag_seconds: age of the oldest of them.
        delivered: events since the server started; ``None`` while it does not run.
    """

    name: str
    lag_events: int
    lag_seconds: float
    delivered: int | None


class ServerStanding(msgspec.Struct, frozen=True):
    """How a server is.

    Attributes:
        state: in a word.
        problems: each with what to do about it.
        running: whether it answers on its metrics port; ``None`` where it has none.
        events: in the journal.
        hosts: enrolled ones, by health.
        sinks: of the journal.
        units: as systemd says; empty where it does not run.
        stores: those in use, as they answer.
        connections: open ones; ``None`` while it does not run.
        certificate_not_after: of the server's certificate, seconds since 1970 UTC.
        ca_not_after: of the CA.
        ca_pin: SHA-256 of the CA, hex.
    """

    state: Standing
    problems: list[str]
    running: bool | None
    events: int
    hosts: dict[str, int]
    sinks: list[SinkStanding]
    units: list[UnitState]
    stores: list[StoreState]
    connections: int | None
    certificate_not_after: float | None
    ca_not_after: float
    ca_pin: str


@dataclass(frozen=True, slots=True)
class Found:
    """What was looked up, before it is judged.

    Attributes:
        metrics: by name and sink (or ""); ``None`` while the server does not answer.
        has_metrics: whether the server has a metrics port at all.
        journal: events, and each sink's (events, seconds) behind; ``None`` without a journal.
        hosts: by health.
        certificate_not_after: seconds since 1970 UTC.
        ca_not_after: seconds since 1970 UTC.
        ca_pin: hex.
        units: as systemd says.
        stores: as they answer.
    """

    metrics: Mapping[tuple[str, str], float] | None
    has_metrics: bool
    journal: tuple[int, Mapping[str, tuple[int, float]]] | None
    hosts: Mapping[str, int]
    certificate_not_after: float | None
    ca_not_after: float
    ca_pin: str
    units: Sequence[UnitState] = ()
    stores: Sequence[StoreState] = ()


def judge(found: Found, now: float) -> ServerStanding:
    """What to say of a server."""
    problems = []
    events, lags = found.journal or (0, {})
    if found.has_metrics and found.metrics is None:
        problems.append("the server does not answer: 'systemctl start sib-server'")
    for name, (_behind, seconds) in lags.items():
        if seconds > _LATE_SECONDS:
            problems.append(
                f"the sink {name} is {seconds:.0f} s behind: see whether it runs; nothing is lost"
            )
    metrics = found.metrics or {}
    if metrics.get(("sib_server_journal_damaged_events_total", ""), 0):
        problems.append("the journal has damaged events: 'sib-server journal verify'")
    if (
        found.certificate_not_after is not None
        and found.certificate_not_after - now < _SOON_SECONDS
    ):
        problems.append("the server's certificate ends soon: 'sib-server ca renew-server'")
    silent = found.hosts.get("silent", 0)
    if silent:
        problems.append(f"{silent} hosts are silent: 'sib-server host list'")
    problems += [
        f"{unit.unit} is {unit.active} ({unit.result}): 'sib-server logs {unit.component}'"
        for unit in found.units
        if unit.troubled
    ]
    problems += [
        f"{store.name} does not say that it is ready: {store.answer}"
        for store in found.stores
        if not store.ready
    ]
    stopped = found.has_metrics and found.metrics is None
    connections = metrics.get(("sib_server_connections", ""))
    return ServerStanding(
        state=Standing.STOPPED if stopped else Standing.TROUBLED if problems else Standing.WELL,
        problems=problems,
        running=None if not found.has_metrics else found.metrics is not None,
        events=events,
        hosts=dict(found.hosts),
        sinks=[
            SinkStanding(name, behind, round(seconds, 1), _count(metrics, name))
            for name, (behind, seconds) in sorted(lags.items())
        ],
        units=list(found.units),
        stores=list(found.stores),
        connections=None if connections is None else int(connections),
        certificate_not_after=found.certificate_not_after,
        ca_not_after=found.ca_not_after,
        ca_pin=found.ca_pin,
    )


def _count(metrics: Mapping[tuple[str, str], float], sink: str) -> int | None:
    value = metrics.get(("sib_server_sink_delivered_total", sink))
    return None if value is None else int(value)


def look(
    settings: ServerSettings,
    authority: Authority,
    hosts: Mapping[HealthState, int],
    sinks: Sequence[str],
) -> Found:
    """Look everything up.

    Raises:
        JournalError: the journal is there and cannot be read.
    """
    try:
        with JournalReader(settings.journal.path) as reader:
            lags = {}
            for name in sinks:
                lag = reader.lag(name)
                lags[name] = (lag.events, lag.seconds)
            first, last = reader.first_seq, reader.last_seq
        journal: tuple[int, dict[str, tuple[int, float]]] | None = (
            (last - first + 1 if last else 0),
            lags,
        )
    except JournalMissingError:
        journal = None
    installed = authority.installed_server_certificate()
    return Found(
        metrics=read_metrics(settings),
        has_metrics=settings.metrics.port is not None,
        journal=journal,
        hosts={state.value: count for state, count in hosts.items()},
        certificate_not_after=(
            installed.certificate.not_valid_after_utc.timestamp() if installed else None
        ),
        ca_not_after=authority.certificate.not_valid_after_utc.timestamp(),
        ca_pin=authority.pin,
        units=unit_states() or (),
        stores=store_states(settings),
    )


def read_metrics(settings: ServerSettings) -> dict[tuple[str, str], float] | None:
    """The running server's own metrics, by name and sink; ``None`` if it does not answer."""
    if settings.metrics.port is None:
        return None
    address = settings.metrics.address
    host = f"[{address}]" if ":" in address else address
    pool = urllib3.PoolManager(timeout=_SECONDS, retries=False)
    try:
        answer = pool.request(
            "GET",
            f"http://{host}:{settings.metrics.port}/metrics",
            preload_content=False,
            redirect=False,
        )
        text = answer.read(_MAX_METRICS).decode("utf-8", "replace")
    except (HTTPError, OSError):
        return None
    finally:
        pool.clear()
    if answer.status != 200:
        return None
    try:
        return {
            (sample.name, sample.labels.get("sink", "")): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except ValueError:
        return None


def now() -> float:
    """Seconds since 1970 UTC."""
    return time.time()
