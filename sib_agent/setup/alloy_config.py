"""Alloy's configuration, from the settings and the identity. Pure.

What it ships carries the label ``source`` with the values that the server's Sigma streams look for
(a test holds the two together); ``host`` is set by the server, from the certificate. Everything
else that is known of a line is structured metadata, so that a host has a dozen streams and not
thousands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sib_agent.setup.alloy_language import Block, Reference, render
from sib_agent.setup.units import ALLOY_UNIT
from sib_protocol.identity import CA_FILE, CERTIFICATE_FILE, CURRENT, KEY_FILE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sib_agent.settings import AgentSettings, AlloySettings, LogsSettings

LOGS_PATH: Final = "/loki/api/v1/push"
METRICS_PATH: Final = "/api/v1/write"

JOURNAL: Final = "journal"
AUTH: Final = "auth"
CRON: Final = "cron"
SYSLOG: Final = "syslog"

EVENT_SOURCES: Final = frozenset({"syscall", "sib"})
"""Values of ``source`` that are the events' own: the server would rename a stream of that name."""

_SYSLOG_LINE: Final = (
    r"^(?P<time>[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) \S+ "
    r"(?P<identifier>[^\s:\[]+)(?:\[\d+\])?: ?(?P<message>.*)$"
)
# Loki refuses longer lines, and with them the push.
_LONGEST_LINE: Final = "240KiB"
# At a minute each: a week. A push is given up only when Loki would find it too old.
_RETRIES: Final = 10_080
# What Alloy says of itself at great length, and what it cannot know behind ProtectSystem=strict.
_DROPPED: Final = "(go|promhttp|python_gc|net_conntrack)_.*|.*_bucket|node_filesystem_readonly"


def file_sources(logs: LogsSettings) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Each value of ``source`` with the patterns of its files, whose lines are taken whole."""
    own = (
        ("web", logs.web),
        ("web-error", logs.web_error),
        ("clamav", logs.clamav),
        ("ftp", logs.ftp),
        ("guacamole", logs.guacamole),
    )
    more = ((name, files) for name, files in logs.more.items() if name not in EVENT_SOURCES)
    return tuple((name, files) for name, files in (*own, *more) if files)


def syslog_sources(logs: LogsSettings) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Likewise the files whose lines are syslog's, read where there is no journald."""
    all_ = ((AUTH, logs.auth), (CRON, logs.cron), (SYSLOG, logs.syslog))
    return tuple((name, files) for name, files in all_ if files)


def render_alloy(settings: AgentSettings, server: str, *, journald: bool) -> str:
    """``config.alloy``.

    Args:
        settings: the agent's.
        server: ``https://host:port``.
        journald: whether the host has it.
    """
    logs, alloy = settings.logs, settings.alloy
    journal = journald if logs.journal is None else logs.journal
    blocks = [Block("logging", attributes={"level": "warn", "format": "logfmt"})]
    if journal:
        blocks += _journal(logs)
    else:
        blocks += _files("syslog", syslog_sources(logs), _syslog_stages())
    blocks += _files("files", file_sources(logs), _plain_stages())
    blocks += _bounded()
    tls = _tls(settings.identity.directory)
    blocks.append(_loki_write(server, tls))
    if alloy.metrics:
        blocks += _metrics(settings)
        blocks.append(_remote_write(server, tls))
    return render(blocks)


def _to(name: str) -> list[Reference]:
    return [Reference(f"{name}.receiver")]


def _relabel(source: str, target: str, regex: str = "(.+)", replacement: str = "$1") -> Block:
    return Block(
        "rule",
        attributes={
            "source_labels": [source],
            "regex": regex,
            "target_label": target,
            "replacement": replacement,
        },
    )


def _journal(logs: LogsSettings) -> list[Block]:
    facility = "__journal_syslog_facility"
    return [
        Block(
            "loki.relabel",
            "journal",
            {"forward_to": []},
            (
                # What it says about a push that failed would be the next push that fails.
                Block(
                    "rule",
                    attributes={
                        "source_labels": ["__journal__systemd_unit"],
                        "regex": ALLOY_UNIT,
                        "action": "drop",
                    },
                ),
                # Facilities 4 and 10 are auth and authpriv, 9 is cron.
                _relabel(facility, "source", "4|10", AUTH),
                _relabel(facility, "source", "9", CRON),
                _relabel("__journal__comm", "identifier"),
                _relabel("__journal_syslog_identifier", "identifier"),
                _relabel("__journal__systemd_unit", "unit"),
                _relabel("__journal_priority_keyword", "level"),
            ),
        ),
        Block(
            "loki.source.journal",
            "journal",
            {
                "max_age": f"{logs.journal_hours}h",
                "labels": {"source": JOURNAL},
                "relabel_rules": Reference("loki.relabel.journal.rules"),
                "forward_to": _to("loki.process.journal"),
            },
        ),
        Block(
            "loki.process",
            "journal",
            {"forward_to": _to("loki.process.bounded")},
            (_metadata("identifier", "unit", "level"),),
        ),
    ]


def _metadata(*names: str) -> Block:
    return Block("stage.structured_metadata", attributes={"values": dict.fromkeys(names, "")})


def _plain_stages() -> tuple[Block, ...]:
    return (_metadata("filename"),)


