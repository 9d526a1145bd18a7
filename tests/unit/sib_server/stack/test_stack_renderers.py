from __future__ import annotations

import configparser
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from sib_protocol.generated import is_untouched
from sib_protocol.settings import parse_settings
from sib_server.settings import ServerSettings
from sib_server.stack.access import StoreAccess
from sib_server.stack.generated import Given, Wanted, wanted_files
from sib_server.stack.grafana import Source, certificate_names, data_sources
from sib_server.stack.grafana_tls import is_good, make_certificate
from sib_server.stack.layout import Component, Layout
from sib_server.stack.outputs import NO_OUTPUTS, Outputs, read_outputs
from sib_server.stack.settings import StackSettings, Use
from sib_server.stack.wiring import StackSettingsError, derived_settings, resolve_uses

MAIN = Path("/etc/sib/server.yaml")
ALL = dict.fromkeys(Component, Use.LOCAL)
NONE = dict.fromkeys(Component, Use.OFF)

# Sections and keys of Grafana's own documentation of its configuration, version 13.
GRAFANA_KEYS = {
    "paths": {"data", "logs", "plugins", "provisioning"},
    "server": {
        *("protocol", "http_addr", "http_port", "domain", "root_url", "enable_gzip"),
        *("cert_file", "cert_key", "certs_watch_interval", "min_tls_version"),
    },
    "database": {"type", "wal"},
    "security": {
        *("admin_user", "admin_password", "secret_key", "disable_gravatar", "cookie_secure"),
        *("cookie_samesite", "allow_embedding", "content_security_policy"),
        "strict_transport_security",
    },
    "users": {"allow_sign_up", "allow_org_create"},
    "auth.anonymous": {"enabled"},
    "analytics": {
        *("enabled", "reporting_enabled", "check_for_updates", "check_for_plugin_updates"),
        "feedback_links_enabled",
    },
    "plugins": {
        *("plugin_admin_enabled", "preinstall_disabled", "preinstall_auto_update"),
        "public_key_retrieval_disabled",
    },
    "news": {"news_feed_enabled"},
    "snapshots": {"enabled", "external_enabled"},
    "public_dashboards": {"enabled"},
    "cloud_migration": {"enabled"},
    "metrics": {"enabled"},
    "log": {"mode", "level"},
    "dashboards": {"default_home_dashboard_path"},
}


def settings(text: str = "") -> ServerSettings:
    return parse_settings(text, ServerSettings, MAIN)


def files(
    text: str = "",
    uses: dict[Component, Use] | None = None,
    outputs: Outputs = NO_OUTPUTS,
    home: str | None = None,
) -> dict[str, Wanted]:
    given = Given(ALL if uses is None else uses, outputs, ("sib.example", "10.0.0.1"), True, home)
    return {
        file.path.name if file.path.parent.name != "dashboards" else "dashboards.yaml": file
        for file in wanted_files(settings(text), Layout(), MAIN, given)
    }


def tree(file: Wanted) -> Any:
    assert file.content is not None
    assert is_untouched(file.content)
    return yaml.safe_load(file.content)


def ini(file: Wanted) -> configparser.ConfigParser:
    assert file.content is not None
    assert is_untouched(file.content)
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.read_string(file.content.decode())
    return parser


def test_loki_is_alone_with_this_machine_and_takes_what_a_fleet_sends() -> None:
    loki = tree(files("stack: {loki: {retention_days: 30, late_days: 9, port: 3200}}")["loki.yaml"])
    assert loki["analytics"] == {"reporting_enabled": False}
    assert loki["server"]["http_listen_address"] == "127.0.0.1"
    assert loki["server"]["grpc_listen_address"] == "127.0.0.1"
    assert loki["server"]["http_listen_port"] == 3200
    limits = loki["limits_config"]
    assert limits["retention_period"] == "720h"
    assert limits["reject_old_samples_max_age"] == "216h"
    assert limits["allow_structured_metadata"] is True
    assert loki["compactor"]["retention_enabled"] is True
    assert loki["compactor"]["delete_request_store"] == "filesystem"
    assert loki["ingester"]["query_store_max_look_back_period"] == "240h"
    assert loki["storage_config"]["use_thanos_objstore"] is False
    assert loki["ruler"]["storage"]["local"]["directory"] == "/run/sib-loki/rules"
    assert "alertmanager_url" not in loki["ruler"]


