"""Real stores on what setup writes: events, metrics, alerts and outputs go through them."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import threading
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from sib_server.detection.sigma.ruler import Alert, ruler_document
from sib_server.detection.sigma.store import SigmaStore
from sib_server.events.sinks.loki import LokiSink
from sib_server.settings_files import load_server_settings
from sib_server.stack.layout import Component, Layout
from sib_server.stack.outputs import known_outputs, read_outputs
from tests.fakes.events import SECOND, stored
from tests.support.components import component, get, post_json
from tests.support.lab import Agent, Server, event_line
from tests.support.ports import free_port
from tests.support.stack import Unit, is_ready, pings, run_setup, stack_settings, takes_pushes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
PATIENCE = 90.0


class Webhook:
    """Where alerts are sent to."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        got = self.got

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                got.append(json.loads(self.rfile.read(length)))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Stack:
    server: Server
    layout: Layout
    loki: Unit
    prometheus: Unit
    falcosidekick: Unit
    webhook: Webhook

    def logql(self, query: str, days: float = 10) -> list[tuple[int, str, dict[str, str]]]:
        now = time.time_ns()
        asked = urllib.parse.urlencode(
            {"query": query, "start": now - int(days * 86400 * SECOND), "end": now + SECOND}
        )
        answer = json.loads(get(f"{self.loki.url}/loki/api/v1/query_range?{asked}"))
        return [
            (int(at), line, stream["stream"])
            for stream in answer["data"]["result"]
            for at, line in stream["values"]
        ]

    def promql(self, query: str) -> list[dict[str, Any]]:
        asked = urllib.parse.urlencode({"query": query})
        answer = json.loads(get(f"{self.prometheus.url}/api/v1/query?{asked}"))
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found


def until(what: str, happened: Callable[[], Any]) -> Any:
    end = time.monotonic() + PATIENCE
    while not (result := happened()):
        assert time.monotonic() < end, f"{what} did not happen"
        time.sleep(0.3)
    return result