def _syslog_stages() -> tuple[Block, ...]:
    return (
        Block("stage.regex", attributes={"expression": _SYSLOG_LINE}),
        Block(
            "stage.timestamp",
            attributes={
                "source": "time",
                "format": "RFC3339Nano",
                "fallback_formats": ["Jan _2 15:04:05"],
                "location": "Local",
                "action_on_failure": "skip",
            },
        ),
        _metadata("identifier", "filename"),
        Block("stage.output", attributes={"source": "message"}),
    )


def _files(
    name: str, sources: Iterable[tuple[str, tuple[str, ...]]], stages: tuple[Block, ...]
) -> list[Block]:
    targets = [
        {"__path__": pattern, "source": source}
        for source, patterns in sources
        for pattern in patterns
    ]
    if not targets:
        return []
    return [
        Block("local.file_match", name, {"path_targets": targets}),
        Block(
            "loki.source.file",
            name,
            {
                "targets": Reference(f"local.file_match.{name}.targets"),
                "tail_from_end": True,
                "forward_to": _to(f"loki.process.{name}"),
            },
        ),
        Block("loki.process", name, {"forward_to": _to("loki.process.bounded")}, stages),
    ]


def _bounded() -> list[Block]:
    rule = Block("rule", attributes={"limit": _LONGEST_LINE, "suffix": " [cut by sib]"})
    return [
        Block(
            "loki.process",
            "bounded",
            {"forward_to": _to("loki.write.server")},
            (
                Block("stage.truncate", blocks=(rule,)),
                Block("stage.label_keep", attributes={"values": ["source"]}),
            ),
        )
    ]


def _tls(identity: Path) -> Block:
    # By the symlink: a renewed certificate is read from there when the next connection is made.
    current = identity / CURRENT
    return Block(
        "tls_config",
        attributes={
            "ca_file": str(current / CA_FILE),
            "cert_file": str(current / CERTIFICATE_FILE),
            "key_file": str(current / KEY_FILE),
            "min_version": "TLS13",
        },
    )


def _loki_write(server: str, tls: Block) -> Block:
    endpoint = Block(
        "endpoint",
        attributes={
            "url": server + LOGS_PATH,
            "batch_wait": "2s",
            "batch_size": "1MiB",
            "remote_timeout": "40s",
            "min_backoff_period": "1s",
            "max_backoff_period": "1m",
            "max_backoff_retries": _RETRIES,
            "follow_redirects": False,
            "enable_http2": False,
        },
        blocks=(tls,),
    )
    return Block("loki.write", "server", blocks=(endpoint,))


def _job(name: str, targets: str) -> Block:
    rule = Block("rule", attributes={"target_label": "job", "replacement": name})
    return Block("discovery.relabel", name, {"targets": Reference(targets)}, (rule,))


def _metrics(settings: AgentSettings) -> list[Block]:
    alloy = settings.alloy
    return [
        Block("prometheus.exporter.unix", "host", {"set_collectors": list(alloy.collectors)}),
        _job("host", "prometheus.exporter.unix.host.targets"),
        _scrape("host", Reference("discovery.relabel.host.output"), alloy),
        _scrape("parts", _parts(settings), alloy),
    ]


def _parts(settings: AgentSettings) -> list[dict[str, str]]:
    metrics = settings.metrics
    address = f"[{metrics.address}]" if ":" in metrics.address else metrics.address
    parts = [("alloy", settings.alloy.listen)]
    if metrics.port is not None:
        parts.append(("sib-agent", f"{address}:{metrics.port}"))
    if settings.falco.enabled:
        parts.append(("falco", f"127.0.0.1:{settings.falco.metrics_port}"))
    return [{"__address__": place, "job": job} for job, place in parts]


def _scrape(name: str, targets: Reference | list[dict[str, str]], alloy: AlloySettings) -> Block:
    return Block(
        "prometheus.scrape",
        name,
        {
            "targets": targets,
            "scrape_interval": f"{alloy.scrape_seconds}s",
            "scrape_timeout": f"{min(alloy.scrape_seconds, 10)}s",
            "forward_to": _to("prometheus.remote_write.server"),
        },
    )


def _remote_write(server: str, tls: Block) -> Block:
    queue = Block(
        "queue_config",
        attributes={
            "capacity": 4000,
            "max_shards": 2,
            "max_samples_per_send": 2000,
            "min_backoff": "1s",
            "max_backoff": "1m",
        },
    )
    dropped = Block(
        "write_relabel_config",
        attributes={"source_labels": ["__name__"], "regex": _DROPPED, "action": "drop"},
    )
    endpoint = Block(
        "endpoint",
        attributes={
            "url": server + METRICS_PATH,
            "remote_timeout": "40s",
            "send_exemplars": False,
            "follow_redirects": False,
            "enable_http2": False,
        },
        blocks=(
            tls,
            queue,
            # The server cannot say which host a metric's description is from.
            Block("metadata_config", attributes={"send": False}),
            dropped,
        ),
    )
    wal = Block(
        "wal",
        attributes={
            "truncate_frequency": "30m",
            "min_keepalive_time": "5m",
            "max_keepalive_time": "4h",
        },
    )
    return Block("prometheus.remote_write", "server", blocks=(endpoint, wal))
