from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sib_protocol.checks import Verdict
from sib_protocol.machine import GIB, Clock, Container, Disk, Listener, Memory
from sib_protocol.settings import parse_settings
from sib_server.settings import ServerSettings
from sib_server.stack.layout import Component, Layout
from sib_server.stack.machine_look import find_facts, find_installed
from sib_server.stack.preflight import Facts, judge_machine
from sib_server.stack.settings import Use

ALL = dict.fromkeys(Component, Use.LOCAL)
NONE = dict.fromkeys(Component, Use.OFF)
NOW = datetime(2026, 11, 25, tzinfo=timezone.utc)
ROOMY = Disk("/var/lib", 500 * GIB, 400 * GIB)
GOOD = Facts(
    memory=Memory(4 * GIB, 3 * GIB),
    disks={"journal": ROOMY, "loki": ROOMY, "prometheus": ROOMY},
    clock=Clock(NOW, True, NOW),
    container=Container.NONE,
    listeners=(),
    users={},
    strangers={},
    sees_all=True,
    systemd=True,
    python=(3, 11),
)


def judged(
    facts: Facts = GOOD, uses: dict[Component, Use] | None = None, text: str = ""
) -> dict[str, Any]:
    settings = parse_settings(text, ServerSettings, Path("server.yaml"))
    found = judge_machine(settings, ALL if uses is None else uses, facts)
    troubles = [item for item in found if item.verdict is not Verdict.WELL]
    assert all(item.remedy or item.verdict is Verdict.SKIPPED for item in troubles)
    return {item.check: item for item in troubles}


def but(**changes: Any) -> Facts:
    import dataclasses  # noqa: PLC0415

    return dataclasses.replace(GOOD, **changes)


def test_a_machine_of_four_gigabytes_is_well() -> None:
    assert judged() == {}
    assert judged(but(memory=Memory(GIB, GIB)), NONE) == {}


@pytest.mark.parametrize(
    ("facts", "check", "verdict", "said"),
    [
        (but(memory=Memory(2 * GIB, GIB)), "memory", Verdict.WARNING, "with Loki, Prometheus"),
        (but(memory=Memory(GIB, GIB)), "memory", Verdict.FAILED, "too little"),
        (but(memory=None), "memory", Verdict.SKIPPED, "cannot be read"),
        (but(python=(3, 10)), "python", Verdict.FAILED, "3.10"),
        (but(python=(3, 15)), "python", Verdict.WARNING, "newer than any"),
        (but(systemd=False), "systemd", Verdict.WARNING, "not run by systemd"),
        (but(container=Container.DOCKER), "container", Verdict.WARNING, "docker"),
        (
            but(disks={**GOOD.disks, "loki": Disk("/l", 9 * GIB, GIB)}),
            "disk-loki",
            Verdict.FAILED,
            "/l",
        ),
        (
            but(disks={**GOOD.disks, "journal": Disk("/j", 9 * GIB, 5 * GIB)}),
            "disk-journal",
            Verdict.WARNING,
            "/j",
        ),
        (
            but(strangers={"grafana-server.service": True}),
            "other-grafana",
            Verdict.WARNING,
            "grafana-server.service of another package",
        ),
        *(
            (
                but(listeners=(Listener("::", port, 7, "x", "x.service", 5),)),
                f"port-{port}",
                Verdict.FAILED,
                "x.service",
            )
            for port in (8443, 9465, 3100, 3101, 9090, 3000, 2801)
        ),
    ],
)
def test_each_trouble_has_its_finding(
    facts: Facts, check: str, verdict: Verdict, said: str
) -> None:
    found = judged(facts)
    assert list(found) == [check]
    assert found[check].verdict is verdict
    assert said in found[check].problem


def test_lxc_will_do_and_what_is_not_used_is_not_asked_for() -> None:
    assert judged(but(container=Container.LXC)) == {}
    taken = tuple(Listener("::", port, 7, "x") for port in (3100, 9090, 3000, 2801))
    strangers = {"prometheus.service": True}
    assert judged(but(listeners=taken, strangers=strangers), NONE) == {}
    moved = "stack: {prometheus: {port: 9091}}"
    assert judged(but(strangers=strangers), text=moved) == {}
    assert judged(but(strangers={"prometheus.service": False})) == {}


def test_the_services_themselves_may_have_their_ports() -> None:
    running = (
        Listener("::", 8443, uid=901),
        Listener("127.0.0.1", 3100, 5, "loki", "sib-loki.service", 902),
    )
    assert judged(but(listeners=running, users={"sib-server": 901})) == {}
    assert set(judged(but(listeners=running, users={"sib-server": 1}))) == {"port-8443"}


def test_credentials_in_clear_text_are_told() -> None:
    text = (
        "stack: {loki: {use: external, url: 'http://l:3100', access: {token_file: /t}},"
        " prometheus: {use: external, url: 'https://p', access: {token_file: /t}}}"
    )
    uses = {**NONE, Component.LOKI: Use.EXTERNAL, Component.PROMETHEUS: Use.EXTERNAL}
    assert list(judged(text=text, uses=uses)) == ["clear-text-loki"]


def test_this_machine_can_be_looked_at(tmp_path: Path) -> None:
    settings = ServerSettings()
    facts = find_facts(settings, Layout(state=tmp_path), systemd=False)
    findings = judge_machine(settings, ALL, facts)
    assert {"memory", "clock", "disk-journal"} <= {item.check for item in findings}
    msgspec.json.encode(findings)


def test_a_component_is_installed_once_its_program_and_its_user_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(programs=tmp_path)
    for component in (Component.LOKI, Component.GRAFANA):
        program = layout.program(component)
        program.parent.mkdir(parents=True)
        program.write_text("")
    assert find_installed(layout) == frozenset(), "no users yet"
    users = {"sib-loki": object(), "sib-prometheus": object()}
    monkeypatch.setattr("sib_server.stack.machine_look.find_user", users.get)
    assert find_installed(layout) == {Component.LOKI}
