from __future__ import annotations

import dataclasses
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from sib_agent.settings import AgentSettings
from sib_agent.setup.facts import HostFacts, gather, other_units
from sib_agent.setup.falco_config import FalcoFiles
from sib_agent.setup.preflight import judge_host, kernel_version
from sib_protocol.checks import Verdict
from sib_protocol.machine import GIB, MIB, Clock, Container, Disk, Listener, Memory
from sib_protocol.settings import parse_settings

NOW = datetime(2026, 11, 25, tzinfo=timezone.utc)
GOOD = HostFacts(
    kernel="6.1.0-18-amd64",
    btf=True,
    container=Container.NONE,
    capabilities=(1 << 41) - 1,
    lockdown="none",
    memlock=8 * MIB,
    memory=Memory(4 * GIB, 2 * GIB),
    disk=Disk("/var/lib/sib-agent/spool", 100 * GIB, 50 * GIB),
    clock=Clock(NOW, True, NOW),
    listeners=(),
    root=True,
    systemd=252,
    journald=True,
    other_units=(),
    falco=FalcoFiles(True, Path("/s/falco_rules.yaml"), Path("/s/libcontainer.so")),
    alloy=True,
)
NO_BPF = ((1 << 41) - 1) & ~(1 << 21) & ~(1 << 38)
NO_RESOURCE = ((1 << 41) - 1) & ~(1 << 24)


def judged(settings: AgentSettings | None = None, **other: Any) -> dict[str, tuple[Verdict, str]]:
    findings = judge_host(dataclasses.replace(GOOD, **other), settings or AgentSettings())
    for finding in findings:
        # Whoever reads of a fault reads what to do.
        assert finding.remedy or finding.verdict in (Verdict.WELL, Verdict.SKIPPED)
    return {item.check: (item.verdict, f"{item.problem} {item.remedy}") for item in findings}


def test_a_good_host_is_well_in_everything() -> None:
    assert {verdict for verdict, _ in judged().values()} == {Verdict.WELL}


@pytest.mark.parametrize(
    ("other", "check", "verdict", "said"),
    [
        ({"kernel": "4.18.0-553.el8"}, "kernel", Verdict.FAILED, "5.8"),
        ({"kernel": "5.7.19"}, "kernel", Verdict.FAILED, "5.7.19"),
        ({"kernel": "5.8.0-1"}, "kernel", Verdict.WELL, "5.8"),
        ({"kernel": "odd"}, "kernel", Verdict.SKIPPED, "odd"),
        ({"btf": False}, "btf", Verdict.FAILED, "CONFIG_DEBUG_INFO_BTF"),
        ({"lockdown": "confidentiality"}, "bpf", Verdict.FAILED, "lockdown=integrity"),
        ({"lockdown": "integrity"}, "bpf", Verdict.WELL, ""),
        (
            {"container": Container.LXC, "capabilities": NO_BPF},
            "bpf",
            Verdict.FAILED,
            "machine below",
        ),
        ({"container": Container.LXC}, "bpf", Verdict.WARNING, "lxc"),
        ({"capabilities": NO_BPF}, "bpf", Verdict.FAILED, "CapBnd"),
        ({"capabilities": None}, "bpf", Verdict.WELL, ""),
        ({"capabilities": NO_RESOURCE}, "memlock", Verdict.FAILED, "CAP_SYS_RESOURCE"),
        ({"capabilities": NO_RESOURCE, "memlock": -1}, "memlock", Verdict.WELL, "without a limit"),
        ({"memory": Memory(GIB // 3, 1)}, "memory", Verdict.FAILED, "1.0 GiB"),
        ({"memory": Memory(600 * MIB, 1)}, "memory", Verdict.WARNING, "Alloy"),
        ({"disk": Disk("/var", GIB, 300 * MIB)}, "disk", Verdict.WARNING, "spool"),
        ({"clock": Clock(NOW, False, NOW)}, "clock", Verdict.WARNING, "chrony"),
        ({"systemd": None}, "systemd", Verdict.SKIPPED, "does not run"),
        ({"systemd": 239}, "systemd", Verdict.WARNING, "hardening"),
        (
            {"listeners": (Listener("127.0.0.1", 8765, 7, "falco", "falco.service"),)},
            "port-8765",
            Verdict.FAILED,
            "falco.metrics_port",
        ),
        (
            {"listeners": (Listener("127.0.0.1", 9466, 7, "python3", "sib-agent.service"),)},
            "port-9466",
            Verdict.WELL,
            "sib-agent.service",
        ),
        (
            {"other_units": ("falco-modern-bpf.service",)},
            "other-falco",
            Verdict.WARNING,
            "disable --now falco-modern-bpf.service",
        ),
        ({"other_units": ("promtail.service",)}, "other-collector", Verdict.WARNING, "promtail"),
        ({"alloy": False}, "alloy", Verdict.WARNING, "sib-alloy"),
        ({"falco": FalcoFiles(False, None, None)}, "falco", Verdict.WARNING, "install"),
        ({"falco": FalcoFiles(True, None, None)}, "falco", Verdict.WELL, "bundles"),
        (
            {"falco": FalcoFiles(True, Path("/r"), None)},
            "falco",
            Verdict.WARNING,
            "container plugin",
        ),
    ],
)
def test_each_fault_is_named_with_its_cure(
    other: dict[str, Any], check: str, verdict: Verdict, said: str
) -> None:
    found = judged(**other)[check]
    assert found[0] is verdict
    assert said in found[1]


def test_parts_that_are_not_wanted_are_not_judged() -> None:
    def made(text: str) -> AgentSettings:
        return parse_settings(text, AgentSettings, Path("agent.yaml"))

    without = judged(made("falco: {enabled: false}"), kernel="3.10", other_units=("falco.service",))
    assert not {"kernel", "btf", "bpf", "memlock", "falco", "port-8765"} & without.keys()
    without = judged(made("alloy: {enabled: false}\nmetrics: {port: null}"), alloy=False)
    assert not {"alloy", "other-collector", "port-12345", "port-9466"} & without.keys()
    found = judged(made("falco: {stock_rules: false}"))
    assert "left out" in found["falco"][1]


def test_units_of_ours_are_no_rivals() -> None:
    listing = (
        "falco-modern-bpf.service loaded active running Falco\n"
        "sib-falco.service loaded active running SIB\n\n"
        "alloy.service loaded active running Alloy\n"
    )
    assert other_units(listing) == ("falco-modern-bpf.service", "alloy.service")
    assert kernel_version("") is None


def test_this_machine_can_be_looked_at() -> None:
    facts = gather(AgentSettings())
    assert kernel_version(facts.kernel) is not None
    assert facts.memory is not None
    assert facts.memory.total > 100 * MIB
    assert judge_host(facts, AgentSettings())
