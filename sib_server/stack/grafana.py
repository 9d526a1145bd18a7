"""The local Grafana's configuration and provisioning, made of settings. Pure.

Its secrets are in files that systemd hands it as credentials, so they are neither in here nor on a
command line nor in an environment.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from sib_server.stack.layout import Component, Layout

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sib_server.stack.access import StoreAccess
    from sib_server.stack.settings import GrafanaStackSettings

ADMIN_PASSWORD: Final = "grafana-admin-password"  # noqa: S105  (a file's name)
SECRET_KEY: Final = "grafana-secret-key"  # noqa: S105  (a file's name)
LOKI_UID: Final = "sib-loki"
PROMETHEUS_UID: Final = "sib-prometheus"
FOLDER: Final = "SIB"
FOLDER_UID: Final = "sib"


@dataclass(frozen=True, slots=True)
class Source:
    """A store that Grafana asks.

    Attributes:
        url: without the API's path.
        access: whom to trust, and as whom to ask.
        tenant: sent as X-Scope-OrgID, or ``None``.
    """

    url: str
    access: StoreAccess
    tenant: str | None = None


def is_open(settings: GrafanaStackSettings) -> bool:
    """Whether it can be reached from other machines, and so speaks TLS."""
    return not ipaddress.ip_address(settings.address).is_loopback


def own_certificate(settings: GrafanaStackSettings) -> bool:
    """Whether setup makes its certificate."""
    return is_open(settings) and settings.certificate_file is None


def certificate_names(
    settings: GrafanaStackSettings, server_names: Sequence[str]
) -> tuple[str, ...]:
    """DNS names and addresses of its certificate, the first for links."""
    return tuple(dict.fromkeys((*(settings.names or server_names), "localhost", "127.0.0.1")))


def grafana_url(settings: GrafanaStackSettings, names: Sequence[str]) -> str:
    """Where people find the local Grafana."""
    if not is_open(settings):
        host = f"[{settings.address}]" if ":" in settings.address else settings.address
        return f"http://{host}:{settings.port}"
    return f"https://{names[0]}:{settings.port}"


def grafana_ini(
    settings: GrafanaStackSettings, layout: Layout, names: Sequence[str], *, home: str | None
) -> str:
    """What grafana.ini says.

    Args:
        settings: the local Grafana's.
        layout: its places.
        names: of its certificate.
        home: the dashboard that it begins with; ``None`` for Grafana's own.
    """
    state = layout.state_of(Component.GRAFANA)
    opened = is_open(settings)
    server: dict[str, object] = {
        "protocol": "https" if opened else "http",
        "http_addr": settings.address,
        "http_port": settings.port,
        "domain": names[0] if opened else "localhost",
        "root_url": f"{grafana_url(settings, names)}/",
        "enable_gzip": True,
    }
    if opened:
        certificate = settings.certificate_file or layout.grafana_tls
        server |= {
            "cert_file": certificate,
            "cert_key": settings.key_file or certificate,
            # A renewed certificate is taken up without a restart.
            "certs_watch_interval": "1m",
            "min_tls_version": "TLS1.3",
        }
    sections: dict[str, dict[str, object]] = {
        "paths": {
            "data": state,
            "logs": state / "log",
            "plugins": state / "plugins",
            "provisioning": layout.grafana_provisioning,
        },
        "server": server,
        "database": {"type": "sqlite3", "wal": True},
        "security": {
            "admin_user": "admin",
            "admin_password": f"$__file{{{layout.credentials / ADMIN_PASSWORD}}}",
            "secret_key": f"$__file{{{layout.credentials / SECRET_KEY}}}",
            "disable_gravatar": True,
            "cookie_secure": opened,
            "cookie_samesite": "strict",
            "allow_embedding": False,
            "content_security_policy": True,
            "strict_transport_security": opened,
        },
        "users": {"allow_sign_up": False, "allow_org_create": False},
        "auth.anonymous": {"enabled": False},
        # All that would ask or tell somebody outside.
        "analytics": {
            "enabled": False,
            "reporting_enabled": False,
            "check_for_updates": False,
            "check_for_plugin_updates": False,
            "feedback_links_enabled": False,
        },
        "plugins": {
            "plugin_admin_enabled": False,
            "preinstall_disabled": True,
            "preinstall_auto_update": False,
            "public_key_retrieval_disabled": True,
        },
        "news": {"news_feed_enabled": False},
        "snapshots": {"enabled": False, "external_enabled": False},
        "public_dashboards": {"enabled": False},
        "cloud_migration": {"enabled": False},
        # They ask nobody for a password.
        "metrics": {"enabled": not opened},
        "log": {"mode": "console", "level": "warn"},
    }
    if home is not None:
        sections["dashboards"] = {"default_home_dashboard_path": home}
    return _ini(sections)


def _ini(sections: Mapping[str, Mapping[str, object]]) -> str:
    lines = []
    for name, values in sections.items():
        lines.append(f"\n[{name}]")
        for key, value in values.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            lines.append(f"{key} = {text}")
    return "\n".join(lines).lstrip("\n") + "\n"


def data_sources(loki: Source | None, metrics: Source | None) -> dict[str, Any]:
    """Provisioning of the stores that there are."""
    found = []
    if metrics is not None:
        found.append(
            _data_source("Metrics", "prometheus", PROMETHEUS_UID, metrics, {"httpMethod": "POST"})
        )
    if loki is not None:
        found.append(_data_source("Events and logs", "loki", LOKI_UID, loki, {"maxLines": 1000}))
    return {
        "apiVersion": 1,
        # One that is not used any more goes.
        "deleteDatasources": [
            {"name": name, "orgId": 1}
            for name, source in (("Metrics", metrics), ("Events and logs", loki))
            if source is None
        ],
        "datasources": found,
    }


def _data_source(
    name: str, kind: str, uid: str, source: Source, options: dict[str, Any]
) -> dict[str, Any]:
    access = source.access
    made: dict[str, Any] = {
        "name": name,
        "uid": uid,
        "type": kind,
        "access": "proxy",
        "orgId": 1,
        "url": source.url,
        "isDefault": kind == "prometheus",
        "editable": False,
        "jsonData": dict(options),
    }
    secret: dict[str, str] = {}
    sent: list[tuple[str, str]] = []
    if access.ca_file is not None:
        made["jsonData"]["tlsAuthWithCACert"] = True
        secret["tlsCACert"] = _content(access.ca_file)
    if access.certificate_file is not None and access.key_file is not None:
        made["jsonData"]["tlsAuth"] = True
        secret["tlsClientCert"] = _content(access.certificate_file)
        secret["tlsClientKey"] = _content(access.key_file)
    if access.username is not None and access.password_file is not None:
        made["basicAuth"] = True
        made["basicAuthUser"] = _literal(access.username)
        secret["basicAuthPassword"] = _content(access.password_file)
    if access.token_file is not None:
        sent.append(("Authorization", f"Bearer {_content(access.token_file)}"))
    if source.tenant is not None:
        sent.append(("X-Scope-OrgID", _literal(source.tenant)))
    for number, (header, value) in enumerate(sent, 1):
        made["jsonData"][f"httpHeaderName{number}"] = header
        secret[f"httpHeaderValue{number}"] = value
    if secret:
        made["secureJsonData"] = secret
    return made


def _literal(text: str) -> str:
    """Where Grafana would look for variables."""
    return text.replace("$", "$$")


def _content(path: object) -> str:
    """Grafana's own way to say: what is in this file."""
    return f"$__file{{{path}}}"


def dashboard_provider(layout: Layout) -> dict[str, Any]:
    """Provisioning of the dashboards that the server's package brings."""
    return {
        "apiVersion": 1,
        "providers": [
            {
                "name": "sib",
                "orgId": 1,
                "folder": FOLDER,
                "folderUid": FOLDER_UID,
                "type": "file",
                "disableDeletion": True,
                "allowUiUpdates": False,
                "updateIntervalSeconds": 60,
                "options": {"path": str(layout.dashboards)},
            }
        ],
    }
