"""Looking at everything that an event of this host passes on its way."""

from __future__ import annotations

import glob
import grp
import os
import pwd
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sib_agent.client import ServerClient
from sib_agent.doctor import judge
from sib_agent.doctor.metrics import fetch, judge_alloy, judge_falco_metrics, read_components
from sib_agent.doctor.own_rules import look_at_rules
from sib_agent.doctor.probe import Probe
from sib_agent.setup import steps
from sib_agent.setup.alloy_config import file_sources, syslog_sources
from sib_agent.setup.facts import gather
from sib_agent.setup.preflight import STARTING_CHECKS, judge_host
from sib_agent.setup.units import unit_states
from sib_agent.standing import is_alive, load_snapshot
from sib_protocol.checks import Finding, Verdict, failed, failed_by, skipped, well
from sib_protocol.errors import SibError
from sib_protocol.identity import IdentityStore, identity_context
from sib_protocol.messages import HealthAnswer, StreamAnswer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from sib_agent.health import Snapshot
    from sib_agent.settings import AgentSettings
    from sib_agent.setup.facts import HostFacts
    from sib_protocol.identity import Identity

_MAX_FILES: Final = 500
_READABLE_SECONDS: Final = 10.0
_USER: Final = "sib-agent"
_GROUPS: Final = ("systemd-journal", "adm")
"""What sib-alloy.service adds."""


@dataclass(frozen=True, slots=True)
class Patient:
    """Who is looked at.

    Attributes:
        settings: the agent's.
        source: the settings file, as the generated files name it.
        store: the identity's.
    """

    settings: AgentSettings
    source: str
    store: IdentityStore


def examine(patient: Patient, *, probe: bool, seconds: float) -> Iterator[Finding]:
    """All findings, as they are found.

    Args:
        patient: who.
        probe: send an event through.
        seconds: how long that may take.
    """
    settings = patient.settings
    facts = gather(settings)
    page = None
    if settings.falco.enabled:
        page = fetch(f"http://127.0.0.1:{settings.falco.metrics_port}/metrics")
    falco_runs = page is not None
    # Of the ground that it stands on, only what is not well: setup shows all. What could keep Falco
    # from starting is of no interest once it runs.
    for item in judge_host(facts, settings):
        if _is_worth_a_line(item) and not (falco_runs and item.check in STARTING_CHECKS):
            yield item
    yield from judge.judge_units(unit_states(), settings)
    yield from _configuration(patient, facts)
    if settings.falco.enabled and (facts.falco.program or falco_runs):
        yield judge_falco_metrics(page, settings.falco.metrics_port)
        yield from look_at_rules(settings.falco)
    if settings.alloy.enabled and facts.alloy:
        yield from _alloy(settings)
        yield _logs(settings, facts)
    yield from _way_home(patient, probe=probe, by_falco=falco_runs, seconds=seconds)


def _is_worth_a_line(finding: Finding) -> bool:
    return finding.verdict in (Verdict.FAILED, Verdict.WARNING)


def _configuration(patient: Patient, facts: HostFacts) -> Iterator[Finding]:
    settings = patient.settings
    try:
        identity = steps.find_identity(patient.store)
        files = steps.wanted_files(settings, facts, identity, source=patient.source)
        changes = steps.plan(files, force=False)
    except SibError as error:
        yield failed_by("configuration", error)
        return
    found = [*steps.judge_changes(changes, pending=True)]
    if settings.falco.enabled:
        found.append(steps.judge_bundle(settings.falco))
    ill = [item for item in found if _is_worth_a_line(item)]
    yield from ill or [well("configuration", "as 'sib-agent setup' writes it")]


def _alloy(settings: AgentSettings) -> list[Finding]:
    base = f"http://{settings.alloy.listen}"
    components = fetch(f"{base}/api/v0/web/components")
    return judge_alloy(
        None if components is None else read_components(components),
        fetch(f"{base}/metrics"),
        settings.alloy.listen,
    )


