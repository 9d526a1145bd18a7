"""Packages on real hosts: installed, enrolled, an event found, upgraded, removed, purged."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hosts import Host, Network, base, wait

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "sib_server/trial/falco-events.jsonl"
EVENTS = "var/lib/sib-falco/events/events.json"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[tuple[Host, Host]]:
    lower = base("bookworm")
    work = tmp_path_factory.mktemp("hosts")
    network = Network(f"sib{os.getpid() % 10000}")
    made: list[Host] = []
    try:
        for name, address in (("server", "10.77.0.2"), ("web-1", "10.77.0.3")):
            made.append(Host(network, name, address, lower, work))
            for package in packages.glob("*.deb"):
                shutil.copy(package, made[-1].root / "root")
        hosts_file = "127.0.0.1 localhost\n10.77.0.2 server\n10.77.0.3 web-1\n"
        for host in made:
            (host.root / "etc/hosts").write_text(hosts_file)
            host.boot()
        yield made[0], made[1]
    finally:
        for host in made:
            host.close()
        network.close(*(host.namespace for host in made))


def install(host: Host, package: str) -> None:
    host.do("sh", "-c", f"dpkg -i /root/{package}_*_amd64.deb", timeout=180)


def active(host: Host, unit: str) -> bool:
    return host.try_("systemctl", "is-active", unit).stdout.strip() == "active"


def found(server: Host) -> int:
    done = server.try_(
        "sib-server", "events", "search", "--since", "1h", "--limit", "500", "--json"
    )
    return len(done.stdout.splitlines())


def test_from_installation_to_purge(hosts: tuple[Host, Host]) -> None:
    server, agent = hosts
    install(server, "sib-server")
    install(agent, "sib-agent")
    assert active(server, "sib-server.service"), server.do("journalctl", "-u", "sib-server*")
    # Not enrolled: waiting, not failing.
    assert not active(agent, "sib-agent.service")
    assert agent.do("systemctl", "is-system-running").strip() == "running"

    line = server.do("sib-server", "token", "create").strip()
    agent.do("sh", "-c", line)
    wait("the agent to start", lambda: active(agent, "sib-agent.service"), 20)

    lines = RECORDED.read_bytes().splitlines(keepends=True)[:5]
    with (agent.root / EVENTS).open("ab") as events:
        events.writelines(lines)
    (agent.root / EVENTS).chmod(0o640)
    os.chown(agent.root / EVENTS, 0, (agent.root / EVENTS).parent.stat().st_gid)
    wait("the events to be found", lambda: found(server) == 5, 30)

    # What the sandbox promises is so, and nothing is written beside the state.
    pid = agent.do("systemctl", "show", "-P", "MainPID", "sib-agent").strip()
    status = agent.do("cat", f"/proc/{pid}/status")
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    assert agent.do("dpkg", "--verify", "sib-agent") == ""
    assert agent.do("find", "/usr/lib/sib-agent", "-newer", "/etc/hosts", "-name", "*.pyc") == ""
    loaded = agent.do("cat", f"/proc/{pid}/maps")
    assert "/dist-packages/" not in loaded

    identity = agent.do("readlink", "/var/lib/sib-agent/identity/current")
    agent.do("sh", "-c", "echo '# mine' >>/etc/sib/agent.yaml")
    install(agent, "sib-agent")
    install(server, "sib-server")
    assert active(agent, "sib-agent.service")
    assert active(server, "sib-server.service")
    assert agent.do("readlink", "/var/lib/sib-agent/identity/current") == identity
    assert "# mine" in agent.do("cat", "/etc/sib/agent.yaml")
    assert found(server) == 5

    agent.do("dpkg", "-r", "sib-agent")
    assert not active(agent, "sib-agent.service")
    assert agent.do("readlink", "/var/lib/sib-agent/identity/current") == identity
    install(agent, "sib-agent")
    wait("the agent to be back", lambda: active(agent, "sib-agent.service"), 20)
    agent.do("dpkg", "-P", "sib-agent")
    left = agent.do("sh", "-c", "ls -d /var/lib/sib-* /etc/sib /usr/lib/sib-* 2>/dev/null || :")
    assert left == ""

    server.do("systemctl", "stop", "sib-server.target")
    assert not active(server, "sib-server.service")


def test_stays_up_when_it_cannot_start(hosts: tuple[Host, Host]) -> None:
    _, agent = hosts
    agent.do("sh", "-c", "mkdir -p /etc/sib; echo 'no_such: 1' >/etc/sib/server.yaml")
    done = agent.try_(
        "sh", "-c", "dpkg --force-confold -i /root/sib-server_*_amd64.deb", timeout=180
    )
    assert done.returncode == 0, done.stderr
    assert "journalctl -u sib-server.service" in done.stderr
    assert agent.do("dpkg-query", "-Wf", "${Status}", "sib-server") == "install ok installed"
