"""The agent's rpm under a real systemd: its scriptlets, from installation to removal.

The host is Debian with rpm, which no distribution of rpm's offers as a base here: what the package
depends on is there under other names, so rpm is told not to look.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e import built
from tests.e2e.hosts import Host, wait
from tests.e2e.sites import (
    Site,
    active,
    append,
    enroll,
    failures,
    search,
    site,
    wait_active,
)
from tests.e2e.test_repository_to_event import numbered

IDENTITY = "/var/lib/sib-agent/identity/current/cert.pem"
SETTINGS = "/etc/sib/agent.yaml"
VERSIONS = ("1.0.0", "1.1.0")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Site]:
    work = tmp_path_factory.mktemp("hosts")
    rpms = tmp_path_factory.mktemp("rpms")
    for version in VERSIONS:
        built.build(rpms, ["agent"], "--format", "rpm", "--version", version)
    with site(f"rpm{os.getpid() % 10000}", "bookworm", work, ("server", "web-1")) as made:
        (server,) = packages.glob("sib-server_*.deb")
        (made.server.root / "root" / server.name).write_bytes(server.read_bytes())
        for path in rpms.glob("*.rpm"):
            (made.agents[0].root / "root" / path.name).write_bytes(path.read_bytes())
        made.server.do("sh", "-c", "dpkg -i /root/*.deb", timeout=240)
        yield made


def rpm(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = host.try_("rpm", "--nodeps", *arguments, timeout=240)
    # What goes wrong in a scriptlet is said, and is no failure of rpm's.
    assert done.returncode == 0, done.stderr
    assert "scriptlet failed" not in done.stderr
    assert "sib-agent:" not in done.stderr, done.stderr
    return done


def file(version: str) -> str:
    return f"/root/sib-agent_{version}_amd64.rpm"


def started(host: Host) -> str:
    return host.do("systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", "sib-agent")


def test_from_installation_to_removal(place: Site) -> None:
    server, agent = place.server, place.agents[0]
    wait_active(server, "sib-server.service")
    rpm(agent, "-i", file(VERSIONS[0]))
    owners = agent.do("stat", "-c", "%U:%G %a", SETTINGS, "/var/lib/sib-agent").split("\n")
    assert owners[:2] == ["root:sib-agent 640", "sib-agent:sib-agent 750"]
    assert agent.do("systemctl", "is-enabled", "sib-agent.service").strip() == "enabled"
    # Not enrolled: waiting, not failing.
    assert not active(agent, "sib-agent.service")
    assert failures(agent) == ""
    enroll(server, agent)
    wait_active(agent, "sib-agent.service")
    append(agent, numbered("before", 5))

    agent.do("sh", "-c", f"echo '# mine' >>{SETTINGS}")
    identity, before = agent.do("cat", IDENTITY), started(agent)
    rpm(agent, "-U", file(VERSIONS[1]))
    wait_active(agent, "sib-agent.service")
    assert started(agent) != before
    assert agent.do("rpm", "-q", "--qf", "%{version}", "sib-agent") == VERSIONS[1]
    assert "# mine" in agent.do("cat", SETTINGS)
    assert agent.do("cat", IDENTITY) == identity
    # And one that was stopped on purpose stays so.
    agent.do("systemctl", "stop", "sib-agent.service")
    rpm(agent, "-U", "--oldpackage", file(VERSIONS[0]))
    assert not active(agent, "sib-agent.service")
    agent.do("systemctl", "start", "sib-agent.service")
    append(agent, numbered("after", 5))

    rpm(agent, "-e", "sib-agent")
    assert not active(agent, "sib-agent.service")
    units = agent.do("sh", "-c", "ls /etc/systemd/system/*.wants/sib-* 2>/dev/null || :")
    assert units == ""
    assert "# mine" in agent.do("cat", f"{SETTINGS}.rpmsave")
    assert agent.do("cat", IDENTITY) == identity
    assert failures(agent) == ""

    # Nothing removes state: the host that comes back is the host that went.
    append(agent, numbered("while away", 5))
    rpm(agent, "-i", file(VERSIONS[1]))
    wait_active(agent, "sib-agent.service")
    wanted = {f"e2e {name} {at}" for name in ("before", "after", "while away") for at in range(5)}

    def found() -> list[object]:
        events = [event["event"] for event in search(server, "--text", "e2e ")]
        return [event["output"] for event in events if isinstance(event, dict)]

    wait("every event to arrive", lambda: set(found()) >= wanted, 60)
    assert sorted(map(str, found())) == sorted(wanted)


def test_what_cannot_start_does_not_break_rpm(place: Site) -> None:
    agent = place.agents[0]
    agent.do("sh", "-c", f"echo 'no_such: 1' >>{SETTINGS}")
    done = agent.try_("rpm", "--nodeps", "-U", "--force", file(VERSIONS[1]), timeout=240)
    assert done.returncode == 0, done.stderr
    assert "journalctl -u sib-agent.service" in done.stderr
