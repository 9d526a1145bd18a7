"""An agent's host from installation to removal: configured, enrolled, watched by the real Falco."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.hosts import BPF, Host, Network, base, wait
from tests.support.components import component

ROOT = Path(__file__).resolve().parents[2]
READ_METRICS = (
    "import urllib.request as u;print(u.urlopen('http://127.0.0.1:8765/metrics').read().decode())"
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, packages: Path) -> Iterator[tuple[Host, Host]]:
    work = tmp_path_factory.mktemp("hosts")
    network = Network(f"siba{os.getpid() % 1000}")
    made: list[Host] = []
    try:
        for name, address in (("server", "10.77.0.2"), ("web-1", "10.77.0.3")):
            host = Host(network, name, address, base("bookworm"), work)
            made.append(host)
            for package in packages.glob("*.deb"):
                shutil.copy(package, host.root / "root")
        names = "127.0.0.1 localhost\n10.77.0.2 server\n10.77.0.3 web-1\n"
        for host in made:
            (host.root / "etc/hosts").write_text(names)
            host.boot(*BPF)
        yield made[0], made[1]
    finally:
        for host in made:
            host.close()
        network.close(*(host.namespace for host in made))


def install(host: Host, *names: str) -> None:
    files = " ".join(f"/root/{name}_*_amd64.deb" for name in names)
    host.do("sh", "-c", f"dpkg -i {files}", timeout=240)


def active(host: Host, unit: str) -> bool:
    return host.try_("systemctl", "is-active", unit).stdout.strip() == "active"


def said(host: Host, unit: str) -> str:
    return host.do("journalctl", "--no-pager", "-n", "60", "-u", unit)


def doctor(host: Host) -> dict[str, dict[str, Any]]:
    done = host.try_("sib-agent", "doctor", "--json", timeout=90)
    return {item["check"]: item for item in json.loads(done.stdout)}


def listed(host: Host, folder: str) -> dict[str, str]:
    """Each file's owner and mode."""
    text = host.do("find", folder, "-type", "f", "-printf", "%f %u:%g %m\n")
    return dict(line.split(" ", 1) for line in text.splitlines())


@pytest.fixture(scope="module")
def enrolled(hosts: tuple[Host, Host]) -> Host:
    """A host on which nothing was done but installing and pasting the line."""
    server, host = hosts
    install(server, "sib-server")
    install(host, "sib-agent")
    # Before there is an identity: Falco could start, Alloy has nowhere to send to.
    assert listed(host, "/etc/sib") == {
        "agent.yaml": "root:sib-agent 640",
        "falco.yaml": "root:sib-agent 640",
        "falco-probe.yaml": "root:sib-agent 640",
    }
    assert host.do("systemctl", "is-system-running").strip() == "running"
    host.do("sh", "-c", server.do("sib-server", "token", "create").strip())
    wait("the agent to start", lambda: active(host, "sib-agent.service"), 20)
    return host


def test_installing_and_pasting_a_line_is_all(enrolled: Host) -> None:
    assert listed(enrolled, "/etc/sib")["config.alloy"] == "root:sib-agent 640"
    assert "https://server:8443" in enrolled.do("cat", "/etc/sib/config.alloy")
    wait("an event home", lambda: doctor(enrolled)["event"]["verdict"] == "well", 60)
    found = doctor(enrolled)
    assert found["server"]["verdict"] == "well"
    assert found["configuration"]["verdict"] == "well"
    assert enrolled.do("systemctl", "is-system-running").strip() == "running"
    together = "system-sib-agent.slice"
    group = enrolled.do("systemctl", "show", "-P", "ControlGroup", "sib-agent.service").strip()
    assert f"/{together}/" in group
    bound = enrolled.do("systemctl", "show", "-P", "MemoryMax", together).strip()
    assert int(bound) == 512 * 2**20


def test_an_edit_outlives_an_upgrade_and_is_told(enrolled: Host) -> None:
    enrolled.do("sh", "-c", "echo '# mine' >>/etc/sib/falco.yaml")
    enrolled.do("sh", "-c", "echo 'falco: {buffer_preset: 5}' >>/etc/sib/agent.yaml")
    install(enrolled, "sib-agent")
    assert "# mine" in enrolled.do("cat", "/etc/sib/falco.yaml")
    assert "buf_size_preset: 5" in enrolled.do("cat", "/etc/sib/falco.yaml.new")
    assert "was edited" in doctor(enrolled)["file"]["problem"]
    enrolled.do("sib-agent", "setup", "--force", "--quiet")
    assert "buf_size_preset: 5" in enrolled.do("cat", "/etc/sib/falco.yaml")


