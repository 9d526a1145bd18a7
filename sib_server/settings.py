"""The server's settings: each one's type, default and help stand at its field, once."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from sib_server.detection.bundles.settings import BundleSettings
from sib_server.detection.indicators.settings import IntelSettings
from sib_server.detection.rules.settings import DetectionSettings
from sib_server.events.settings import JournalSettings
from sib_server.events.sinks.settings import FalcosidekickSinkSettings, LokiSinkSettings
from sib_server.fleet.health import HealthLimits
from sib_server.fleet.limits import Rate
from sib_server.fleet.policy import FleetPolicy
from sib_server.listener.gate import GateLimits
from sib_server.operations.disk.settings import DiskSettings
from sib_server.operations.settings import BackupSettings
from sib_server.stack.push.settings import PushSettings
from sib_server.stack.settings import StackSettings

DEFAULT_PATH: Final = Path("/etc/sib/server.yaml")

Port = Annotated[int, Meta(ge=1, le=65535)]
HttpsUrl = Annotated[str, Meta(pattern=r"^https://[A-Za-z0-9._\-\[\]:]+$")]


class ListenSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the server listens, and under which names hosts reach it."""

    address: Annotated[
        str, Meta(description="IP address to listen on; '::' is all, IPv4 and IPv6.")
    ] = "::"
    port: Annotated[Port, Meta(description="TCP port of everything that hosts speak to.")] = 8443
    names: Annotated[
        tuple[str, ...],
        Meta(
            description="DNS names and IP addresses of the server's certificate, beside those of"
            " public_urls; empty: this machine's name and loopback."
        ),
    ] = ()
    public_urls: Annotated[
        tuple[HttpsUrl, ...],
        Meta(
            description="https://host:port addresses that tokens carry, tried in order; empty:"
            " this machine's name and the port above."
        ),
    ] = ()

    connections: Annotated[
        int, Meta(ge=10, description="Open connections, in all; a host needs one or two.")
    ] = 20_000
    strangers: Annotated[
        int, Meta(ge=1, description="Of those, ones without a client certificate.")
    ] = 512
    strangers_each: Annotated[int, Meta(ge=1, description="Of those, ones from one address.")] = 64

    def gate(self) -> GateLimits:
        """As the listener takes it."""
        return GateLimits(
            connections=self.connections,
            strangers=self.strangers,
            strangers_each=self.strangers_each,
        )

    def urls(self, machine: str) -> tuple[str, ...]:
        """The addresses that tokens carry, on a machine of this name."""
        return self.public_urls or (f"https://{machine}:{self.port}",)

    def certificate_names(self, machine: str) -> tuple[str, ...]:
        """The names of the server's certificate, on a machine of this name."""
        reached = [urlsplit(url).hostname or "" for url in self.urls(machine)]
        own = self.names or (machine, "localhost", "127.0.0.1", "::1")
        return tuple(dict.fromkeys(filter(None, [*reached, *own])))


class StateSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where hosts, certificates, tokens and health are kept."""

    url: Annotated[
        str,
        Meta(
            description="sqlite:////path/state.db on one machine, postgresql://user@host/database"
            " for several servers. Keep a password in ~/.pgpass of the server's user, not here."
        ),
    ] = "sqlite:////var/lib/sib-server/state.db"


class PkiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The certificate authority."""

    directory: Annotated[
        Path,
        Meta(description="The CA and the server's certificate. Back it up; keep it secret."),
    ] = Path("/var/lib/sib-server/pki")


class FleetSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How hosts enroll and report."""

    health_interval_seconds: Annotated[
        float, Meta(ge=1, le=3600, description="How often a host reports its health.")
    ] = 30.0
    late_after_seconds: Annotated[
        float, Meta(gt=0, description="A host that has not reported for so long is late.")
    ] = 90.0
    silent_after_seconds: Annotated[
        float, Meta(gt=0, description="A host that has not reported for so long is silent.")
    ] = 600.0
    renew_expired_days: Annotated[
        float,
        Meta(ge=0, le=365, description="How long an expired certificate can still be renewed."),
    ] = 30.0
    attempts_per_minute: Annotated[
        float,
        Meta(gt=0, description="Failed attempts to enroll, from one address, in the long run."),
    ] = 10.0
    attempts_burst: Annotated[
        int, Meta(ge=1, description="Failed attempts to enroll, from one address, at once.")
    ] = 20

    def policy(self) -> FleetPolicy:
        """As the fleet's service takes it."""
        return FleetPolicy(
            grace=timedelta(days=self.renew_expired_days),
            health=HealthLimits(self.late_after_seconds, self.silent_after_seconds),
            each=Rate(self.attempts_burst, self.attempts_per_minute / 60),
        )


class MetricsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Prometheus reads the server's own metrics, without TLS."""

    address: Annotated[
        str,
        Meta(
            pattern=r"^(127\.[0-9.]+|::1)$",
            description="A loopback address: the metrics are not secret, but nobody's business.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        Port | None, Meta(description="TCP port of /metrics and /healthz; null for none.")
    ] = 9465


class SinksSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the journal delivers."""

    loki: LokiSinkSettings = LokiSinkSettings()
    falcosidekick: FalcosidekickSinkSettings = FalcosidekickSinkSettings()


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the server says of itself on stderr, which systemd keeps."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is logged.")
    ] = "info"


class SigmaSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sigma rules that were imported."""

    directory: Annotated[
        Path, Meta(description="Their sources and what they were converted to.")
    ] = Path("/var/lib/sib-server/sigma")
    alert_seconds: Annotated[
        int,
        Meta(
            ge=5,
            le=240,
            description="How often Loki's ruler is asked which rules over logs hold.",
        ),
    ] = 15


class ServerSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that /etc/sib/server.yaml may say."""

    listen: ListenSettings = ListenSettings()
    state: StateSettings = StateSettings()
    pki: PkiSettings = PkiSettings()
    fleet: FleetSettings = FleetSettings()
    journal: JournalSettings = JournalSettings()
    sinks: SinksSettings = SinksSettings()
    push: PushSettings = PushSettings()
    stack: StackSettings = StackSettings()
    metrics: MetricsSettings = MetricsSettings()
    intel: IntelSettings = IntelSettings()
    sigma: SigmaSettings = SigmaSettings()
    detection: DetectionSettings = DetectionSettings()
    backup: BackupSettings = BackupSettings()
    disk: DiskSettings = DiskSettings()
    bundles: BundleSettings = BundleSettings()
    log: LogSettings = LogSettings()