def test_alerts_go_where_they_can_be_seen() -> None:
    text = "stack: {loki: {alertmanager_url: 'http://am:9093'}}"
    ruler = tree(files(text)["loki.yaml"])["ruler"]
    assert ruler["alertmanager_url"] == "http://am:9093"
    (client,) = ruler["remote_write"]["clients"].values()
    assert client["url"] == "http://127.0.0.1:9090/api/v1/write"
    alone = tree(files("", {**NONE, Component.LOKI: Use.LOCAL})["loki.yaml"])
    assert "remote_write" not in alone["ruler"]


def test_prometheus_asks_what_is_there() -> None:
    made = files("stack: {prometheus: {retention_days: 5, retention_bytes: 1073741824}}")
    jobs = {
        scrape["job_name"]: scrape["static_configs"][0]["targets"]
        for scrape in tree(made["prometheus.yaml"])["scrape_configs"]
    }
    assert jobs == {
        "sib-prometheus": ["127.0.0.1:9090"],
        "sib-server": ["127.0.0.1:9465"],
        "sib-loki": ["127.0.0.1:3100"],
        "sib-falcosidekick": ["127.0.0.1:2801"],
        "sib-grafana": ["127.0.0.1:3000"],
    }
    flags = made["prometheus.env"].content
    assert flags is not None
    lines = [line for line in flags.decode().splitlines() if not line.startswith("#")]
    assert lines == [
        "SIB_PROMETHEUS_LISTEN=127.0.0.1:9090",
        "SIB_PROMETHEUS_RETENTION_TIME=5d",
        "SIB_PROMETHEUS_RETENTION_SIZE=1073741824B",
    ]
    names = list(files())
    assert names.index("prometheus.env") < names.index("prometheus.yaml"), "the condition is last"
    alone = files("metrics: {port: null}", {**NONE, Component.PROMETHEUS: Use.LOCAL})
    assert len(tree(alone["prometheus.yaml"])["scrape_configs"]) == 1
    six = files("metrics: {address: '::1'}\nstack: {grafana: {address: '::1'}}")
    targets = str(tree(six["prometheus.yaml"])["scrape_configs"])
    assert "[::1]:9465" in targets
    assert "[::1]:3000" in targets


@pytest.mark.parametrize("opened", [False, True])
def test_grafana_says_nothing_to_anybody_outside(opened: bool) -> None:
    text = "stack: {grafana: {address: '::'}}" if opened else ""
    made = files(text, home="/usr/share/sib-server/dashboards/overview.json")
    parsed = ini(made["grafana.ini"])
    for section in parsed.sections():
        assert set(parsed[section]) <= GRAFANA_KEYS[section]
    assert parsed["analytics"]["reporting_enabled"] == "false"
    assert parsed["analytics"]["check_for_updates"] == "false"
    assert parsed["plugins"]["preinstall_disabled"] == "true"
    assert parsed["auth.anonymous"]["enabled"] == "false"
    assert parsed["security"]["disable_gravatar"] == "true"
    server = parsed["server"]
    if opened:
        assert (server["protocol"], server["http_addr"]) == ("https", "::")
        assert server["cert_file"] == server["cert_key"] == "/etc/sib/grafana/tls.pem"
        assert server["root_url"] == "https://sib.example:3000/"
        assert parsed["metrics"]["enabled"] == "false"
        assert "grafana" not in str(tree(made["prometheus.yaml"]))
    else:
        assert (server["protocol"], server["http_addr"]) == ("http", "127.0.0.1")
        assert parsed["metrics"]["enabled"] == "true"
    assert parsed["security"]["cookie_secure"] == str(opened).lower()


