"""The log streams that SIB's hosts ship, and which of them a Sigma log source is.

This module is the one place that names them: Alloy's configuration labels what it ships with these
values of ``source``, and Sigma's LogQL looks there. Every stream has the labels ``source`` and
``host``; lines of :data:`SYSLOG_STREAMS` also have the structured metadata ``identifier``, the
program that wrote the line (journald's ``SYSLOG_IDENTIFIER``, or the tag of a syslog line), because
the line itself is the message alone.

============= ============================================================================
``journal``   journald, but for what the next two hold
``auth``      the facilities auth and authpriv: sshd, sudo, su, login, useradd, ... from
              journald, or ``/var/log/auth.log`` and ``/var/log/secure``
``cron``      the facility cron from journald, or ``/var/log/cron``
``syslog``    ``/var/log/syslog`` and ``/var/log/messages`` where there is no journald
``web``       access logs of web servers in the common or combined log format
``web-error`` their error logs
``clamav``    ClamAV's logs
``ftp``       vsftpd's log
``guacamole`` Guacamole's log
``syscall``   Falco's events, put there by SIB's server and not by Alloy
============= ============================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

JOURNAL: Final = "journal"
AUTH: Final = "auth"
CRON: Final = "cron"
SYSLOG: Final = "syslog"
WEB: Final = "web"
WEB_ERROR: Final = "web-error"
CLAMAV: Final = "clamav"
FTP: Final = "ftp"
GUACAMOLE: Final = "guacamole"
FALCO: Final = "syscall"

SYSLOG_STREAMS: Final = (JOURNAL, AUTH, CRON, SYSLOG)
LINE_STREAMS: Final = (*SYSLOG_STREAMS, WEB, WEB_ERROR, CLAMAV, FTP, GUACAMOLE)
"""What a rule for Linux as a whole looks into: every stream but SIB's own events."""

_ACCESS_LINE: Final = (
    r'^(?P<c_ip>\S+) \S+ (?P<cs_username>\S+) \[[^\]]*\] "(?P<cs_method>[A-Za-z]+) '
    r'(?P<c_uri>(?P<cs_uri_stem>[^ ?"]*)(?:\?(?P<cs_uri_query>[^ "]*))?)'
    r'(?: (?P<cs_version>[^"]*))?" '
    r"(?P<sc_status>\d+) (?P<sc_bytes>\d+|-)"
    r'(?: "(?P<cs_referer>[^"]*)" "(?P<cs_user_agent>[^"]*)")?'
)
_STOPPED: Final = (
    r"^(?P<service_unit>\S+)\.service: (?:Deactivated successfully|Succeeded|Failed with result)"
)
_STARTED: Final = r"^Started (?P<service_unit>\S+)\.service"


@dataclass(frozen=True, slots=True)
class Stream:
    """Where the lines of a Sigma log source are.

    Attributes:
        sources: values of the label ``source``.
        identifier: RE2 for the program's name, or ``None`` for all programs.
        parser: a LogQL parser that gives :attr:`fields`; ``None`` where a line is text alone.
        fields: Sigma's field name -> label.
    """

    sources: tuple[str, ...]
    identifier: str | None = None
    parser: str | None = None
    fields: tuple[tuple[str, str], ...] = ()

    @property
    def selector(self) -> str:
        """The head of a LogQL query."""
        if len(self.sources) == 1:
            head = f'{{source="{self.sources[0]}"}}'
        else:
            head = f'{{source=~"{"|".join(self.sources)}"}}'
        return head if self.identifier is None else f"{head} | identifier=~`{self.identifier}`"


_WEB_FIELDS: Final = tuple(
    (name, name.replace("-", "_"))
    for name in (
        *("c-ip", "cs-username", "cs-method", "c-uri", "cs-uri-stem", "cs-uri-query"),
        *("cs-version", "sc-status", "sc-bytes", "cs-referer", "cs-user-agent"),
    )
)
_UNIT: Final = (("unit", "service_unit"),)
SERVICE_RECORDS: Final = {
    "SERVICE_STOP": Stream((JOURNAL,), "systemd", f"regexp `{_STOPPED}` | service_unit!=``", _UNIT),
    "SERVICE_START": Stream(
        (JOURNAL,), "systemd", f"regexp `{_STARTED}` | service_unit!=``", _UNIT
    ),
}
"""Audit records that systemd writes where there is an auditd, and what it logs in any case."""

_SERVICES: Final = {
    "sshd": Stream((AUTH, JOURNAL, SYSLOG), "(?i)sshd.*"),
    "sudo": Stream((AUTH, JOURNAL, SYSLOG), "(?i)sudo"),
    "auth": Stream((AUTH, JOURNAL, SYSLOG)),
    "cron": Stream((CRON, JOURNAL, SYSLOG), "(?i)(cron|crond|crontab|anacron|fcron.*)"),
    "syslog": Stream(SYSLOG_STREAMS),
    "clamav": Stream((CLAMAV, JOURNAL, SYSLOG)),
    "vsftpd": Stream((FTP, JOURNAL, SYSLOG, AUTH)),
    "guacamole": Stream((GUACAMOLE, JOURNAL, SYSLOG)),
}
_WEB_SERVICES: Final = {"apache", "nginx", "httpd", "lighttpd"}
_WEB: Final = Stream((WEB,), None, f"regexp `{_ACCESS_LINE}` | cs_method!=``", _WEB_FIELDS)
_EVERYTHING: Final = Stream(LINE_STREAMS)


def stream_of(product: str | None, category: str | None, service: str | None) -> Stream | None:
    """The streams of a Sigma log source; ``None`` where SIB has none."""
    if category == "webserver":
        return _WEB
    if service in _WEB_SERVICES:
        return Stream((WEB, WEB_ERROR))
    if product not in {"linux", None} or category is not None:
        return None
    if service is None:
        return _EVERYTHING if product == "linux" else None
    return _SERVICES.get(service)
