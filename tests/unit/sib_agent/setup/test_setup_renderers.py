from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sib_agent.settings import (
    AgentSettings,
    AlloySettings,
    FalcoSettings,
    LogsSettings,
    MetricsSettings,
)
from sib_agent.setup.alloy_config import (
    EVENT_SOURCES,
    LOGS_PATH,
    METRICS_PATH,
    file_sources,
    render_alloy,
    syslog_sources,
)
from sib_agent.setup.alloy_language import Block, Reference, quote, render
from sib_agent.setup.falco_config import (
    PROBE_PREFIX,
    FalcoFiles,
    render_falco,
    render_probe,
    rules_paths,
)
from sib_protocol.errors import SettingsError
from sib_protocol.settings import parse_settings
from sib_server.detection.sigma import streams
from sib_server.settings import ServerSettings
from sib_server.stack.push import routes

STOCK = Path("/usr/lib/sib-falco/etc/falco_rules.yaml")
PLUGIN = Path("/usr/lib/sib-falco/share/plugins/libcontainer.so")
WHOLE = FalcoFiles(program=True, stock_rules=STOCK, container_plugin=PLUGIN)
SERVER = "https://sib.example:8443"


def settings(text: str) -> AgentSettings:
    return parse_settings(text, AgentSettings, Path("agent.yaml"))


def falco(made: AgentSettings, found: FalcoFiles = WHOLE) -> dict[str, object]:
    tree: dict[str, object] = yaml.safe_load(render_falco(made, found))
    return tree


@pytest.mark.parametrize(("cores", "each"), [(1, 2), (16, 2), (17, 3), (256, 32)])
def test_the_kernels_buffers_stay_below_the_units_bound(cores: int, each: int) -> None:
    engine: Any = falco(AgentSettings(), replace(WHOLE, cores=cores))["engine"]
    assert engine["modern_ebpf"]["cpus_for_each_buffer"] == each
    assert math.ceil(cores / each) * 8 <= 64  # MiB, of the preset


def test_every_stream_that_sigma_rules_look_into_is_shipped_under_its_name() -> None:
    logs = LogsSettings()
    shipped = {name for name, _ in (*file_sources(logs), *syslog_sources(logs))}
    assert {*shipped, streams.JOURNAL} == set(streams.LINE_STREAMS)
    text = render_alloy(AgentSettings(), SERVER, journald=True)
    named = set(re.findall(r'(?:source +|replacement +)= "([a-z-]+)"', text))
    # From journald come the facilities' streams; the syslog file is one only without it.
    assert named - {"host"} == set(streams.LINE_STREAMS) - {streams.SYSLOG}
    # What tells programs apart in them is where Sigma's queries look for it.
    sshd = streams.stream_of("linux", None, "sshd")
    assert sshd is not None
    assert "| identifier=~" in sshd.selector
    assert 'target_label  = "identifier"' in text
    without = render_alloy(AgentSettings(), SERVER, journald=False)
    assert "loki.source.journal" not in without
    assert set(re.findall(r'source +=\s"([a-z-]+)"', without)) >= {"auth", "cron", "syslog"}


def test_pushes_go_where_the_server_takes_them_and_by_the_renewed_identity() -> None:
    assert (LOGS_PATH, METRICS_PATH) == (routes.LOKI_PATH, routes.METRICS_PATH)
    assert {"syscall", "sib"} == EVENT_SOURCES
    text = render_alloy(settings("identity: {directory: /x/identity}"), SERVER, journald=True)
    assert f'url                 = "{SERVER}{LOGS_PATH}"' in text
    assert f'"{SERVER}{METRICS_PATH}"' in text
    for name in ("ca", "cert", "key"):
        assert text.count(f'"/x/identity/current/{name}.pem"') == 2
    limits = ServerSettings().push
    # A batch is at most this and one line more.
    assert 'batch_size          = "1MiB"' in text
    assert limits.max_logs_bytes > 2**20 + 240 * 1024


@pytest.mark.parametrize(
    ("given_", "there", "missing"),
    [
        ("alloy: {metrics: false}", ["loki.write"], ["prometheus."]),
        ("metrics: {port: null}", ['"alloy"'], ['sib-agent"']),
        ("metrics: {address: '::1'}", ['"[::1]:9466"'], ["127.0.0.1:9466"]),
        ("falco: {enabled: false}", ['"sib-agent"'], ['"falco"']),
        ("falco: {metrics_port: 9999}", ['"127.0.0.1:9999"'], [":8765"]),
        ("logs: {web: [], web_error: []}", ["clamav"], ["nginx"]),
        ("logs: {more: {app: [/srv/app/*.log]}}", ['"/srv/app/*.log"', '"app"'], []),
        ("logs: {more: {syscall: [/srv/fake.log]}}", [], ["/srv/fake.log"]),
        ("logs: {journal: false}", ["/var/log/auth.log"], ["journal"]),
        ("alloy: {scrape_seconds: 15}", ['scrape_interval = "15s"'], ['"60s"']),
        (
            "logs: {web: [], web_error: [], clamav: [], ftp: [], guacamole: []}",
            ["loki.source.journal"],
            ["loki.source.file"],
        ),
    ],
)
def test_settings_show_in_alloys_configuration(
    given_: str, there: list[str], missing: list[str]
) -> None:
    text = render_alloy(settings(given_), SERVER, journald=True)
    assert [part for part in there if part not in text] == []
    assert [part for part in missing if part in text] == []


