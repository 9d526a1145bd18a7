"""A site: a repository, a server and hosts, on one network without a way out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.hosts import Host, Network, base, wait

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "sib_server/trial/falco-events.jsonl"
EVENTS = "var/lib/sib-falco/events/events.json"
ADDRESSES = {
    "packages": "10.77.0.9",
    "server": "10.77.0.2",
    "web-1": "10.77.0.3",
    "web-2": "10.77.0.4",
}


@dataclass(frozen=True)
class Site:
    """Booted hosts by name."""

    hosts: dict[str, Host]

    @property
    def server(self) -> Host:
        return self.hosts["server"]

    @property
    def agents(self) -> list[Host]:
        return [host for name, host in self.hosts.items() if name.startswith("web-")]


@contextlib.contextmanager
def site(
    tag: str, suite: str, work: Path, names: Sequence[str], *, options: tuple[str, ...] = ()
) -> Iterator[Site]:
    """Boot hosts; end them whatever happens."""
    lower = base(suite)
    network = Network(tag)
    made: dict[str, Host] = {}
    try:
        lines = "".join(f"{address} {name}\n" for name, address in ADDRESSES.items())
        for name in names:
            host = Host(network, name, ADDRESSES[name], lower, work)
            made[name] = host
            (host.root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{lines}")
            # What a host installs comes from the site's own repository, or is there.
            (host.root / "etc/apt/sources.list").unlink(missing_ok=True)
            shutil.rmtree(host.root / "etc/apt/sources.list.d")
            (host.root / "etc/apt/sources.list.d").mkdir()
            host.boot(*options)
        yield Site(made)
    finally:
        for host in made.values():
            host.close()
        network.close(*(host.namespace for host in made.values()))


def serve(host: Host, repository: Path) -> None:
    """Have a host publish a repository over HTTP."""
    shutil.copytree(repository, host.root / "srv/repository")
    host.do(
        *("systemd-run", "--quiet", "--unit=repository"),
        *("python3", "-m", "http.server", "8000", "--directory", "/srv/repository"),
    )
    wait("the repository to be served", lambda: answers(host, 8000), 20)


def answers(host: Host, port: int) -> bool:
    probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
    return host.try_("python3", "-c", probe).returncode == 0


def active(host: Host, unit: str) -> bool:
    return host.try_("systemctl", "is-active", unit).stdout.strip() == "active"


def wait_active(host: Host, *units: str, seconds: float = 60) -> None:
    for unit in units:
        end = time.monotonic() + seconds
        while not active(host, unit):
            assert time.monotonic() < end, f"{host.name}: {unit}\n{why(host, unit)}"
            time.sleep(0.2)


def failures(host: Host) -> str:
    """The units that failed, each with its log; empty if all is well."""
    listed = host.do("systemctl", "list-units", "--failed", "--plain", "--no-legend")
    return "\n".join(why(host, line.split()[0]) for line in listed.splitlines())


def why(host: Host, unit: str) -> str:
    status = host.try_("systemctl", "status", "--no-pager", "-l", unit).stdout
    return status + host.try_("journalctl", "--no-pager", "-n", "60", "-u", unit).stdout


def enroll(server: Host, agent: Host) -> None:
    """Paste on the host the line that the server prints."""
    agent.do("sh", "-c", server.do("sib-server", "token", "create").strip())


def search(server: Host, *filters: str) -> list[dict[str, object]]:
    done = server.do("sib-server", "events", "search", "--since", "1h", "--json", *filters)
    return [json.loads(line) for line in done.splitlines()]


def append(agent: Host, lines: Sequence[bytes]) -> None:
    """Write events where Falco would, as Falco's unit would."""
    path = agent.root / EVENTS
    group = path.parent.stat().st_gid
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
    try:
        os.fchown(descriptor, 0, group)
        for line in lines:
            os.write(descriptor, line)
    finally:
        os.close(descriptor)