def alert_rule(directory: Path) -> None:
    """An alert as imported Sigma rules are, but evaluated each second."""
    alert = Alert(
        name="Somebody read it",
        expression='sum by (host) (count_over_time({host="web-1"} |= "was read" [5m])) > 0',
        labels=(("severity", "high"), ("source", "sigma"), ("sigma_id", str(uuid.UUID(int=7)))),
        annotations=(("summary", "x"),),
    )
    group = {**alert.group(), "interval": "1s"}
    (directory / "sigma.yaml").write_text(ruler_document([group]))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A server, and the real stores that setup configured for it."""
    for name in ("loki", "prometheus", "falcosidekick"):
        component(name, name)
    directory = tmp_path_factory.mktemp("stack")
    webhook = Webhook()
    (directory / "outputs.yaml").write_text(
        yaml.safe_dump(
            {"webhook": {"address": webhook.url, "minimumpriority": "warning"}},
        )
    )
    settings = stack_settings(directory)
    server = Server(directory / "server", settings)
    report, layout = run_setup(directory, server.config)
    assert report.findings == []
    alert_rule(layout.ruler / "fake")
    ports = {name: values["port"] for name, values in settings["stack"].items()}
    made = Stack(
        server,
        layout,
        Unit(Component.LOKI, layout, ports["loki"]),
        Unit(Component.PROMETHEUS, layout, ports["prometheus"]),
        Unit(Component.FALCOSIDEKICK, layout, ports["falcosidekick"]),
        webhook,
    )
    try:
        made.loki.start(takes_pushes)
        made.prometheus.start(is_ready)
        made.falcosidekick.start(pings)
        server.start()
        yield made
    finally:
        if server.running:
            server.stop()
        for unit in (made.falcosidekick, made.prometheus, made.loki):
            unit.kill()
        webhook.close()


def test_the_programs_themselves_find_nothing_wrong(stack: Stack) -> None:
    done = subprocess.run(
        [str(stack.loki.program), "-verify-config", f"-config.file={stack.layout.loki}"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    promtool = stack.prometheus.program.with_name("promtool")
    if promtool.exists():
        done = subprocess.run(
            [str(promtool), "check", "config", str(stack.layout.prometheus)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "WARN" not in done.stdout.upper()
    for unit in (stack.loki, stack.prometheus, stack.falcosidekick):
        complaints = [
            line
            for line in unit.log.read_text().splitlines()
            if "deprecat" in line.lower() or "unknown" in line.lower()
        ]
        assert complaints == []


def test_an_event_of_a_host_reaches_every_store(stack: Stack, tmp_path: Path) -> None:
    agent = Agent(tmp_path / "agent", "web-1")
    agent.enroll(stack.server.token())
    agent.start()
    try:
        # One of each priority; the webhook wants warnings and what is worse.
        lines = [event_line(number) for number in range(4)]
        agent.append(*lines)

        query = '{host="web-1", source="syscall"} | rule=~"Lab rule.*"'
        until("the events in Loki", lambda: len(stack.logql(query)) == 4)
        assert {line.encode() for _, line, _ in stack.logql(query)} == set(lines)

        until("the alerts at the webhook", lambda: len(stack.webhook.got) >= 3)
        assert {alert["priority"] for alert in stack.webhook.got} == {
            "Warning",
            "Error",
            "Critical",
        }
        counted = 'falcosecurity_falcosidekick_outputs_total{destination="webhook",status="ok"}'
        until("the counter in Prometheus", lambda: stack.promql(f"{counted} == 3"))
    finally:
        agent.stop()


def test_every_program_is_scraped(stack: Stack) -> None:
    jobs = ("sib-prometheus", "sib-server", "sib-loki", "sib-falcosidekick")

    def up() -> bool:
        found = {item["metric"]["job"]: item["value"][1] for item in stack.promql("up")}
        return found == dict.fromkeys(jobs, "1")

    until("all targets to be up", up)
    until("the server's metrics", lambda: stack.promql('{__name__=~"sib_server_.*"}'))


def test_a_sigma_alert_is_evaluated_and_becomes_a_metric_and_an_event_and_is_sent_out(
    stack: Stack,
) -> None:
    rules = yaml.safe_load(get(f"{stack.loki.url}/loki/api/v1/rules"))
    (group,) = rules["sigma.yaml"]
    assert group["rules"][0]["alert"] == "Somebody read it"
    now = time.time_ns()
    content = {
        "streams": [
            {"stream": {"host": "web-1"}, "values": [[str(now), "it was read"]]},
        ]
    }
    assert post_json(f"{stack.loki.url}/loki/api/v1/push", content)[0] == 204
    found = until(
        "the alert in Prometheus", lambda: stack.promql('ALERTS{alertname="Somebody read it"}')
    )
    assert found[0]["metric"]["host"] == "web-1"
    assert found[0]["metric"]["alertstate"] in ("pending", "firing")

    arguments = ["events", "search", "--rule", "Somebody read it", "--json"]

    def events() -> list[dict[str, Any]]:
        done = stack.server.cli(*arguments, check=False)
        return [json.loads(line) for line in done.stdout.splitlines()]

    until("the alert in the journal", events)
    until("it in Loki", lambda: stack.logql('{source="sigma"} |= "Somebody read it"'))
    until(
        "it at the webhook",
        lambda: [one for one in stack.webhook.got if one["rule"] == "Somebody read it"],
    )
    # It fires still, and says so only once.
    time.sleep(2 * stack.server.settings.sigma.alert_seconds)
    (event,) = events()
    # Its host was enrolled by the test above, where that ran.
    known = stack.server.cli("host", "list", "--json").stdout
    assert (event["host_name"] == "web-1") is ('"web-1"' in known)
    assert event["event"]["priority"] == "Error"
    assert event["event"]["output_fields"]["sib.host"] == "web-1"


def test_the_sigma_stores_own_file_is_one_that_the_ruler_reads(
    stack: Stack, tmp_path: Path
) -> None:
    store = SigmaStore(tmp_path)
    store.publish()
    # The same name, so that the unit's bind puts it where the test's alert was.
    assert store.ruler_file.name == "sigma.yaml"
    assert yaml.safe_load(store.ruler_file.read_text()) == {"groups": []}


def test_an_event_that_was_a_week_under_way_keeps_its_time(stack: Stack) -> None:
    sink = load_server_settings(stack.server.config).sinks.loki
    assert sink.enabled
    assert sink.url == stack.loki.url
    week_ago = time.time_ns() - 7 * 86400 * SECOND
    host = f"h-{uuid.uuid4()}"

    async def deliver() -> Any:
        loki = LokiSink(sink)
        try:
            return await loki.deliver([stored(1, time_ns=week_ago, host=host)])
        finally:
            await loki.close()

    report = asyncio.run(deliver())
    assert (report.accepted, report.adjusted, report.refused) == (1, 0, {})
    ((at, _, labels),) = until("the old event", lambda: stack.logql(f'{{host="{host}"}}'))
    assert at == week_ago
    assert "sib_event_time" not in labels


# Those that try to reach theirs when they start are left out: there is nobody.
_ENABLED_AT_START = {
    "alertmanager": "AlertManager",
    "cliq": "Cliq",
    "cloudevents": "CloudEvents",
    "datadog": "Datadog",
    "discord": "Discord",
    "elasticsearch": "Elasticsearch",
    "googlechat": "GoogleChat",
    "gotify": "Gotify",
    "influxdb": "Influxdb",
    "kafkarest": "KafkaRest",
    "mattermost": "Mattermost",
    "n8n": "n8n",
    "nodered": "NodeRed",
    "openobserve": "OpenObserve",
    "opsgenie": "Opsgenie",
    "pagerduty": "Pagerduty",
    "quickwit": "Quickwit",
    "rocketchat": "Rocketchat",
    "slack": "Slack",
    "smtp": "SMTP",
    "sumologic": "SumoLogic",
    "teams": "Teams",
    "tekton": "Tekton",
    "telegram": "Telegram",
    "webex": "Webex",
    "webhook": "Webhook",
    "webui": "WebUI",
    "zincsearch": "Zincsearch",
}


def test_what_the_check_calls_enabled_is_what_falcosidekick_enables(tmp_path: Path) -> None:
    program = component("falcosidekick", "falcosidekick")
    nowhere = f"http://127.0.0.1:{free_port()}"
    tree: dict[str, dict[str, Any]] = {
        name: dict.fromkeys(known_outputs()[name].needs, nowhere) for name in _ENABLED_AT_START
    }
    tree["alertmanager"]["hostport"] = [nowhere]
    tree["smtp"] = {"hostport": "127.0.0.1:1", "from": "a@b.c", "to": "a@b.c"}
    # And ones that lack what they need.
    tree["grafanaoncall"] = {"minimumpriority": "error"}
    tree["kafka"] = {"hostport": "127.0.0.1:1"}
    path = tmp_path / "outputs.yaml"
    outputs = read_outputs(yaml.safe_dump(tree).encode(), path)
    assert not outputs.broken
    config = tmp_path / "falcosidekick.yaml"
    port = free_port()
    config.write_text(
        yaml.safe_dump({"listenaddress": "127.0.0.1", "listenport": port, **outputs.tree})
    )
    log = tmp_path / "log"
    with log.open("wb") as opened:
        process = subprocess.Popen([str(program), "-c", str(config)], stdout=opened, stderr=opened)
    try:
        until("it to start", lambda: "Enabled Outputs" in log.read_text())
    finally:
        process.kill()
        process.wait(10)
    line = next(line for line in log.read_text().splitlines() if "Enabled Outputs" in line)
    told = set(line.partition("Outputs: [")[2].partition("]")[0].split())
    assert told == {_ENABLED_AT_START[item.name] for item in outputs.enabled}


RULE = """
title: Somebody was let in
id: 5f3c2d0e-0000-4000-8000-000000000002
status: test
logsource: {product: linux, service: sshd}
detection: {words: [Accepted publickey], condition: words}
level: low
"""


def test_the_doctor_says_whether_loki_evaluates_imported_rules(
    stack: Stack, tmp_path: Path
) -> None:
    (tmp_path / "rule.yml").write_text(RULE)
    stack.server.cli("sigma", "import", str(tmp_path / "rule.yml"))

    def finding() -> tuple[str, str]:
        done = stack.server.cli("doctor", "--json", check=False)
        (found,) = [one for one in json.loads(done.stdout) if one["check"] == "sigma-logs"]
        return found["verdict"], found["problem"]

    verdict, problem = finding()
    assert (verdict, "not loaded 1 of 1" in problem) == ("failed", True)
    # As the unit's bind shows it to Loki.
    store = SigmaStore(stack.server.settings.sigma.directory)
    shutil.copy(store.ruler_file, stack.layout.ruler / "fake")
    assert until("Loki to load it", lambda: finding()[0] == "well")
