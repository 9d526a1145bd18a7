"""An installed server is looked over, backed up, lost, restored on another machine, and removed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.hosts import Host, Network, base, wait

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "sib_server/trial/falco-events.jsonl"
EVENTS = "var/lib/sib-falco/events/events.json"
LINES = RECORDED.read_bytes().splitlines(keepends=True)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Fleet(NamedTuple):
    """A server, the machine that replaces it, and a host."""

    lost: Host
    fresh: Host
    agent: Host


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Fleet]:
    lower = base("bookworm")
    work = tmp_path_factory.mktemp("hosts")
    network = Network(f"op{os.getpid() % 10000}")
    made: list[Host] = []
    try:
        for name, address in (
            ("lost", "10.78.0.2"),
            ("fresh", "10.78.0.3"),
            ("web-1", "10.78.0.4"),
        ):
            host = Host(network, name, address, lower, work)
            made.append(host)
            for package in packages.glob("*.deb"):
                shutil.copy(package, host.root / "root")
            host.boot()
        yield Fleet(*made)
    finally:
        for host in made:
            host.close()
        network.close(*(host.namespace for host in made))


def install(host: Host, package: str) -> None:
    host.do("sh", "-c", f"dpkg -i /root/{package}_*_amd64.deb", timeout=240)


def point(agent: Host, server: Host) -> None:
    """Move the server's name to a machine."""
    (agent.root / "etc/hosts").write_text(
        f"127.0.0.1 localhost\n{server.address} sib.example\n{agent.address} web-1\n"
    )


def write(agent: Host, first: int, last: int) -> None:
    path = agent.root / EVENTS
    with path.open("ab") as events:
        events.writelines(LINES[first:last])
    path.chmod(0o640)
    os.chown(path, 0, path.parent.stat().st_gid)


def found(server: Host) -> list[str]:
    done = server.try_("sib-server", "events", "search", "--json", "--oldest-first")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    return [event["event_id"] for event in events if event["host_name"] == "web-1"]


def doctor(server: Host) -> dict[str, dict[str, Any]]:
    done = server.try_("sib-server", "doctor", "--json", timeout=120)
    assert done.returncode in {0, 11}, done.stdout + done.stderr
    return {finding["check"]: finding for finding in json.loads(done.stdout)}


def foreign(server: Host) -> str:
    """Files in the server's directory that are not the server's."""
    return server.do("find", "/var/lib/sib-server", "!", "-user", "sib-server").strip()


def check_doctor(server: Host) -> None:
    findings = doctor(server)
    for check in (
        *("probe-ingest", "probe-journal", "secrets", "configuration", "journal", "state"),
        *("ca", "certificate", "certificate-names", "exposed", "port-8443", "unit-server"),
        *("disk-guard", "fleet"),
    ):
        assert findings[check]["verdict"] == "well", findings[check]
    assert foreign(server) == "", "root left files that the daemon may not touch"


def test_a_server_is_kept_lost_brought_back_and_removed(fleet: Fleet) -> None:
    lost, fresh, agent = fleet
    install(lost, "sib-server")
    lost.do(
        "sh",
        "-c",
        "printf 'listen: {public_urls: [\"https://sib.example:8443\"]}\\n' >/etc/sib/server.yaml",
    )
    lost.do("systemctl", "restart", "sib-server", timeout=120)
    point(agent, lost)
    install(agent, "sib-agent")
    agent.do("sh", "-c", lost.do("sib-server", "token", "create").strip())
    write(agent, 0, 5)
    wait("five events", lambda: len(found(lost)) == 5, 60)

    # The guard runs in its sandbox, the doctor as root; neither leaves a file of root's.
    lost.do("systemctl", "start", "sib-server-disk-guard.service", timeout=60)
    assert "decision.json" in lost.do("ls", "/var/lib/sib-disk-guard")
    assert "waiting" in lost.do("systemctl", "show", "sib-server-disk-guard.timer")
    check_doctor(lost)
    lost.do("test", "-s", "/usr/share/man/man1/sib-server-doctor.1.gz")
    lost.do("test", "-s", "/usr/share/bash-completion/completions/sib-server")
    assert "serving" in lost.do("sib-server", "logs", "server")

    public = lost.do("sib-server", "backup-key", "/root/key").strip()
    lost.do("sib-server", "backup", "/root/sib.age", "--recipient", public, timeout=120)
    assert foreign(lost) == ""
    agent.do("sib-agent", "renew")
    write(agent, 5, 8)
    wait("eight events", lambda: len(found(lost)) == 8, 60)
    before = found(lost)
    for name in ("key", "sib.age"):
        shutil.copy(lost.root / "root" / name, fresh.root / "root" / name)
    lost.close()
    write(agent, 8, 12)

    install(fresh, "sib-server")
    restore = ("sib-server", "restore", "/root/sib.age", "--key-file", "/root/key", "--replace")
    running = fresh.try_(*restore)
    assert running.returncode == 9, running.stdout + running.stderr
    fresh.do("systemctl", "stop", "sib-server.target")
    fresh.do(*restore, timeout=120)
    assert foreign(fresh) == ""
    fresh.do("systemctl", "start", "sib-server.target", timeout=120)
    point(agent, fresh)
    wait("what was waiting", lambda: len(found(fresh)) == 4, 90)
    write(agent, 12, 15)
    wait("and what came after", lambda: len(found(fresh)) == 7, 60)
    numbers = [int(event.split("/")[1]) for event in before + found(fresh)]
    assert numbers == list(range(15))
    fresh.do("systemctl", "start", "sib-server-disk-guard.service", timeout=60)
    wait("the host reports", lambda: doctor(fresh)["fleet"]["verdict"] == "well", 60)
    check_doctor(fresh)

    shown = fresh.do("sib-server", "uninstall", "--purge", "--dry-run")
    assert "apt-get --yes purge sib-server" in shown
    fresh.do("sib-server", "uninstall", "--purge", "--yes", timeout=180)
    left = fresh.do("sh", "-c", "ls -d /var/lib/sib-* /usr/lib/sib-server /usr/bin/sib-server || :")
    assert left == ""
    state = fresh.try_("systemctl", "is-active", "sib-server.service").stdout.strip()
    assert state == "inactive"
