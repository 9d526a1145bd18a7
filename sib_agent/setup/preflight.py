"""Whether SIB can work on a host, judged over what was found there. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sib_agent.setup.units import AGENT_UNIT, ALLOY_UNIT, FALCO_UNIT
from sib_protocol.checks import Finding, failed, skipped, warning, well
from sib_protocol.machine import (
    GIB,
    MIB,
    Container,
    judge_clock,
    judge_disk,
    judge_memory,
    judge_port,
)

if TYPE_CHECKING:
    from sib_agent.settings import AgentSettings
    from sib_agent.setup.facts import HostFacts

MIN_KERNEL: Final = (5, 8)
MIN_SYSTEMD: Final = 247
_SPARE_DISK: Final = 256 * MIB
STARTING_CHECKS: Final = frozenset({"kernel", "btf", "bpf", "memlock"})
"""What keeps Falco from starting; a Falco that runs has proven them."""

# Bits of the kernel's capability sets.
CAP_SYS_ADMIN: Final = 1 << 21
CAP_SYS_RESOURCE: Final = 1 << 24
CAP_PERFMON: Final = 1 << 38
CAP_BPF: Final = 1 << 39


def judge_host(facts: HostFacts, settings: AgentSettings) -> list[Finding]:
    """All findings, in the order in which they are shown."""
    findings = [
        judge_systemd(facts),
        # Together they take up to half a GiB of it.
        judge_memory(facts.memory, least=512 * MIB, enough=GIB, purpose="agent, Falco and Alloy"),
        judge_disk(
            facts.disk,
            least=64 * MIB,
            enough=settings.spool.quota_bytes + _SPARE_DISK,
            purpose="the spool",
        ),
        judge_clock(facts.clock),
        *judge_ports(facts, settings),
    ]
    if settings.falco.enabled:
        findings += [judge_kernel(facts), judge_btf(facts), judge_bpf(facts)]
        findings += [judge_memlock(facts), judge_other_falco(facts), judge_falco(facts, settings)]
    if settings.alloy.enabled:
        findings += [judge_other_collector(facts), judge_alloy(facts)]
    return findings


def kernel_version(release: str) -> tuple[int, int] | None:
    """The first two numbers of a kernel's release."""
    match = re.match(r"(\d+)\.(\d+)", release)
    return (int(match[1]), int(match[2])) if match else None


def judge_kernel(facts: HostFacts) -> Finding:
    """Whether the kernel is new enough for Falco's modern eBPF probe."""
    version = kernel_version(facts.kernel)
    if version is None:
        return skipped("kernel", f"cannot tell how new the kernel {facts.kernel!r} is")
    if version < MIN_KERNEL:
        return failed(
            "kernel",
            f"the kernel is {facts.kernel}; Falco's probe needs 5.8 or newer",
            "upgrade the kernel, or set falco.enabled to false: logs and metrics work without",
        )
    return well("kernel", facts.kernel)


def judge_btf(facts: HostFacts) -> Finding:
    """Whether the kernel describes its types, without which no portable probe loads."""
    if not facts.btf:
        return failed(
            "btf",
            "the kernel does not describe its types: there is no /sys/kernel/btf/vmlinux",
            "use the distribution's own kernel, or one built with CONFIG_DEBUG_INFO_BTF=y",
        )
    return well("btf", "/sys/kernel/btf/vmlinux")


def judge_bpf(facts: HostFacts) -> Finding:
    """Whether an eBPF program may be loaded here at all."""
    if facts.lockdown == "confidentiality":
        return failed(
            "bpf",
            "the kernel is locked down to 'confidentiality', which forbids Falco's probe to read",
            "boot with lockdown=integrity, or without lockdown",
        )
    allowed = facts.capabilities
    may = allowed is None or bool(
        allowed & CAP_SYS_ADMIN or (allowed & CAP_BPF and allowed & CAP_PERFMON)
    )
    if facts.container is not Container.NONE and not may:
        return failed(
            "bpf",
            f"this is a container ({facts.container.value}) that may not load eBPF programs",
            "run Falco on the machine below it, and set falco.enabled to false here",
        )
    if not may:
        return failed(
            "bpf",
            "no process here may have CAP_BPF and CAP_PERFMON",
            "see who bounds the capabilities of this system (CapBnd in /proc/1/status)",
        )
    if facts.container is not Container.NONE:
        return warning(
            "bpf",
            f"this is a container ({facts.container.value}), where Falco sees the whole machine",
            "better run Falco on the machine below, and set falco.enabled to false here",
        )
    return well("bpf", "eBPF programs may be loaded")