@pytest.mark.parametrize(
    "given_",
    [
        "logs: {web: [relative]}",
        "logs: {web: ['/a\"}\\nloki.write']}",
        "logs: {more: {'a\"b': [/x]}}",
        "alloy: {server: 'http://plain'}",
        "alloy: {server: 'https://x/path'}",
        "alloy: {listen: '0.0.0.0:1'}",
        "alloy: {collectors: ['cpu\"']}",
        "falco: {more_fields: ['fd.name %evt.time']}",
        "falco: {priority: loud}",
        "falco: {bufferpreset: 3}",
    ],
)
def test_what_would_break_out_of_a_configuration_is_refused(given_: str) -> None:
    with pytest.raises(SettingsError):
        settings(given_)


@given(st.text())
def test_any_text_stays_within_its_literal(text: str) -> None:
    quoted = quote(text)
    assert json.loads(quoted) == text
    assert "\n" not in quoted
    block = render([Block("a.b", text or "x", {"value": text})])
    assert block.count("\n") == 3


def test_the_language_is_written_as_its_formatter_writes_it() -> None:
    blocks = [
        Block("empty", "one"),
        Block(
            "outer",
            "two",
            {"short": True, "longer_name": 5, "list": ["a", "b"], "ref": Reference("a.b.c")},
            (Block("inner", attributes={"map": {"k": "v", "long_key": ""}, "none": {}}),),
        ),
    ]
    assert render(blocks) == (
        'empty "one" { }\n\n'
        'outer "two" {\n'
        "\tshort       = true\n"
        "\tlonger_name = 5\n"
        '\tlist        = [\n\t\t"a",\n\t\t"b",\n\t]\n'
        "\tref = a.b.c\n\n"
        "\tinner {\n"
        '\t\tmap = {\n\t\t\tk        = "v",\n\t\t\tlong_key = "",\n\t\t}\n'
        "\t\tnone = {\n\t\t}\n"
        "\t}\n"
        "}\n"
    )


def test_falco_writes_as_the_agent_reads() -> None:
    tree = falco(settings("events: {file: /x/events.json}\nfalco: {queue_capacity: 500}"))
    assert tree["file_output"] == {
        "enabled": True,
        "keep_alive": False,
        "filename": "/x/events.json",
    }
    assert tree["json_output"] is True
    assert tree["outputs_queue"] == {"capacity": 500}
    assert tree["webserver"]["listen_address"] == "127.0.0.1"  # type: ignore[index]
    assert tree["watch_config_files"] is True
    assert tree["rule_matching"] == "all"


def test_rules_are_loaded_in_the_order_of_who_may_say_more() -> None:
    more = FalcoSettings(more_rules=("/etc/sib/rules.d",))
    probe, bundle = "/etc/sib/falco-probe.yaml", "/var/lib/sib-agent/bundles/current/rules"
    assert rules_paths(more, WHOLE) == (str(STOCK), probe, bundle, "/etc/sib/rules.d")
    # Falco's own rules cannot be loaded without the plugin.
    bare = FalcoFiles(program=True, stock_rules=STOCK, container_plugin=None)
    assert rules_paths(FalcoSettings(), bare) == (probe, bundle)
    assert rules_paths(FalcoSettings(stock_rules=False), WHOLE) == (probe, bundle)


def test_events_carry_what_triage_needs_and_what_the_host_wants() -> None:
    def fields(made: AgentSettings, found: FalcoFiles) -> list[str]:
        appended: Any = falco(made, found)["append_output"]
        (entry,) = appended
        named: list[str] = entry["extra_fields"]
        return named

    bare = FalcoFiles(program=True, stock_rules=None, container_plugin=None)
    plain = fields(AgentSettings(), bare)
    assert {"proc.pid", "proc.exepath", "proc.pcmdline", "user.loginuid"} < set(plain)
    assert not [name for name in plain if name.startswith("container.")]
    more = fields(settings("falco: {more_fields: [proc.env, 'proc.aname[5]', proc.pid]}"), WHOLE)
    assert {"container.id", "proc.env", "proc.aname[5]"} < set(more)
    assert more.count("proc.pid") == 1


@pytest.mark.parametrize(
    ("priority", "shown"), [("debug", "INFORMATIONAL"), ("warning", "WARNING")]
)
def test_the_probe_is_loaded_whatever_the_least_priority_is(priority: str, shown: str) -> None:
    made = msgspec.convert({"priority": priority}, FalcoSettings)
    (rule,) = yaml.safe_load(render_probe(made))
    assert rule["priority"] == shown
    assert PROBE_PREFIX in rule["condition"]
    assert "sib_demo" in rule["tags"]


def test_renderers_are_functions_of_their_arguments() -> None:
    made = AgentSettings(alloy=AlloySettings(), metrics=MetricsSettings())
    assert render_alloy(made, SERVER, journald=True) == render_alloy(made, SERVER, journald=True)
    assert render_falco(made, WHOLE) == render_falco(made, WHOLE)
