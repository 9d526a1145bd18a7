"""Whether this machine can be the server: judged from facts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_protocol.checks import Finding, failed, warning, well
from sib_protocol.machine import (
    GIB,
    MIB,
    Clock,
    Container,
    Disk,
    Listener,
    Memory,
    judge_clock,
    judge_disk,
    judge_memory,
    judge_port,
)
from sib_server.stack.layout import SERVER_UNIT, SERVER_USER, Component
from sib_server.stack.settings import Use

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sib_server.settings import ServerSettings
    from sib_server.stack.access import StoreAccess

PYTHONS: Final = ((3, 11), (3, 13))
"""The oldest and the newest that SIB is tested with."""

STRANGERS: Final[Mapping[str, Component]] = {
    "loki.service": Component.LOKI,
    "prometheus.service": Component.PROMETHEUS,
    "grafana-server.service": Component.GRAFANA,
    "falcosidekick.service": Component.FALCOSIDEKICK,
}
"""Units of other packages of the same programs: they want the same ports."""

_SERVER_MEMORY: Final = 768 * MIB
_MEMORY: Final[Mapping[Component, int]] = {
    Component.LOKI: 1100 * MIB,
    Component.PROMETHEUS: 600 * MIB,
    Component.GRAFANA: 350 * MIB,
    Component.FALCOSIDEKICK: 250 * MIB,
}
_ROUGH_BYTES_OF_LOKI: Final = 10 * GIB
_LEAST_DISK: Final = 2 * GIB


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found out about the machine.

    Attributes:
        memory: or ``None``.
        disks: file system of each directory in which something grows: its purpose -> it.
        clock: the wall clock.
        container: what the system runs in.
        listeners: every TCP socket that is listened on.
        users: ids of the services' users, by name; those that there are.
        strangers: units of :data:`STRANGERS` -> whether they start at boot.
        sees_all: whether the listeners' owners were looked up by root.
        systemd: whether this system is run by systemd.
        python: version.
    """

    memory: Memory | None
    disks: Mapping[str, Disk | None]
    clock: Clock
    container: Container
    listeners: tuple[Listener, ...]
    users: Mapping[str, int]
    strangers: Mapping[str, bool]
    sees_all: bool
    systemd: bool
    python: tuple[int, int]