def judge_memlock(facts: HostFacts) -> Finding:
    """Whether Falco can lock the memory that its probe's buffers take."""
    allowed, limit = facts.capabilities, facts.memlock
    if limit == -1:
        return well("memlock", "memory may be locked without a limit")
    if allowed is not None and not allowed & CAP_SYS_RESOURCE:
        return failed(
            "memlock",
            "no process here may have CAP_SYS_RESOURCE, so Falco cannot raise its limit of locked"
            " memory and does not start",
            "give the container CAP_SYS_RESOURCE or an unlimited RLIMIT_MEMLOCK, or run Falco on"
            " the machine below it",
        )
    return well("memlock", "Falco may raise its limit of locked memory")


def judge_systemd(facts: HostFacts) -> Finding:
    """Whether systemd understands the units."""
    if facts.systemd is None:
        return skipped("systemd", "systemd does not run here: nothing will start SIB's daemons")
    if facts.systemd < MIN_SYSTEMD:
        return warning(
            "systemd",
            f"systemd is {facts.systemd}: it ignores some of the units' hardening",
            f"upgrade to a distribution with systemd {MIN_SYSTEMD} or newer",
        )
    return well("systemd", str(facts.systemd))


def judge_ports(facts: HostFacts, settings: AgentSettings) -> list[Finding]:
    """Whether the ports on loopback are free, or have who should have them."""
    wanted: list[tuple[str, int, str, str]] = []
    if settings.metrics.port is not None:
        metrics = settings.metrics
        wanted.append((metrics.address, settings.metrics.port, AGENT_UNIT, "metrics.port"))
    if settings.falco.enabled:
        port = settings.falco.metrics_port
        wanted.append(("127.0.0.1", port, FALCO_UNIT, "falco.metrics_port"))
    if settings.alloy.enabled:
        address, _, number = settings.alloy.listen.rpartition(":")
        wanted.append((address, int(number), ALLOY_UNIT, "alloy.listen"))
    return [
        judge_port(
            port, address, facts.listeners, ours={unit}, setting=setting, sees_all=facts.root
        )
        for address, port, unit, setting in wanted
    ]


def judge_other_falco(facts: HostFacts) -> Finding:
    """Whether another Falco watches already."""
    others = [unit for unit in facts.other_units if unit.startswith("falco")]
    if others:
        names = " ".join(others)
        return warning(
            "other-falco",
            f"another Falco runs here: {names}; two cost twice",
            f"systemctl disable --now {names}; or keep it, let it append its JSON events to"
            " events.file, and set falco.enabled to false (docs/hosts.md says how)",
        )
    return well("other-falco", "none")


def judge_falco(facts: HostFacts, settings: AgentSettings) -> Finding:
    """Whether Falco and its own rules are here."""
    if not facts.falco.program:
        return warning(
            "falco",
            f"Falco is not in {settings.falco.home}",
            "install the package sib-falco, or set falco.enabled to false",
        )
    if not settings.falco.stock_rules:
        return well("falco", "installed; its package's rules are left out by falco.stock_rules")
    if facts.falco.stock_rules is None:
        return well("falco", "installed, without rules of its own: SIB's bundles hold rules")
    if facts.falco.container_plugin is None:
        return warning(
            "falco",
            "Falco's own rules are not loaded: they need its container plugin, which is not in"
            f" {settings.falco.home}",
            "install the package sib-falco as its project released it, or set falco.stock_rules to"
            " false",
        )
    return well("falco", "installed, with its own rules")


def judge_other_collector(facts: HostFacts) -> Finding:
    """Whether somebody ships this host's logs or metrics already."""
    others = [unit for unit in facts.other_units if not unit.startswith("falco")]
    if others:
        names = " ".join(others)
        return warning(
            "other-collector",
            f"something else collects logs or metrics here: {names}",
            "both work side by side; stop the one that is not needed (systemctl disable --now), or"
            " set alloy.enabled to false",
        )
    return well("other-collector", "none")


def judge_alloy(facts: HostFacts) -> Finding:
    """Whether Alloy is here."""
    if not facts.alloy:
        return warning(
            "alloy",
            "Alloy is not installed: this host's logs and metrics stay here",
            "install the package sib-alloy, or set alloy.enabled to false",
        )
    return well("alloy", "installed")