def test_grafanas_secrets_are_named_and_never_told() -> None:
    parsed = ini(files()["grafana.ini"])
    credentials = "/run/credentials/sib-grafana.service"
    assert (
        parsed["security"]["admin_password"] == f"$__file{{{credentials}/grafana-admin-password}}"
    )
    assert parsed["security"]["secret_key"] == f"$__file{{{credentials}/grafana-secret-key}}"
    unit = (Path(__file__).resolve().parents[4] / "systemd/sib-grafana.service").read_text()
    for name in ("grafana-admin-password", "grafana-secret-key"):
        assert f"LoadCredential={name}:{Layout().secrets / name}\n" in unit


def test_units_and_configuration_speak_of_the_same_places() -> None:
    units = Path(__file__).resolve().parents[4] / "systemd"
    layout = Layout()
    for component, config in (
        (Component.LOKI, layout.loki),
        (Component.PROMETHEUS, layout.prometheus),
        (Component.GRAFANA, layout.grafana),
        (Component.FALCOSIDEKICK, layout.falcosidekick),
    ):
        unit = (units / component.unit).read_text()
        assert f"ConditionPathExists={config}\n" in unit
        assert f"{config}" in unit.partition("ExecStart=")[2]
        assert f"ExecStart={layout.program(component)} " in unit
        assert f"User={component.package}\n" in unit
        assert "sib-server-setup.service" in unit.partition("After=")[2].partition("\n")[0]
    assert f":{layout.ruler}/fake\n" in (units / "sib-loki.service").read_text()
    assert (
        f"EnvironmentFile={layout.prometheus_flags}\n"
        in (units / "sib-prometheus.service").read_text()
    )
    setup = (units / "sib-server-setup.service").read_text()
    assert f"StateDirectory={layout.applied.parent.name}\n" in setup


def test_data_sources_for_stores_elsewhere_carry_files_not_secrets() -> None:
    access = StoreAccess(
        ca_file=Path("/ca"),
        username="u$er",
        password_file=Path("/p"),
        certificate_file=Path("/c"),
        key_file=Path("/k"),
    )
    loki = Source("https://loki", access, "t1")
    metrics = Source("https://mimir", StoreAccess(token_file=Path("/t")))
    prometheus, events = data_sources(loki, metrics)["datasources"]
    assert (prometheus["uid"], events["uid"]) == ("sib-prometheus", "sib-loki")
    assert events["basicAuthUser"] == "u$$er"
    assert events["secureJsonData"] == {
        "tlsCACert": "$__file{/ca}",
        "tlsClientCert": "$__file{/c}",
        "tlsClientKey": "$__file{/k}",
        "basicAuthPassword": "$__file{/p}",
        "httpHeaderValue1": "t1",
    }
    assert prometheus["secureJsonData"] == {"httpHeaderValue1": "Bearer $__file{/t}"}
    assert "secureJsonData" not in data_sources(None, Source("http://x", StoreAccess()))
    gone = data_sources(None, None)
    assert gone["datasources"] == []
    assert [item["name"] for item in gone["deleteDatasources"]] == ["Metrics", "Events and logs"]


def test_what_is_not_used_has_no_file() -> None:
    made = files("", NONE)
    assert {name for name, file in made.items() if file.content is not None} == {"stack.yaml"}
    assert tree(made["stack.yaml"]) == {}


def derived(text: str, uses: dict[Component, Use], outputs: Outputs = NO_OUTPUTS) -> ServerSettings:
    found = derived_settings(settings(text).stack, uses, outputs)
    # As it is written and read again.
    return parse_settings(yaml.safe_dump(found), ServerSettings, Path("stack.yaml"))


def test_local_stores_get_sinks_and_push_routes() -> None:
    made = derived("stack: {loki: {port: 1234}}", ALL)
    assert made.sinks.loki.enabled
    assert made.sinks.loki.url == made.push.loki_url == "http://127.0.0.1:1234"
    assert made.push.metrics_url == "http://127.0.0.1:9090/api/v1/write"
    assert made.sinks.falcosidekick.enabled
    # No output: nothing to wait for, and nothing is held back for one that comes later.
    assert made.sinks.falcosidekick.settle_quiet_seconds < 0.1
    assert derived("", NONE) == ServerSettings()


