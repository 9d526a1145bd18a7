"""Debian 12 and 13: from ``apt install`` out of our own repository to an event that is found."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.e2e.built import found_components
from tests.e2e.hosts import BPF, Host, wait
from tests.e2e.sites import (
    RECORDED,
    Site,
    active,
    append,
    enroll,
    failures,
    search,
    serve,
    site,
    wait_active,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# What a host may speak of to the server with its certificate, and to nobody else.
OTHERS = """
import json, ssl, sys, urllib.error, urllib.request
found = {}
routes = json.load(sys.stdin)
identity = "/var/lib/sib-agent/identity/current/"
for own in (True, False):
    context = ssl.create_default_context(cafile=identity + "ca.pem")
    if own:
        context.load_cert_chain(identity + "cert.pem", identity + "key.pem")
    for method, path in routes:
        request = urllib.request.Request("https://server:8443" + path, method=method)
        try:
            status = urllib.request.urlopen(request, context=context, timeout=20).status
        except urllib.error.HTTPError as error:
            status = error.code
        found[f"{method} {path} {'with' if own else 'without'}"] = status
print(json.dumps(found))
"""
CLOSED = [
    ("GET", "/loki/api/v1/query?query=%7Bhost%3D~%22.%2B%22%7D"),
    ("GET", "/loki/api/v1/labels"),
    ("POST", "/loki/api/v1/delete?query=%7Bhost%3D~%22.%2B%22%7D&start=0"),
    ("GET", "/api/v1/query?query=up"),
    ("POST", "/api/v1/admin/tsdb/delete_series?match[]=up"),
    ("GET", "/metrics"),
    ("GET", "/healthz"),
    ("GET", "/"),
    ("GET", "/api/health"),
    ("POST", "/-/quit"),
]


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, repository: Path
) -> Iterator[Site]:
    work = tmp_path_factory.mktemp("hosts")
    names = ("packages", "server", "web-1", "web-2")
    began = time.monotonic()
    tag = f"sr{request.param[0]}{work.stat().st_ino % 10000}"
    with site(tag, request.param, work, names, options=BPF) as made:
        serve(made.hosts["packages"], repository)
        yield made
    print(
        f"\n{request.param}: all of it in {time.monotonic() - began:.0f} s, packages built before"
    )


def snippet(repository: Path, package: str) -> str:
    """What the published page says to paste."""
    text = (repository / "deb/install.txt").read_text()
    assert text.endswith("apt-get install sib-agent\n")
    return text.replace("install sib-agent", f"install -y {package}")


def paste(host: Host, text: str) -> None:
    host.do("sh", "-euc", text, timeout=240)


def refused(host: Host, sources: str, because: str) -> None:
    (host.root / "etc/apt/sources.list.d/sib.sources").write_text(sources)
    done = host.try_("sh", "-c", "apt-get update && apt-get install -y sib-agent")
    assert done.returncode != 0
    assert re.search(because, done.stdout + done.stderr), done.stdout + done.stderr
    assert host.try_("dpkg-query", "-W", "sib-agent").returncode != 0


def test_what_is_not_signed_is_not_installed(place: Site, repository: Path) -> None:
    host = place.hosts["web-1"]
    sources = (repository / "deb/sib.sources").read_text()
    unsigned = sources.split("Signed-By:")[0]
    refused(host, unsigned, "NO_PUBKEY|is not signed|Missing key")
    served = place.hosts["packages"].root / "srv/repository/deb"
    for path in served.glob("dists/stable/main/binary-amd64/**/*"):
        if path.is_file():
            path.write_bytes(path.read_bytes() + b"\n")
    refused(host, sources, "Hash Sum mismatch|unexpected size")
    for path in (repository / "deb/dists/stable/main/binary-amd64").rglob("*"):
        if path.is_file():
            (served / path.relative_to(repository / "deb")).write_bytes(path.read_bytes())


def numbered(name: str, count: int) -> list[bytes]:
    """Events that a real Falco wrote, each with a text of its own."""
    recorded = [json.loads(line) for line in RECORDED.read_bytes().splitlines()]
    return [
        json.dumps({**recorded[at % len(recorded)], "output": f"e2e {name} {at}"}).encode() + b"\n"
        for at in range(count)
    ]


def test_from_installation_to_a_found_event(
    place: Site, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server, agents = place.server, place.agents
    began = time.monotonic()
    # The stores come along: the package recommends them.
    paste(server, snippet(repository, "sib-server"))
    wait_active(server, "sib-server.service")
    ready = time.monotonic()
    for agent in agents:
        paste(agent, snippet(repository, "sib-agent"))
        # Not enrolled yet: waiting, not failing.
        assert failures(agent) == ""
        enroll(server, agent)
        wait_active(agent, "sib-agent.service", seconds=20)
    enrolled = time.monotonic()
    for agent in agents:
        append(agent, numbered(agent.name, 20))
    wait("the first event to be found", lambda: found(server, "--limit", "1") != [], 30)
    first = time.monotonic()
    wait("all events to be found", lambda: len(found(server)) == 40, 60)
    assert {event["host_name"] for event in found(server)} == {"web-1", "web-2"}
    with capsys.disabled():
        print(
            f"\nfresh machines: server up {ready - began:.1f} s after apt install,"
            f" two hosts enrolled {enrolled - ready:.1f} s later,"
            f" first event found {first - began:.1f} s after the beginning"
        )
    for host in (server, *agents):
        assert failures(host) == ""
        # Bytecode is shipped and used: nothing is written beside it.
        assert host.do("sh", "-c", "dpkg --verify").strip() == ""
        home = "/usr/lib/sib-agent" if host in agents else "/usr/lib/sib-server"
        assert host.do("find", home, "-newer", "/etc/hosts", "-name", "*.pyc") == ""


def test_systemd_has_nothing_to_say_and_the_sandbox_holds(place: Site) -> None:
    for host, service in ((place.server, "sib-server"), (place.agents[0], "sib-agent")):
        units = host.do("sh", "-c", "ls /usr/lib/systemd/system/sib-*").split()
        done = host.try_("systemd-analyze", "verify", "--man=no", *units)
        assert (done.returncode, done.stdout + done.stderr) == (0, "")
        pid = host.do("systemctl", "show", "-P", "MainPID", service).strip()
        status = host.do("cat", f"/proc/{pid}/status")
        for line in ("CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"):
            assert line in status, status
        # Its own view: nothing to write to but its state, and no devices or homes.
        for place_, writable in (("/usr", False), ("/etc", False), (f"/var/lib/{service}", True)):
            mounts = host.do("cat", f"/proc/{pid}/mountinfo").splitlines()
            options = [line.split()[5] for line in mounts if line.split()[4] == place_]
            root = [line.split()[5] for line in mounts if line.split()[4] == "/"]
            assert (options or root)[-1].startswith("rw" if writable else "ro"), (place_, mounts)


def found(server: Host, *filters: str) -> list[dict[str, object]]:
    return search(server, "--text", "e2e web-", *filters)


def component(name: str) -> None:
    if name not in found_components():
        pytest.skip(f"no {name} in SIB_COMPONENTS")


def ask(host: Host, port: int, path: str, **query: str) -> Any:
    """What a store answers on its loopback port."""
    url = f"http://127.0.0.1:{port}{path}?{urlencode(query)}"
    read = f"import urllib.request as u; print(u.urlopen({url!r}, timeout=10).read().decode())"
    text = host.do("python3", "-c", read)
    return json.loads(text) if text.startswith("{") else text


def test_events_are_in_loki_by_logql(place: Site) -> None:
    component("loki")
    server = place.server
    wait_active(server, "sib-loki.service")
    query = '{host="web-1"} |= "e2e web-1"'
    now = time.time_ns()
    window = {"start": str(now - 8 * 86_400 * 10**9), "end": str(now + 3600 * 10**9)}

    def lines() -> int:
        answer = ask(server, 3100, "/loki/api/v1/query_range", query=query, limit="100", **window)
        return sum(len(stream["values"]) for stream in answer["data"]["result"])

    wait("Loki to have the events of a host", lambda: lines() == 20, 60)


def test_events_went_through_falcosidekick(place: Site) -> None:
    component("falcosidekick")
    wait_active(place.server, "sib-falcosidekick.service")

    def accepted() -> float:
        text = ask(place.server, 2801, "/metrics")
        counts = re.findall(
            r'(?m)^falcosecurity_falcosidekick_inputs_total\{[^}]*status="accepted"[^}]*\} (\S+)$',
            text,
        )
        return sum(map(float, counts))

    wait("Falcosidekick to have been given all events", lambda: accepted() >= 40, 60)


def test_a_real_falco_sees_what_happens(place: Site) -> None:
    component("falco")
    for agent in place.agents:
        wait_active(agent, "sib-falco.service")
        doctor = agent.try_("sib-agent", "doctor", "--json", timeout=90)
        checks = {item["check"]: item for item in json.loads(doctor.stdout)}
        assert checks["event"]["verdict"] == "well", checks
    probes = {event["host_name"] for event in search(place.server, "--rule", "SIB probe")}
    assert probes == {"web-1", "web-2"}


def test_host_metrics_are_in_prometheus(place: Site) -> None:
    component("prometheus")
    wait_active(place.server, "sib-prometheus.service")

    def series(query: str) -> set[str]:
        answer = ask(place.server, 9090, "/api/v1/query", query=query)
        return {item["metric"].get("host", "") for item in answer["data"]["result"]}

    wait("Prometheus to read the server", lambda: series("up == 1") != set(), 60)
    component("alloy")
    for agent in place.agents:
        # They come once a minute, which is long to wait for here.
        agent.do("sh", "-c", "echo 'alloy: {scrape_seconds: 10}' >>/etc/sib/agent.yaml")
        agent.do("sib-agent", "setup", "--quiet")
    wait("host metrics", lambda: series("node_load1") >= {"web-1", "web-2"}, 120)


# One after the other: a closed port answers at once.
SCAN = """
import json, socket, sys
found = []
for port in range(1, 65536):
    with socket.socket() as probe:
        probe.settimeout(2)
        if probe.connect_ex((sys.argv[1], port)) == 0:
            found.append(port)
print(json.dumps(found))
"""


def test_from_another_host_only_the_servers_port_is_open(place: Site) -> None:
    outside = place.hosts["packages"]
    for host, expected in ((place.server, [8443]), (place.hosts["web-1"], [])):
        found = json.loads(outside.do("python3", "-c", SCAN, host.address, timeout=180))
        listening = host.do("python3", "-c", "print(open('/proc/net/tcp').read())")
        assert found == expected, listening


def test_a_hosts_certificate_opens_its_routes_alone(place: Site) -> None:
    agent = place.hosts["web-1"]
    found = json.loads(agent.do("python3", "-c", OTHERS, stdin=json.dumps(CLOSED)))
    assert len(found) == 2 * len(CLOSED)
    strange = {
        route: status for route, status in found.items() if status not in {401, 403, 404, 405}
    }
    assert strange == {}
    assert active(place.server, "sib-server.service")