def judge_machine(
    settings: ServerSettings, uses: Mapping[Component, Use], facts: Facts
) -> list[Finding]:
    """Everything that there is to say before the server is set up."""
    local = [component for component in Component if uses[component] is Use.LOCAL]
    enough = _SERVER_MEMORY + sum(_MEMORY[component] for component in local)
    purpose = "the server with " + _listed(local) if local else "the server"
    return [
        _python(facts.python),
        _systemd(facts.systemd),
        _container(facts.container),
        judge_memory(facts.memory, least=enough // 2, enough=enough, purpose=purpose),
        *_disks(settings, uses, facts),
        judge_clock(facts.clock),
        *_ports(settings, uses, facts),
        *_strangers(settings, uses, facts),
        *_credentials(settings, uses),
    ]


def _listed(components: list[Component]) -> str:
    return ", ".join(component.value.capitalize() for component in components)


def _python(version: tuple[int, int]) -> Finding:
    seen = f"Python {version[0]}.{version[1]}"
    oldest, newest = PYTHONS
    if version < oldest:
        return failed("python", seen, f"use {oldest[0]}.{oldest[1]} or a newer one")
    if version > newest:
        return warning(
            "python",
            f"{seen}: newer than any that SIB is tested with",
            f"use {newest[0]}.{newest[1]}, or look whether there is a newer SIB",
        )
    return well("python", seen)


def _systemd(booted: bool) -> Finding:
    if booted:
        return well("systemd", "this system is run by systemd")
    return warning(
        "systemd",
        "this system is not run by systemd: nothing is started or restarted",
        "start the programs yourself, as the units in /usr/lib/systemd/system say",
    )


def _container(container: Container) -> Finding:
    if container is Container.NONE:
        return well("container", "a machine of its own")
    if container in (Container.DOCKER, Container.PODMAN, Container.WSL):
        return warning(
            "container",
            f"runs in {container.value}: services and their limits may not work there",
            "take a machine, a virtual machine, or a system container (LXC, systemd-nspawn)",
        )
    return well("container", f"runs in {container.value}, which a server can do")


def _disks(
    settings: ServerSettings, uses: Mapping[Component, Use], facts: Facts
) -> Iterator[Finding]:
    wanted = {"journal": min(settings.journal.retention_bytes or 20 * GIB, 20 * GIB)}
    if uses[Component.LOKI] is Use.LOCAL:
        wanted["loki"] = _ROUGH_BYTES_OF_LOKI
    if uses[Component.PROMETHEUS] is Use.LOCAL:
        wanted["prometheus"] = settings.stack.prometheus.retention_bytes
    for purpose, enough in wanted.items():
        yield judge_disk(
            facts.disks.get(purpose),
            least=min(_LEAST_DISK, enough),
            enough=enough,
            purpose=purpose,
            check=f"disk-{purpose}",
        )


def _ports(
    settings: ServerSettings, uses: Mapping[Component, Use], facts: Facts
) -> Iterator[Finding]:
    stack, loopback = settings.stack, "127.0.0.1"
    wanted: list[tuple[int, str, str, str, str]] = [
        (
            settings.listen.port,
            settings.listen.address,
            SERVER_UNIT,
            SERVER_USER,
            "listen.port",
        )
    ]
    if settings.metrics.port is not None:
        metrics = settings.metrics
        wanted.append(
            (settings.metrics.port, metrics.address, SERVER_UNIT, SERVER_USER, "metrics.port")
        )
    places = {
        Component.LOKI: [
            (stack.loki.port, loopback, "port"),
            (stack.loki.grpc_port, loopback, "grpc_port"),
        ],
        Component.PROMETHEUS: [(stack.prometheus.port, loopback, "port")],
        Component.GRAFANA: [(stack.grafana.port, stack.grafana.address, "port")],
        Component.FALCOSIDEKICK: [(stack.falcosidekick.port, loopback, "port")],
    }
    wanted += [
        (port, address, component.unit, component.package, f"stack.{component.value}.{key}")
        for component, ports in places.items()
        if uses[component] is Use.LOCAL
        for port, address, key in ports
    ]
    for port, address, unit, user, setting in wanted:
        yield judge_port(
            port,
            address,
            facts.listeners,
            ours={unit},
            users={facts.users[user]} if user in facts.users else (),
            setting=setting,
            sees_all=facts.sees_all,
        )


def _strangers(
    settings: ServerSettings, uses: Mapping[Component, Use], facts: Facts
) -> Iterator[Finding]:
    default_ports = {
        Component.LOKI: 3100,
        Component.PROMETHEUS: 9090,
        Component.GRAFANA: 3000,
        Component.FALCOSIDEKICK: 2801,
    }
    for unit, at_boot in sorted(facts.strangers.items()):
        component = STRANGERS[unit]
        port: int = getattr(settings.stack, component.value).port
        if uses[component] is not Use.LOCAL or not at_boot or port != default_ports[component]:
            continue
        key = f"stack.{component.value}"
        yield warning(
            f"other-{component.value}",
            f"{unit} of another package starts at boot, and takes port {port} if it is first",
            f"'systemctl disable --now {unit}', or give SIB's another port ({key}.port), or use"
            f" that one ({key}.use: external)",
        )


def _credentials(settings: ServerSettings, uses: Mapping[Component, Use]) -> Iterator[Finding]:
    stack = settings.stack
    places: list[tuple[Component, str | None, StoreAccess]] = [
        (Component.LOKI, stack.loki.url, stack.loki.access),
        (Component.PROMETHEUS, stack.prometheus.url, stack.prometheus.access),
        (Component.FALCOSIDEKICK, stack.falcosidekick.url, stack.falcosidekick.access),
    ]
    for component, url, access in places:
        secret = access.password_file or access.token_file
        if uses[component] is Use.EXTERNAL and url and url.startswith("http:") and secret:
            yield warning(
                f"clear-text-{component.value}",
                f"{url}: credentials and events go there unencrypted",
                f"use https in stack.{component.value}.url, or see that nobody is in between",
            )