def switch_bundle(host: Host, version: int, rules: str) -> None:
    """As the bundle client: the agent's user, who has no power over Falco."""
    script = (
        f"set -e; cd /var/lib/sib-agent/bundles; mkdir -p {version}/rules;"
        f" cat >{version}/rules/50-x.yaml; ln -s {version} .new; mv -T .new current"
    )
    host.do("setpriv", "--reuid=sib-agent", "--regid=sib-agent", "--clear-groups",
            "sh", "-c", script, stdin=rules)  # fmt: skip


def test_falco_sees_under_its_unit_and_takes_up_a_bundle(enrolled: Host) -> None:
    component("falco", "falco")
    install(enrolled, "sib-falco")
    wait("Falco to run", lambda: active(enrolled, "sib-falco.service"), 30)

    def seen() -> bool:
        found = doctor(enrolled)
        assert active(enrolled, "sib-falco.service"), said(enrolled, "sib-falco.service")
        return "Falco saw it after" in found["event"]["problem"]

    wait("Falco to see", seen, 120)
    pid = enrolled.do("systemctl", "show", "-P", "MainPID", "sib-falco").strip()
    status = enrolled.do("cat", f"/proc/{pid}/status")
    bounds = int(status.partition("CapBnd:")[2].split()[0], 16)
    # Perfmon, bpf, sys_resource, sys_ptrace: nothing else, or less where the machine has less.
    assert bounds & ~(1 << 38 | 1 << 39 | 1 << 24 | 1 << 19) == 0
    assert "NoNewPrivs:\t1" in status

    rule = (
        '[{"rule": "Bundle on a host", "desc": "d", "output": "o %proc.cmdline",'
        ' "priority": "NOTICE", "condition": "evt.type in (execve, execveat)'
        ' and evt.res = SUCCESS and proc.args = marker-of-a-bundle"}]'
    )
    switch_bundle(enrolled, 7, rule)

    def fires() -> bool:
        enrolled.do("/bin/true", "marker-of-a-bundle")
        return "Bundle on a host" in enrolled.try_("python3", "-c", READ_METRICS).stdout

    wait("the bundle's rule to fire", fires, 60)
    assert not enrolled.do("systemctl", "--failed", "--no-legend").strip()


def test_a_falco_that_systemd_gave_up_is_started_with_the_next_bundle(enrolled: Host) -> None:
    component("falco", "falco")
    unit = "sib-falco.service"
    quick = "/run/systemd/system/sib-falco.service.d/quick.conf"
    enrolled.do("sh", "-c", f"mkdir -p {Path(quick).parent}; cat >{quick}",
                stdin="[Service]\nRestartSec=100ms\n[Unit]\nStartLimitBurst=3\n")  # fmt: skip
    enrolled.do("systemctl", "daemon-reload")

    def state() -> str:
        return enrolled.try_("systemctl", "is-active", unit).stdout.strip()

    switch_bundle(enrolled, 8, "[{rule: It cannot be loaded}]")
    wait("systemd to give up", lambda: state() == "failed", 60)
    switch_bundle(enrolled, 9, "[]")
    wait("Falco to be started", lambda: state() == "active", 60)
    # What somebody stopped is not started behind their back.
    enrolled.do("systemctl", "stop", unit)
    switch_bundle(enrolled, 10, "[]")
    told = "/run/sib-falco/reloaded"
    wait("the switch to be taken up", lambda: "10" in enrolled.do("cat", told), 60)
    assert state() == "inactive"
    enrolled.do("rm", quick)
    enrolled.do("systemctl", "daemon-reload")
    enrolled.do("systemctl", "start", unit)


def test_alloy_ships_under_its_unit(enrolled: Host) -> None:
    component("alloy", "alloy")
    install(enrolled, "sib-alloy")
    wait("Alloy to run", lambda: active(enrolled, "sib-alloy.service"), 30)
    wait("its parts", lambda: doctor(enrolled)["alloy"]["verdict"] == "well", 60)


def test_nothing_is_left_by_a_purge(enrolled: Host) -> None:
    steps = json.loads(enrolled.do("sib-agent", "uninstall", "--purge", "--dry-run", "--json"))
    stopped = [step.split()[2:] for step in steps["steps"] if step.startswith("systemctl stop ")]
    # Falco and Alloy are there only where their programs were found.
    assert [{units[0], units[-1]} for units in stopped] == [
        {"sib-agent.target", "sib-agent.service"}
    ]
    enrolled.do("sib-agent", "uninstall", "--purge", "--yes", timeout=120)
    left = enrolled.do("find", "/var/lib", "/etc", "/run", "-maxdepth", "1", "-name", "sib*")
    assert left.strip() == ""
    assert not enrolled.do("systemctl", "--failed", "--no-legend").strip()
