"""What each package is called, needs, starts and leaves behind. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

# The oldest that compiled wheels of manylinux_2_28, and the components, run on.
_LIBC_DEB: Final = "libc6 (>= 2.28)"
_LIBC_RPM: Final = "glibc >= 2.28"
_PYTHON_DEB: Final = ("python3 (>= 3.11)", "python3 (<< 3.14)")
_PYTHON_RPM: Final = ("(python(abi) = 3.11 or python(abi) = 3.12 or python(abi) = 3.13)",)


@dataclass(frozen=True, slots=True)
class Package:
    """One package.

    Attributes:
        name: of the package.
        summary: one line.
        units: enabled and started on installation, in this order.
        unit_files: units that are in it, beside those.
        state: directories that only a purge removes.
        config: file name below packaging/etc -> place; edits stay.
        depends_deb: Debian's names.
        depends_rpm: rpm's.
        recommends: installed along, where they can be had.
        module: what the command starts, or '' for a component.
        own: SIB's own Python packages in it.
        data: folders of the checkout, where they are there, that go below /usr/share/NAME.
    """

    name: str
    summary: str
    units: tuple[str, ...]
    unit_files: tuple[str, ...] = ()
    state: tuple[str, ...] = ()
    config: tuple[tuple[str, str], ...] = ()
    depends_deb: tuple[str, ...] = ()
    depends_rpm: tuple[str, ...] = ()
    recommends: tuple[str, ...] = ()
    module: str = ""
    own: tuple[str, ...] = ()
    data: tuple[str, ...] = ()


SERVER: Final = Package(
    name="sib-server",
    summary="SIEM in a Box: server that enrolls hosts and takes in their events",
    units=(
        "sib-server.target",
        "sib-server.service",
        "sib-server-renew.timer",
        "sib-server-intel.timer",
        "sib-server-hunt.timer",
        "sib-server-disk-guard.timer",
    ),
    unit_files=(
        "system-sib-server.slice",
        "sib-server-setup.service",
        "sib-server-renew.service",
        "sib-server-intel.service",
        "sib-server-hunt.service",
        "sib-server-disk-guard.service",
    ),
    state=(
        *("/var/lib/sib-server", "/var/lib/sib-server-setup", "/var/lib/sib-disk-guard"),
        # What setup wrote. outputs.yaml and rules.d are the administrator's.
        *("/etc/sib/server.d", "/etc/sib/secrets"),
    ),
    config=(("server.yaml", "/etc/sib/server.yaml"),),
    depends_deb=("systemd", _LIBC_DEB, *_PYTHON_DEB),
    depends_rpm=("systemd", _LIBC_RPM, *_PYTHON_RPM),
    recommends=("sib-loki", "sib-prometheus", "sib-grafana", "sib-falcosidekick"),
    module="sib_server.cli",
    own=("sib_protocol", "sib_server"),
    data=("rules", "dashboards"),
)
AGENT: Final = Package(
    name="sib-agent",
    summary="SIEM in a Box: agent that brings a host's events to the server",
    units=(
        *("sib-agent.target", "sib-agent.path", "sib-agent-setup.path", "sib-falco-reload.path"),
        "sib-agent.service",
    ),
    unit_files=(
        "system-sib-agent.slice",
        "sib-agent-setup.service",
        "sib-falco-reload.service",
    ),
    state=(
        *("/var/lib/sib-agent", "/var/lib/sib-falco", "/run/sib-falco"),
        # What setup wrote.
        *("/etc/sib/falco.yaml", "/etc/sib/falco-probe.yaml", "/etc/sib/config.alloy"),
        *("/etc/sib/falco.yaml.new", "/etc/sib/falco-probe.yaml.new", "/etc/sib/config.alloy.new"),
    ),
    config=(("agent.yaml", "/etc/sib/agent.yaml"),),
    depends_deb=("systemd", _LIBC_DEB, *_PYTHON_DEB),
    depends_rpm=("systemd", _LIBC_RPM, *_PYTHON_RPM),
    recommends=("sib-falco", "sib-alloy"),
    module="sib_agent.cli",
    own=("sib_protocol", "sib_agent"),
)
_ON_AGENTS: Final = frozenset({"falco", "alloy"})


_WRITTEN_BY_SETUP: Final = {
    "loki": ("loki.yaml",),
    "prometheus": ("prometheus.yaml", "prometheus.env"),
    "grafana": ("grafana.ini", "grafana"),
    "falcosidekick": ("falcosidekick.yaml",),
}


def component_package(name: str, summary: str) -> Package:
    """The package of one component."""
    base = "sib-agent" if name in _ON_AGENTS else "sib-server"
    own_state = () if name in {"falco", "falcosidekick"} else (f"/var/lib/sib-{name}",)
    written = tuple(
        f"/etc/sib/{file}{beside}"
        for file in _WRITTEN_BY_SETUP.get(name, ())
        for beside in ("", ".new", ".old")
    )
    return Package(
        name=f"sib-{name}",
        summary=f"SIEM in a Box: {summary}",
        units=(f"sib-{name}.service",),
        state=(*own_state, *written),
        depends_deb=(base, _LIBC_DEB),
        depends_rpm=(base, _LIBC_RPM),
    )