def test_known_outputs_are_counted_on_and_broken_ones_waited_for() -> None:
    good = read_outputs(b"webhook: {address: 'http://x', minimumpriority: error}", Path("o"))
    (item,) = derived("", ALL, good).sinks.falcosidekick.outputs.items()
    assert (item[0], item[1].minimum_priority) == ("webhook", "error")
    broken = derived("", ALL, read_outputs(b"[", Path("o"))).sinks.falcosidekick
    assert (broken.outputs, broken.settle_quiet_seconds) == ({}, 1.0)


def test_external_stores_get_trust_and_credentials() -> None:
    text = """
stack:
  loki:
    use: external
    url: https://loki.example/
    tenant: sib
    access: {ca_file: /etc/sib/ca.pem, token_file: /etc/sib/token}
  prometheus: {use: external, url: "https://mimir.example/prometheus",
    write_url: "https://mimir.example/api/v1/push", tenant: m}
  falcosidekick: {use: external, url: "https://fs.example",
    access: {username: a, password_file: /p}}
"""
    uses = resolve_uses(settings(text).stack, frozenset())
    assert uses == {
        Component.LOKI: Use.EXTERNAL,
        Component.PROMETHEUS: Use.EXTERNAL,
        Component.GRAFANA: Use.OFF,
        Component.FALCOSIDEKICK: Use.EXTERNAL,
    }
    made = derived(text, uses)
    assert (made.sinks.loki.url, made.sinks.loki.tenant) == ("https://loki.example", "sib")
    assert made.sinks.loki.access == made.push.loki_access
    assert made.sinks.loki.access.ca_file == Path("/etc/sib/ca.pem")
    assert made.push.metrics_url == "https://mimir.example/api/v1/push"
    assert made.push.metrics_tenant == "m"
    assert made.sinks.falcosidekick.access.username == "a"
    plain = "stack: {prometheus: {use: external, url: 'https://p'}}"
    assert derived(plain, {**NONE, Component.PROMETHEUS: Use.EXTERNAL}).push.metrics_url == (
        "https://p/api/v1/write"
    )


def test_auto_is_what_is_installed_and_what_cannot_be_is_an_error() -> None:
    stack = StackSettings()
    assert resolve_uses(stack, {Component.LOKI})[Component.LOKI] is Use.LOCAL
    assert resolve_uses(stack, ())[Component.LOKI] is Use.OFF
    off = msgspec.structs.replace(stack, loki=msgspec.structs.replace(stack.loki, use=Use.OFF))
    assert resolve_uses(off, {Component.LOKI})[Component.LOKI] is Use.OFF
    for text, said in (
        ("stack: {loki: {use: local}}", "install sib-loki"),
        ("stack: {prometheus: {use: external}}", "say where it is"),
    ):
        with pytest.raises(StackSettingsError) as caught:
            resolve_uses(settings(text).stack, ())
        assert said in (caught.value.remedy or "")
    external = settings("stack: {grafana: {use: external}}").stack
    assert resolve_uses(external, ())[Component.GRAFANA] is Use.EXTERNAL


def test_grafanas_certificate_is_its_own_and_made_anew_in_time() -> None:
    from datetime import datetime, timedelta, timezone  # noqa: PLC0415

    names = certificate_names(StackSettings().grafana, ("sib.example", "10.0.0.1", "localhost"))
    assert names == ("sib.example", "10.0.0.1", "localhost", "127.0.0.1")
    now = datetime.now(timezone.utc)
    made = make_certificate(names, now=now)
    assert is_good(made, names, now=now)
    assert is_good(made, reversed(names), now=now + timedelta(days=200))  # type: ignore[arg-type]
    assert not is_good(made, names, now=now + timedelta(days=300))
    assert not is_good(made, ("other.example",), now=now)
    assert not is_good(b"nonsense", names)
    other = make_certificate(names, now=now)
    mixed = made[: made.index(b"-----BEGIN CERT")] + other[other.index(b"-----BEGIN CERT") :]
    assert not is_good(mixed, names, now=now), "the key is another's"
