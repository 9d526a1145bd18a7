"""What the Vagrantfile does to its machines, done to booted hosts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.hosts import Host
from tests.e2e.sites import ROOT, Site, enroll, failures, search, site, wait_active

PROVISION = ROOT / "packaging/vm/provision.sh"
FOLDER = "/root/packages"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[Site]:
    work = tmp_path_factory.mktemp("hosts")
    with site(f"vm{os.getpid() % 10000}", "bookworm", work, ("server", "web-1")) as made:
        for host in made.hosts.values():
            shutil.copy(PROVISION, host.root / "root")
        yield made


def provision(host: Host, role: str) -> None:
    host.do("sh", "/root/provision.sh", role, FOLDER, timeout=300)


def test_without_packages_it_says_which_one_is_wanted(place: Site) -> None:
    done = place.server.try_("sh", "/root/provision.sh", "server", FOLDER)
    assert done.returncode == 1
    assert "no sib-server package as deb" in done.stderr
    assert place.server.try_("sh", "/root/provision.sh", "boss", FOLDER).returncode == 2


def test_machines_become_a_server_and_a_host_and_stay_that(place: Site, packages: Path) -> None:
    server, host = place.server, place.hosts["web-1"]
    for machine in (server, host):
        shutil.copytree(packages, machine.root / FOLDER.removeprefix("/"))
    provision(server, "server")
    wait_active(server, "sib-server.service")
    demo = search(server, "--host", "sib-demo-web-1")
    assert demo
    provision(host, "host")
    enroll(server, host)
    wait_active(host, "sib-agent.service")

    # Again, as `vagrant provision` does.
    provision(server, "server")
    provision(host, "host")
    wait_active(host, "sib-agent.service")
    names = json.loads(server.do("sib-server", "host", "list", "--json"))
    assert "web-1" in {entry["name"] for entry in names}
    assert search(server, "--host", "sib-demo-web-1")
    for machine in (server, host):
        assert failures(machine) == ""
