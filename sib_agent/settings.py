"""The agent's settings: each one's type, default and help stand at its field, once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

DEFAULT_PATH: Final = Path("/etc/sib/agent.yaml")
_MIB: Final = 1024 * 1024

Port = Annotated[int, Meta(ge=1, le=65535)]


class IdentitySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The host's key and certificate."""

    directory: Annotated[
        Path, Meta(description="Where the key and the certificates are; secret.")
    ] = Path("/var/lib/sib-agent/identity")


class EventsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Falco's events file."""

    file: Annotated[
        Path,
        Meta(
            description="The file that Falco appends its alerts to, as JSON lines and with"
            " keep_alive false. The agent takes it over: it renames and deletes it."
        ),
    ] = Path("/var/lib/sib-falco/events/events.json")
    rotate_bytes: Annotated[
        int, Meta(ge=4096, description="Size at which the agent takes the file over.")
    ] = 16 * _MIB


class SpoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where event lines wait for the server."""

    directory: Annotated[Path, Meta(description="The spool's own directory.")] = Path(
        "/var/lib/sib-agent/spool"
    )
    quota_bytes: Annotated[
        int,
        Meta(
            ge=64 * 1024,
            description="The most it may take. Above that the oldest lines are given up, and the"
            " server is told which.",
        ),
    ] = 512 * _MIB
    segment_bytes: Annotated[
        int, Meta(ge=4096, description="The size of one of its files, and so of what is given up.")
    ] = 8 * _MIB


class UplinkSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The way to the server."""

    batch_bytes: Annotated[
        int, Meta(ge=1024, le=8 * _MIB, description="How much a batch holds at most, uncompressed.")
    ] = _MIB
    timeout_seconds: Annotated[
        float, Meta(gt=0, le=600, description="How long the server may take to answer.")
    ] = 30.0
    longest_wait_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="The longest pause between two tries.")
    ] = 60.0


class MetricsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where Alloy or Prometheus reads the agent's own metrics, without TLS."""

    address: Annotated[
        str, Meta(pattern=r"^(127\.[0-9.]+|::1)$", description="A loopback address.")
    ] = "127.0.0.1"
    port: Annotated[Port | None, Meta(description="TCP port of /metrics; null for none.")] = 9466


class StatusSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What 'sib-agent status' reads."""

    file: Annotated[Path, Meta(description="Written every few seconds by the daemon.")] = Path(
        "/run/sib-agent/status.json"
    )


class LogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the agent says of itself on stderr, which systemd keeps."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="The least that is logged.")
    ] = "info"


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that /etc/sib/agent.yaml may say."""

    identity: IdentitySettings = IdentitySettings()
    events: EventsSettings = EventsSettings()
    spool: SpoolSettings = SpoolSettings()
    uplink: UplinkSettings = UplinkSettings()
    metrics: MetricsSettings = MetricsSettings()
    status: StatusSettings = StatusSettings()
    log: LogSettings = LogSettings()
