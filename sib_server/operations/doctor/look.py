"""One look over a server: collects, and has it judged. Thin."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from cryptography import x509
from urllib3.exceptions import HTTPError

from sib_protocol import __version__
from sib_protocol.checks import Finding, failed, failed_by, skipped, well
from sib_protocol.errors import SibError
from sib_protocol.machine import GIB, judge_clock, judge_disk, judge_memory
from sib_protocol.machine_facts import find_clock, find_disk, find_listeners, find_memory
from sib_protocol.messages import BundleOutcome
from sib_server.detection.sigma.alert_watch import find_ruler
from sib_server.detection.sigma.store import SigmaStore, alerting_on_logs
from sib_server.events.reader import JournalReader
from sib_server.operations.accounts import acting_as, server_account
from sib_server.operations.backup.places import find_places
from sib_server.operations.disk.decision import loki_hours, read_decision
from sib_server.operations.disk.findings import judge_disk_use, judge_loki_limits
from sib_server.operations.doctor import judgements as judge
from sib_server.operations.doctor.facts import HostFact, find_files, sample_journal
from sib_server.operations.doctor.ruler import CHECK, PATH, judge_ruler
from sib_server.operations.doctor.way import Way
from sib_server.operations.stores import fetch, store_access, store_states, store_urls
from sib_server.operations.units import UNITS, unit_states
from sib_server.stack.loki import LIMITS, TENANT
from sib_server.standing import read_metrics
from sib_server.state.schema import HEAD

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_server.cli.context import ServerContext
    from sib_server.fleet.hosts import HostRecord
    from sib_server.pki.authority import Authority
    from sib_server.settings import ServerSettings

_GIB4: Final = 4 * GIB
_MACHINE_NAME: Final = "localhost"


def sinks_in_use(settings: ServerSettings) -> list[str]:
    """Names of the sinks that the settings enable."""
    known = {
        "loki": settings.sinks.loki.enabled,
        "falcosidekick": settings.sinks.falcosidekick.enabled,
    }
    return [name for name, enabled in known.items() if enabled]


def on_this_machine(url: str) -> bool:
    """Whether a store's address is this machine's own."""
    host = urlsplit(url).hostname or ""
    return host == _MACHINE_NAME or judge.is_loopback(host)


def examine(server: ServerContext, *, alert: bool, patience: float) -> Iterator[Finding]:
    """Everything, in order; a finding as soon as it is made.

    Args:
        server: its settings, state and CA.
        alert: whether to try the way of an alert.
        patience: how long a sink may take, seconds.
    """
    settings = server.settings
    places = find_places(settings, server.settings_file)
    # First what root alone sees, then everything else as the server's own user.
    yield from _machine(places.home, settings.disk.directory)
    yield from _units(settings)
    yield from _listeners(settings)
    yield _configuration(server.settings_file)
    with acting_as(server_account(places.home)):
        yield judge.judge_secrets(
            find_files([settings.pki.directory]), {os.geteuid(), server_account(places.home).uid}
        )
        yield from _identities(server)
        yield from _stores(settings)
        yield from _shortened_loki(settings)
        yield from _imported(settings)
        yield from _journal(settings)
        yield from _fleet(server)
        yield from _walk(server, alert=alert, patience=patience)


def _machine(home: Path, guard: Path) -> Iterator[Finding]:
    yield judge_memory(
        find_memory(), least=2 * GIB, enough=_GIB4, purpose="the server with its stores"
    )
    yield judge_clock(find_clock())
    yield judge_disk(find_disk(home), least=GIB, enough=5 * GIB, purpose="the journal")
    yield from judge_disk_use(read_decision(guard), time.time_ns())


def _units(settings: ServerSettings) -> Iterator[Finding]:
    local = {name for name, url in store_urls(settings).items() if on_this_machine(url)}
    yield from judge.judge_units(unit_states(), {"server", *local})


def _listeners(settings: ServerSettings) -> Iterator[Finding]:
    stack = settings.stack
    loopback = {
        stack.loki.port: "Loki",
        stack.loki.grpc_port: "Loki",
        stack.prometheus.port: "Prometheus",
        stack.falcosidekick.port: "Falcosidekick",
        stack.grafana.port: "Grafana",
    }
    loopback |= {
        urlsplit(url).port or 80: name
        for name, url in store_urls(settings).items()
        if on_this_machine(url)
    }
    if settings.metrics.port is not None:
        loopback[settings.metrics.port] = "the server's metrics"
    listeners = find_listeners()
    public = {settings.listen.port: "the server"}
    open_to_others = not judge.is_loopback(stack.grafana.address)
    if open_to_others and any(unit.unit == UNITS["grafana"] for unit in unit_states() or ()):
        public[stack.grafana.port] = "Grafana"
    yield from judge.judge_listeners(
        listeners,
        public=public,
        loopback=loopback,
        units=frozenset(UNITS.values()),
    )


def _configuration(settings_file: Path) -> Finding:
    if not settings_file.exists():
        return well("configuration", f"there is no {settings_file}: all defaults")
    if os.geteuid() != 0:
        return skipped("configuration", "whose it is matters to root alone", "run this as root")
    return judge.judge_configuration(find_files([settings_file.parent]))


def _identities(server: ServerContext) -> Iterator[Finding]:
    try:
        authority = server.authority
    except SibError as error:
        yield failed_by("ca", error)
        return
    now = time.time()
    yield judge.judge_end(
        "ca",
        "the CA's certificate",
        authority.certificate.not_valid_after_utc.timestamp(),
        now,
        "a new CA is a new fleet: another pki.directory, 'sib-server ca init', enroll every host",
    )
    installed = authority.installed_server_certificate()
    yield judge.judge_end(
        "certificate",
        "the server's certificate",
        installed.certificate.not_valid_after_utc.timestamp() if installed else None,
        now,
        "'sib-server ca renew-server', and 'systemctl reload sib-server'",
    )
    if installed is not None:
        yield judge.judge_names(_names(installed.certificate), server.server_names)


def _names(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = found.get_values_for_type(x509.IPAddress)
    return {*found.get_values_for_type(x509.DNSName), *map(str, addresses)}


def _stores(settings: ServerSettings) -> Iterator[Finding]:
    for store in store_states(settings):
        if store.ready:
            yield well(f"store-{store.name}", f"{store.url} answers: {store.answer}")
        else:
            yield failed(
                f"store-{store.name}",
                f"{store.url} does not say that it is ready: {store.answer}",
                f"'sib-server logs {store.name}'; a Loki that was just started needs 15 s",
            )


def _shortened_loki(settings: ServerSettings) -> Iterator[Finding]:
    decision = read_decision(settings.disk.directory)
    days = settings.stack.loki.retention_days
    hours = None if decision is None else loki_hours(decision, days, decision.time_ns)
    ready = store_urls(settings).get("loki", "")
    if hours is None or not on_this_machine(ready):
        return
    url = ready.removesuffix("/ready") + LIMITS
    # One that does not answer at all was told above.
    with suppress(HTTPError, OSError, SibError):
        _, limits = fetch(url, store_access(settings, "loki"), tenant=TENANT)
        yield judge_loki_limits(hours, limits)


def _imported(settings: ServerSettings) -> Iterator[Finding]:
    store = SigmaStore(settings.sigma.directory)
    try:
        wanted = {rule.id for rule in alerting_on_logs(store.load().values())}
        if not wanted:
            return
        ruler = find_ruler(settings)
        if ruler is None:
            yield failed(
                CHECK,
                f"{len(wanted)} imported rules over logs, and no Loki that evaluates them",
                "install sib-loki and run 'sib-server setup', or set stack.loki.url",
            )
            return
        yield judge_ruler(wanted, ruler.ask(PATH), store.ruler_file)
    except SibError as error:
        yield failed_by(CHECK, error)
    except (HTTPError, OSError) as error:
        yield failed(CHECK, f"Loki does not answer: {error}"[:400], "systemctl start sib-loki")


def _journal(settings: ServerSettings) -> Iterator[Finding]:
    metrics = read_metrics(settings)
    try:
        sample = sample_journal(settings.journal.path)
        with JournalReader(settings.journal.path) as reader:
            lags = {name: reader.lag(name) for name in sinks_in_use(settings)}
    except SibError as error:
        yield failed_by("journal", error)
        return
    known = metrics or {}
    damaged = int(known.get(("sib_server_journal_damaged_events_total", ""), 0))
    yield judge.judge_journal(sample, damaged)
    for name, lag in lags.items():
        refused = int(known.get(("sib_server_sink_refused_total", name), 0))
        yield from judge.judge_sink(name, lag.events, lag.seconds, refused)


def _fleet(server: ServerContext) -> Iterator[Finding]:
    try:
        hosts = [_host(host, server.fleet.state_of(host).value) for host in server.fleet.hosts()]
    except SibError as error:
        yield failed_by("state", error)
        return
    yield well("state", f"{server.state.shown_url} has schema {HEAD}")
    yield from judge.judge_fleet(hosts, __version__)


def _host(host: HostRecord, state: str) -> HostFact:
    report = host.report
    if report is None:
        return HostFact(host.name, state, host.version or "")
    ended = report.bundle.ended if report.bundle is not None else None
    failure = ""
    if ended is not None and ended.outcome in {BundleOutcome.REFUSED, BundleOutcome.ROLLED_BACK}:
        failure = f"version {ended.version} {ended.outcome.value}: {ended.reason}"
    return HostFact(
        host.name,
        state,
        host.version or "",
        lost=report.spool.lost,
        bundle_failure=failure,
    )


def _walk(server: ServerContext, *, alert: bool, patience: float) -> Iterator[Finding]:
    try:
        authority: Authority = server.authority
        state = server.state
    except SibError as error:
        yield skipped("probe-ingest", f"without CA and state there is no way: {error.problem}")
        return
    way = Way(server.settings, server.server_names, patience=patience, alert=alert)
    yield from way.walk(state, authority)