def _logs(settings: AgentSettings, facts: HostFacts) -> Finding:
    journal = facts.journald if settings.logs.journal is None else settings.logs.journal
    sources = [*file_sources(settings.logs), *(() if journal else syslog_sources(settings.logs))]
    files: list[Path] = []
    for pattern in (pattern for _, patterns in sources for pattern in patterns):
        files += [Path(name) for name in glob.iglob(pattern, recursive=True)]  # noqa: PTH207
        if len(files) > _MAX_FILES:
            break
    try:
        unreadable = find_unreadable(files[:_MAX_FILES])
    except (OSError, subprocess.SubprocessError) as error:
        return skipped("logs", f"cannot try whether Alloy may read the logs: {error}")
    return judge.judge_unreadable(unreadable, len(files[:_MAX_FILES]))


def find_unreadable(files: Sequence[Path]) -> list[Path]:
    """Which files the agent's user may not read; as ourselves where we are not root.

    Raises:
        OSError, subprocess.SubprocessError: it cannot be tried.
    """
    if not files:
        return []
    identity: dict[str, object] = {}
    if os.geteuid() == 0:
        try:
            entry = pwd.getpwnam(_USER)
        except KeyError:
            pass
        else:
            named = {group.gr_name: group.gr_gid for group in grp.getgrall()}
            extra = [named[name] for name in _GROUPS if name in named]
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": extra}
    done = subprocess.run(  # type: ignore[call-overload]
        ["/bin/sh", "-c", r'for f; do [ -r "$f" ] || printf "%s\0" "$f"; done', "sh", *files],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_READABLE_SECONDS,
        check=True,
        cwd="/",
        **identity,
    )
    return [Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name]


def _way_home(
    patient: Patient, *, probe: bool, by_falco: bool, seconds: float
) -> Iterator[Finding]:
    settings, store = patient.settings, patient.store
    try:
        identity = store.load()
        snapshot = load_snapshot(settings.status.file)
    except SibError as error:
        yield failed_by("identity", error)
        return
    now = time.time()
    yield judge.judge_identity(identity, now)
    alive = snapshot is not None and is_alive(snapshot.pid)
    daemon = judge.judge_daemon(identity, snapshot, now, alive=alive)
    yield from daemon
    reached = yield from _servers(identity, store, snapshot)
    if not probe:
        return
    if not alive or snapshot is None or any(item.verdict is Verdict.FAILED for item in daemon):
        yield skipped("event", "without a running agent no event comes home")
        return
    if not reached:
        yield skipped("event", "without a server no event comes home; the spool keeps them")
        return
    stream = snapshot.report.spool.stream
    client = ServerClient(identity.servers, lambda: identity_context(store))
    try:
        outcome = Probe(
            settings,
            by_falco=by_falco,
            next_wanted=lambda: client.get(f"/v1/streams/{stream}").decode(StreamAnswer).next,
        ).run(seconds)
    finally:
        client.close()
    yield judge.judge_probe(outcome, settings, seconds)


def _servers(
    identity: Identity, store: IdentityStore, snapshot: Snapshot | None
) -> Generator[Finding, None, bool]:
    """A finding for each server; returns whether one answers."""
    reached = False
    for address in identity.servers:
        client: ServerClient | None = None
        try:
            client = ServerClient((address,), lambda: identity_context(store))
            begun = time.monotonic()
            # By mutual TLS, with the pinned CA: that there is an answer says all of it.
            client.get("/v1/ca")
            took = time.monotonic() - begun
            yield well("server", f"{address} answers by mutual TLS after {took:.2f} s")
            reached = True
            if snapshot is not None:
                yield _clock(client, snapshot)
        except SibError as error:
            yield failed("server", error.problem, error.remedy or "sib-agent logs agent")
        finally:
            if client is not None:
                client.close()
    return reached


def _clock(client: ServerClient, snapshot: Snapshot) -> Finding:
    # The daemon's own report once more, so that the server hears nothing else of this host.
    before = time.time_ns()
    report = msgspec.structs.replace(snapshot.report, clock_ns=before)
    answer = client.post_message("/v1/health", report).decode(HealthAnswer)
    middle = (before + time.time_ns()) // 2
    return judge.judge_clock_difference((answer.clock_ns - middle) / 1e9)
