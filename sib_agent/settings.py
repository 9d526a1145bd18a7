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


Glob = Annotated[str, Meta(pattern=r"^/[^\n\"]*$", max_length=1024)]
ServerAddress = Annotated[str, Meta(pattern=r"^https://[^\s\"/]+$")]
SourceName = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,31}$")]


class LogsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which logs Alloy ships. A pattern may hold ``*`` and ``**``; files may come later."""

    journal: Annotated[
        bool | None,
        Meta(
            description="Read journald, and no syslog files. Null: where journald is, as it is with"
            " systemd."
        ),
    ] = None
    journal_hours: Annotated[
        int, Meta(ge=0, le=168, description="How far back the first reading of the journal goes.")
    ] = 12
    auth: Annotated[
        tuple[Glob, ...], Meta(description="Without journald: syslog files of sshd, sudo, su, ...")
    ] = ("/var/log/auth.log", "/var/log/secure")
    cron: Annotated[
        tuple[Glob, ...], Meta(description="Without journald: cron's syslog files.")
    ] = (
        "/var/log/cron",
        "/var/log/cron.log",
    )
    syslog: Annotated[tuple[Glob, ...], Meta(description="Without journald: syslog's others.")] = (
        "/var/log/syslog",
        "/var/log/messages",
    )
    web: Annotated[
        tuple[Glob, ...],
        Meta(description="Access logs of web servers, in the common or combined format."),
    ] = (
        "/var/log/nginx/*access*.log",
        "/var/log/apache2/*access*.log",
        "/var/log/httpd/*access_log",
        "/var/log/lighttpd/access.log",
    )
    web_error: Annotated[tuple[Glob, ...], Meta(description="Their error logs.")] = (
        "/var/log/nginx/*error*.log",
        "/var/log/apache2/*error*.log",
        "/var/log/httpd/*error_log",
        "/var/log/lighttpd/error.log",
    )
    clamav: Annotated[tuple[Glob, ...], Meta(description="ClamAV's logs.")] = (
        "/var/log/clamav/*.log",
    )
    ftp: Annotated[tuple[Glob, ...], Meta(description="vsftpd's log.")] = ("/var/log/vsftpd.log",)
    guacamole: Annotated[tuple[Glob, ...], Meta(description="Guacamole's logs.")] = (
        "/var/log/guacamole/*.log",
    )
    more: Annotated[
        dict[SourceName, tuple[Glob, ...]],
        Meta(description="Other files, by the value that the label 'source' gets."),
    ] = {}


class FalcoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What 'sib-agent setup' writes into Falco's configuration."""

    enabled: Annotated[
        bool,
        Meta(description="False where another Falco appends to events.file, or none is wanted."),
    ] = True
    config: Annotated[Path, Meta(description="Where Falco's configuration is written.")] = Path(
        "/etc/sib/falco.yaml"
    )
    home: Annotated[Path, Meta(description="Where the package sib-falco is.")] = Path(
        "/usr/lib/sib-falco"
    )
    stock_rules: Annotated[
        bool,
        Meta(
            description="Load the rules of the package sib-falco before the bundle. A bundle may"
            " bring the Falco project's rules, too: that is the server's detection.falco_rules."
        ),
    ] = True
    bundles: Annotated[
        Path, Meta(description="Where the agent keeps rule bundles; 'current' is in force.")
    ] = Path("/var/lib/sib-agent/bundles")
    more_rules: Annotated[
        tuple[Glob, ...],
        Meta(
            description="Rule files or folders of this host, loaded last. They can change lists and"
            " rules of the bundle, and none of SIB's macros."
        ),
    ] = ()
    priority: Annotated[
        Literal[
            "emergency", "alert", "critical", "error", "warning", "notice", "informational", "debug"
        ],
        Meta(description="The least severe rules that are loaded."),
    ] = "debug"
    more_fields: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_.]*(\[[^\]\n]*\])?$")], ...],
        Meta(description="Falco fields that every event of a system call shall carry, too."),
    ] = ()
    buffer_preset: Annotated[
        int,
        Meta(ge=1, le=10, description="Size of the kernel's buffers: 4 is 8 MiB each, 5 16, ..."),
    ] = 4
    queue_capacity: Annotated[
        int,
        Meta(ge=100, description="Alerts that may wait inside Falco; what is over is dropped."),
    ] = 10_000
    metrics_port: Annotated[Port, Meta(description="Falco's metrics, on loopback.")] = 8765


class AlloySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What 'sib-agent setup' writes into Alloy's configuration."""

    enabled: Annotated[bool, Meta(description="False where no logs and metrics are wanted.")] = True
    config: Annotated[Path, Meta(description="Where Alloy's configuration is written.")] = Path(
        "/etc/sib/config.alloy"
    )
    home: Annotated[Path, Meta(description="Where the package sib-alloy is.")] = Path(
        "/usr/lib/sib-alloy"
    )
    server: Annotated[
        ServerAddress | None,
        Meta(description="Where logs and metrics go. Null: the identity's first server."),
    ] = None
    listen: Annotated[
        str,
        Meta(
            pattern=r"^127\.[0-9.]+:[0-9]+$",
            description="Alloy's own page and metrics; the unit sib-alloy says the same.",
        ),
    ] = "127.0.0.1:12345"
    metrics: Annotated[bool, Meta(description="Ship the host's metrics.")] = True
    scrape_seconds: Annotated[
        int, Meta(ge=5, le=3600, description="How often metrics are taken.")
    ] = 60
    collectors: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[a-z0-9_]+$")], ...],
        Meta(description="The unix exporter's collectors."),
    ] = (
        "cpu",
        "diskstats",
        "filefd",
        "filesystem",
        "loadavg",
        "meminfo",
        "netdev",
        "netstat",
        "os",
        "pressure",
        "sockstat",
        "stat",
        "time",
        "timex",
        "uname",
        "vmstat",
    )


class BundleSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How bundles of rules are taken from the server; where they are is falco.bundles."""

    state: Annotated[
        Path,
        Meta(description="What is remembered of them; on the same file system as falco.bundles."),
    ] = Path("/var/lib/sib-agent/bundle-state")
    comeback_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="How long Falco may take to load a new bundle.")
    ] = 120.0
    probation_seconds: Annotated[
        float,
        Meta(
            ge=0, le=86400, description="How long it then has to stay well for the bundle to stay."
        ),
    ] = 60.0
    storm_events_per_second: Annotated[
        float,
        Meta(gt=0, description="A bundle on trial whose rules fire so often is taken back."),
    ] = 1000.0


class AgentSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that /etc/sib/agent.yaml may say."""

    identity: IdentitySettings = IdentitySettings()
    events: EventsSettings = EventsSettings()
    spool: SpoolSettings = SpoolSettings()
    uplink: UplinkSettings = UplinkSettings()
    metrics: MetricsSettings = MetricsSettings()
    status: StatusSettings = StatusSettings()
    log: LogSettings = LogSettings()
    logs: LogsSettings = LogsSettings()
    falco: FalcoSettings = FalcoSettings()
    bundles: BundleSettings = BundleSettings()
    alloy: AlloySettings = AlloySettings()
