"""Falco's configuration, from the settings and what is on the host. Pure.

Rules are loaded in this order: Falco's own, SIB's probe, the bundle in force, the host's own. Every
rule that matches reports (``rule_matching: all``): with Falco's default the first one would hide
the others, and which one that is would depend on which sets are loaded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from sib_protocol.drills.marks import FIELD as DRILL_FIELD

if TYPE_CHECKING:
    from pathlib import Path

    from sib_agent.settings import AgentSettings, FalcoSettings

STOCK_RULES: Final = "etc/falco_rules.yaml"
"""Below Falco's home."""

CONTAINER_PLUGIN: Final = "share/plugins/libcontainer.so"
"""Below Falco's home."""

PROBE_RULE: Final = "SIB probe"
"""The rule by which doctor sees that Falco sees."""

PROBE_PREFIX: Final = "sib-probe-"
"""What the argument begins with that makes it fire."""

_TRIAGE_FIELDS: Final = (
    "evt.type",
    "evt.res",
    "proc.name",
    "proc.exepath",
    "proc.cmdline",
    "proc.cwd",
    "proc.tty",
    "proc.pid",
    "proc.ppid",
    "proc.vpid",
    "proc.sid",
    "proc.pname",
    "proc.pexepath",
    "proc.pcmdline",
    "proc.aname[2]",
    "proc.aname[3]",
    "proc.aname[4]",
    "user.name",
    "user.uid",
    "user.loginname",
    "user.loginuid",
    "fd.name",
    # What tells a drill's events from others.
    DRILL_FIELD,
)
_CONTAINER_FIELDS: Final = (
    "container.id",
    "container.name",
    "container.image.repository",
    "container.image.tag",
)


_MOST_BUFFERS: Final = 8


@dataclass(frozen=True, slots=True)
class FalcoFiles:
    """What of Falco is on the host.

    Attributes:
        program: whether the program itself is.
        stock_rules: Falco's own rules, or ``None``.
        container_plugin: the plugin that names containers, or ``None``; Falco's own rules cannot
            be loaded without it.
        cores: of the host.
    """

    program: bool
    stock_rules: Path | None
    container_plugin: Path | None
    cores: int = 1


def probe_path(settings: FalcoSettings) -> Path:
    """Where the probe's rule is: beside the configuration."""
    return settings.config.with_name("falco-probe.yaml")


def rules_paths(settings: FalcoSettings, found: FalcoFiles) -> tuple[str, ...]:
    """The rule files and folders, in the order in which Falco loads them."""
    stock = found.stock_rules if settings.stock_rules and found.container_plugin else None
    return (
        *((str(stock),) if stock else ()),
        str(probe_path(settings)),
        str(settings.bundles / "current" / "rules"),
        *settings.more_rules,
    )


def render_falco(settings: AgentSettings, found: FalcoFiles) -> str:
    """``falco.yaml``."""
    falco = settings.falco
    fields = [*_TRIAGE_FIELDS, *(_CONTAINER_FIELDS if found.container_plugin else ())]
    fields += [field for field in falco.more_fields if field not in fields]
    tree: dict[str, Any] = {
        "rules_files": list(rules_paths(falco, found)),
        "rule_matching": "all",
        "priority": falco.priority,
        # A bundle in force is a symlink that was switched, which Falco does not see: it is told by
        # sib-falco-reload.service. But without this, Falco 0.44 takes no SIGHUP either.
        "watch_config_files": True,
        "engine": {
            "kind": "modern_ebpf",
            "modern_ebpf": {
                "buf_size_preset": falco.buffer_preset,
                # The unit's bound of memory holds for the kernel's buffers, too.
                "cpus_for_each_buffer": max(2, math.ceil(found.cores / _MOST_BUFFERS)),
            },
        },
        "json_output": True,
        "json_include_output_property": True,
        "json_include_tags_property": True,
        "time_format_iso_8601": True,
        "buffered_outputs": False,
        "outputs_queue": {"capacity": falco.queue_capacity},
        "append_output": [{"match": {"source": "syscall"}, "extra_fields": fields}],
        # The agent takes the file over by renaming it, so Falco has to open it anew each time.
        "file_output": {
            "enabled": True,
            "keep_alive": False,
            "filename": str(settings.events.file),
        },
        "stdout_output": {"enabled": False},
        "syslog_output": {"enabled": False},
        "log_stderr": True,
        "log_syslog": False,
        "log_level": "info",
        "webserver": {
            "enabled": True,
            "listen_address": "127.0.0.1",
            "listen_port": falco.metrics_port,
            "threadiness": 1,
            "prometheus_metrics_enabled": True,
        },
        "metrics": {
            "enabled": True,
            "interval": "1m",
            # For Prometheus only: as events they would be one an interval, on every host.
            "output_rule": False,
            "rules_counters_enabled": True,
            "resource_utilization_enabled": True,
            "state_counters_enabled": True,
            "kernel_event_counters_enabled": True,
            "libbpf_stats_enabled": False,
            "plugins_metrics_enabled": True,
            "convert_memory_to_mb": False,
        },
        # An event a five minutes at most, once a hundredth of a second's system calls were lost.
        "syscall_event_drops": {
            "threshold": 0.01,
            "actions": ["log", "alert"],
            "rate": 0.00333,
            "max_burst": 1,
        },
    }
    if found.container_plugin is not None:
        tree["load_plugins"] = ["container"]
        tree["plugins"] = [
            {
                "name": "container",
                "library_path": str(found.container_plugin),
                "init_config": {"label_max_len": 100, "with_size": False},
            }
        ]
    text: str = yaml.safe_dump(tree, sort_keys=False, width=100, allow_unicode=True)
    return text


def render_probe(settings: FalcoSettings) -> str:
    """The rule that fires when a program is given an argument that begins with PROBE_PREFIX."""
    tree = [
        {
            "rule": PROBE_RULE,
            "desc": "'sib-agent doctor' follows an event of its own from the kernel to the server",
            "condition": (
                "evt.type in (execve, execveat) and evt.res = SUCCESS"
                f" and proc.args startswith {PROBE_PREFIX}"
            ),
            "output": "sib-agent doctor looks whether Falco sees this (command=%proc.cmdline)",
            # Whatever is loaded at all: this one is.
            "priority": falco_priority(settings),
            # As of a drill: stored and searchable, and nobody is woken up.
            "tags": ["sib", "sib_demo", "sib_probe"],
        }
    ]
    text: str = yaml.safe_dump(tree, sort_keys=False, width=100)
    return text


def falco_priority(settings: FalcoSettings) -> str:
    """The probe's priority: informational, or what is severe enough to be loaded."""
    return "INFORMATIONAL" if settings.priority == "debug" else settings.priority.upper()
