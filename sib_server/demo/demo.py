"""What the command does: rules to templates, templates to events, events through the ingest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_protocol.drills.parsing import parse_drills
from sib_server.demo.removal import remove_events, remove_from_loki
from sib_server.demo.scenes import HOST_PREFIX, HOSTS, Template, make_events, quick, tactics
from sib_server.demo.sending import DemoHost
from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.compile import load

if TYPE_CHECKING:
    from sib_server.cli.context import ServerContext
    from sib_server.fleet.hosts import HostRecord
    from sib_server.settings import ServerSettings

TAG: Final = "sib-demo"
"""What demo hosts are tagged with."""

_LOOPBACK: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


@dataclass(frozen=True, slots=True)
class Sent:
    """What was sent.

    Attributes:
        events: how many, by host.
        rules: how many rules.
        tactics: which tactics.
    """

    events: dict[str, int]
    rules: int
    tactics: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Removed:
    """What was taken away.

    Attributes:
        hosts: names of the demo hosts that were there.
        events: how many from the journal.
        loki: ``removed``, ``off``, or why it was not.
    """

    hosts: tuple[str, ...]
    events: int
    loki: str


def templates(settings: ServerSettings) -> list[Template]:
    """What each rule of SIB's and the administrator's own would say, and what its drill does."""
    loaded = load(settings)
    acts = {
        drill.rule: f"{drill.drills[0].act.setup}\n{drill.drills[0].act.run}"
        for name, body in loaded.sources.drill_files.items()
        for drill in parse_drills(body.decode(errors="replace"), Path(name))[0]
    }
    return [
        Template(
            entry.rule.name,
            entry.rule.output.value,
            entry.rule.priority.value,
            entry.rule.tags,
            acts.get(entry.rule.name, ""),
        )
        for entry in loaded.entries
        if entry.rule.enabled and entry.rule.origin in {Origin.SIB, Origin.OWN}
    ]


def send(server: ServerContext, *, only_quick: bool, seed: int) -> Sent:
    """Enroll the demo hosts and send their events.

    Raises:
        SibError: the server does not run, or refuses.
    """
    every = templates(server.settings)
    chosen = quick(every) if only_quick else every
    events = make_events(chosen, seed=seed, now_ns=time.time_ns())
    # A host that is there from an earlier demo would keep its name from the new one.
    _remove_hosts(server)
    listen = server.settings.listen
    counts = {}
    for name in HOSTS:
        lines = [event.line for event in events if event.host == name]
        if not lines:
            continue
        address = _LOOPBACK.get(listen.address, listen.address)
        host = DemoHost(name, address, listen.port, server.authority.certificate_pem)
        host.enroll(server.tokens.create(ttl=timedelta(minutes=5), uses=1, tags=(TAG,)))
        counts[name] = host.send(lines)
    found = sorted({tactic for template in chosen for tactic in tactics(template)})
    return Sent(counts, len(chosen), tuple(found))


def remove(server: ServerContext) -> Removed:
    """Take the demo hosts and all their events away.

    Raises:
        JournalError: the journal cannot be changed.
    """
    hosts = _demo_hosts(server)
    gone = _remove_hosts(server)
    count = remove_events(server.settings.journal.path, [host.id for host in hosts])
    loki = server.settings.sinks.loki
    told = "off" if not loki.enabled else remove_from_loki(loki, now=time.time()) or "removed"
    return Removed(gone, count, told)


def _demo_hosts(server: ServerContext) -> list[HostRecord]:
    """All that ever were: a removed host's events may still be there."""
    return [
        host
        for host in server.fleet.hosts(removed=True)
        if host.name.startswith(HOST_PREFIX) and TAG in host.tags
    ]


def _remove_hosts(server: ServerContext) -> tuple[str, ...]:
    names = []
    for host in server.fleet.hosts():
        if host.name.startswith(HOST_PREFIX) and TAG in host.tags:
            server.fleet.remove_host(host.id)
            names.append(host.name)
    return tuple(sorted(names))
