"""Where the stack's programs, configuration and state are, and whose they are. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final


class Component(Enum):
    """A program beside the server, each in a package of its own."""

    LOKI = "loki"
    PROMETHEUS = "prometheus"
    GRAFANA = "grafana"
    FALCOSIDEKICK = "falcosidekick"

    @property
    def package(self) -> str:
        """Its package, which is also its user and its group."""
        return f"sib-{self.value}"

    @property
    def unit(self) -> str:
        """Its systemd unit."""
        return f"sib-{self.value}.service"


SERVER_USER: Final = "sib-server"
SERVER_UNIT: Final = "sib-server.service"


@dataclass(frozen=True, slots=True)
class Layout:
    """Places; the defaults are the packages'.

    Attributes:
        config: of all generated configuration.
        state: directories of services are in it, as ``sib-loki``.
        programs: likewise, of their programs.
        share: of data that packages bring.
        ruler: what Loki's ruler reads; the tenant's directory in it is bound there by the unit.
        credentials: where systemd hands Grafana its secrets.
    """

    config: Path = Path("/etc/sib")
    state: Path = Path("/var/lib")
    programs: Path = Path("/usr/lib")
    share: Path = Path("/usr/share/sib-server")
    ruler: Path = Path("/run/sib-loki/rules")
    credentials: Path = Path("/run/credentials/sib-grafana.service")

    def program(self, component: Component) -> Path:
        """A component's program; it is there where the package is installed."""
        folder = self.programs / component.package
        return folder / ("bin/grafana" if component is Component.GRAFANA else component.value)

    def state_of(self, component: Component) -> Path:
        """A component's own directory."""
        return self.state / component.package

    @property
    def loki(self) -> Path:
        """Loki's configuration."""
        return self.config / "loki.yaml"

    @property
    def loki_overrides(self) -> Path:
        """How long Loki keeps, by the disk guard's decision; must be there when Loki starts."""
        return self.state / "sib-disk-guard" / "loki-overrides.yaml"

    @property
    def prometheus(self) -> Path:
        """Prometheus' configuration."""
        return self.config / "prometheus.yaml"

    @property
    def prometheus_flags(self) -> Path:
        """What Prometheus takes on its command line only, as the unit's environment."""
        return self.config / "prometheus.env"

    @property
    def falcosidekick(self) -> Path:
        """Falcosidekick's configuration."""
        return self.config / "falcosidekick.yaml"

    @property
    def grafana(self) -> Path:
        """Grafana's configuration."""
        return self.config / "grafana.ini"

    @property
    def grafana_provisioning(self) -> Path:
        """Grafana's data sources and dashboards."""
        return self.config / "grafana" / "provisioning"

    @property
    def grafana_tls(self) -> Path:
        """Grafana's key and certificate in one file, so that they are replaced together."""
        return self.config / "grafana" / "tls.pem"

    @property
    def grafana_certificate(self) -> Path:
        """The certificate alone: for those who check it, on this machine and in browsers."""
        return self.config / "grafana" / "certificate.pem"

    @property
    def secrets(self) -> Path:
        """For root alone."""
        return self.config / "secrets"

    @property
    def applied(self) -> Path:
        """What each unit was last started with."""
        return self.state / "sib-server-setup" / "applied.json"

    @property
    def dashboards(self) -> Path:
        """The dashboards that the server's package brings."""
        return self.share / "dashboards"
