"""Setup on a host that boots: in its sandbox, at the first start and later, until the purge."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.built import build
from tests.e2e.hosts import Host, Network, base, wait
from tests.support.components import component

STORES = ("loki", "prometheus", "falcosidekick")
READ_RULES = "import urllib.request as u;print(u.urlopen('http://127.0.0.1:3100/loki/api/v1/rules').read().decode())"
SIGMA = """
title: Somebody read the shadow file
id: 5f3c2d0e-0000-4000-8000-000000000001
status: test
logsource: {product: linux, service: auth}
detection: {words: ['pam_unix(sudo:auth): authentication failure'], condition: words}
level: high
"""

# Not Grafana, which cannot be had here: it reads what the unit hands over, as Grafana would.
READER = """#!/bin/sh
set -eu
for path in $(sed -n 's/.*$__file{\\(.*\\)}.*/\\1/p' /etc/sib/grafana.ini); do
    test -n "$(cat "$path")"
done
for path in /etc/sib/secrets/grafana-admin-password /etc/sib/loki.yaml; do
    if cat "$path" >/dev/null 2>&1; then exit 1; fi
done
test -d /etc/sib/grafana/provisioning/datasources
touch /var/lib/sib-grafana/works
exec sleep infinity
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def host(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Host]:
    """A booted host with the packages in /root: the server's, and those of the real stores."""
    for name in STORES:
        component(name, name)
    packages: Path = request.getfixturevalue("packages")
    given = tmp_path_factory.mktemp("given") / "grafana" / "grafana"
    given.parent.mkdir()
    given.write_text(READER)
    given.chmod(0o755)
    reader = tmp_path_factory.mktemp("reader")
    build(reader, ["grafana"], "--components", str(given.parents[1]))
    network = Network(f"sibs{os.getpid() % 1000}")
    made = Host(network, "server", "10.77.0.2", base("bookworm"), tmp_path_factory.mktemp("hosts"))
    try:
        found = [packages.glob(f"sib-{name}_*.deb") for name in ("server", *STORES)]
        for (package,) in (*found, reader.glob("sib-grafana_*.deb")):
            shutil.copy(package, made.root / "root")
        made.boot()
        yield made
    finally:
        made.close()
        network.close(made.namespace)


def active(host: Host, unit: str) -> bool:
    return host.try_("systemctl", "is-active", unit).stdout.strip() == "active"


def started(host: Host) -> dict[str, str]:
    """When each of the services was started last."""
    units = [f"sib-{name}.service" for name in (*STORES, "server")]
    return {
        unit: host.do("systemctl", "show", "-P", "ExecMainStartTimestampMonotonic", unit).strip()
        for unit in units
    }


def files(host: Host) -> str:
    return host.do(
        "sh",
        "-c",
        "find /etc/sib /var/lib/sib-server-setup -type f -printf '%p %T@ %i %s\\n' | sort",
    )


def settle(host: Host) -> None:
    def quiet() -> bool:
        jobs = host.try_("systemctl", "list-jobs", "--no-legend", "sib-*").stdout.strip()
        return not jobs and all(active(host, f"sib-{name}.service") for name in (*STORES, "server"))

    wait("every service to be up", quiet, 90)


def test_one_installation_and_all_of_it_runs(host: Host) -> None:
    host.do(
        *("sh", "-c", "cd /root; dpkg -i $(ls sib-*.deb | grep -v grafana)"),
        timeout=300,
    )
    settle(host)
    said = host.do("journalctl", "--no-pager", "-u", "sib-server-setup.service")
    assert "Traceback" not in said
    assert "failed " not in said, said
    assert host.do("systemctl", "is-system-running").strip() == "running"
    text = host.do("find", "/etc/sib", "-type", "f", "-printf", "%P %u:%g %m\n")
    assert dict(line.split(" ", 1) for line in text.splitlines()) == {
        "server.yaml": "root:sib-server 640",
        "server.d/stack.yaml": "root:sib-server 640",
        "loki.yaml": "root:sib-loki 640",
        "prometheus.yaml": "root:sib-prometheus 640",
        "prometheus.env": "root:sib-prometheus 640",
        "falcosidekick.yaml": "root:sib-falcosidekick 640",
    }
    # What the server's user needs is the server's user's: root made nothing there.
    owners = host.do("find", "/var/lib/sib-server", "-printf", "%u\n").split()
    assert set(owners) == {"sib-server"}
    # From other machines there is the server's one port, and nothing else.
    listening = host.do("cat", "/proc/net/tcp", "/proc/net/tcp6")
    found = re.findall(r"(?m)^ *\d+: ([0-9A-F]+):([0-9A-F]{4}) [0-9A-F:]+ 0A ", listening)
    assert {int(port, 16) for address, port in found if not address.endswith("0100007F")} == {8443}


def test_a_second_setup_touches_nothing(host: Host) -> None:
    before = files(host), started(host)
    done = host.try_("sib-server", "setup", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)["report"]
    assert {change["action"] for change in report["files"]} == {"unchanged"}
    assert report["services"] == []
    # The one of the unit, in its sandbox.
    host.do("systemctl", "start", "sib-server-setup.service")
    assert (files(host), started(host)) == before


def test_a_changed_setting_restarts_what_reads_it(host: Host) -> None:
    before = started(host)
    host.do("sh", "-c", "echo 'stack: {loki: {retention_days: 9}}' >>/etc/sib/server.yaml")
    host.do("sib-server", "setup")
    settle(host)
    after = started(host)
    assert {unit for unit in after if after[unit] != before[unit]} == {"sib-loki.service"}
    assert "216h" in host.do("cat", "/etc/sib/loki.yaml")


def test_lokis_ruler_reads_imported_sigma_rules_and_nothing_else_of_the_server(host: Host) -> None:
    # Root's command works as the server's user, who cannot look into /root.
    (host.root / "srv/rule.yml").write_text(SIGMA)
    host.do("sib-server", "sigma", "import", "/srv/rule.yml")
    folder = "/var/lib/sib-server/sigma/ruler"
    assert host.do("stat", "-c", "%U:%G %a", folder).strip() == "sib-server:sib-loki 2750"
    assert host.do("stat", "-c", "%U:%G %a", f"{folder}/sigma.yaml").strip() == (
        "sib-server:sib-loki 640"
    )
    host.do("systemctl", "restart", "sib-loki.service")

    def loaded() -> bool:
        return "Somebody read" in host.try_("python3", "-c", READ_RULES).stdout

    wait("the ruler to have the rule", loaded, 60)
    pid = host.do("systemctl", "show", "-P", "MainPID", "sib-loki").strip()
    denied = host.try_(
        *("setpriv", "--reuid=sib-loki", "--regid=sib-loki", "--clear-groups"),
        *("ls", f"/proc/{pid}/root/var/lib/sib-server/journal"),
    )
    assert denied.returncode != 0


def test_a_package_that_comes_later_is_taken_up_with_its_secrets_for_it_alone(host: Host) -> None:
    before = started(host)
    host.do("sh", "-c", "dpkg -i /root/sib-grafana_*.deb", timeout=120)
    works = host.root / "var/lib/sib-grafana/works"
    wait("what stands in for Grafana to have read all", works.exists, 30)
    settle(host)
    assert active(host, "sib-grafana.service")
    text = host.do(
        *("find", "/etc/sib", "-type", "f", "(", "-path", "*grafana*", ")"),
        *("-printf", "%P %u:%g %m\n"),
    )
    provisioned = {"datasources/sib.yaml"}
    if (host.root / "usr/share/sib-server/dashboards").is_dir():
        provisioned.add("dashboards/sib.yaml")
    assert set(text.splitlines()) == {
        "grafana.ini root:sib-grafana 640",
        *(f"grafana/provisioning/{name} root:sib-grafana 640" for name in provisioned),
        "secrets/grafana-admin-password root:root 600",
        "secrets/grafana-secret-key root:root 600",
    }
    password = (host.root / "etc/sib/secrets/grafana-admin-password").read_text().strip()
    pid = host.do("systemctl", "show", "-P", "MainPID", "sib-grafana").strip()
    assert password not in host.do("cat", f"/proc/{pid}/environ", f"/proc/{pid}/cmdline")
    assert password not in host.do("journalctl", "--no-pager", "-o", "export")
    # Prometheus asks Grafana from now on, and was only told to reload; nobody else was told.
    assert "127.0.0.1:3000" in host.do("cat", "/etc/sib/prometheus.yaml")
    assert started(host) == before


def test_what_is_turned_off_stops_and_the_server_goes_on_without(host: Host) -> None:
    host.do("sed", "-i", "s/^stack:.*/stack: {loki: {use: 'off'}}/", "/etc/sib/server.yaml")
    host.do("sib-server", "setup")
    wait("Loki to stop", lambda: not active(host, "sib-loki.service"), 60)
    wait("the server to be back", lambda: active(host, "sib-server.service"), 60)
    assert "loki" not in host.do("cat", "/etc/sib/server.d/stack.yaml")
    # Its condition is not met, which is no failure.
    host.do("systemctl", "start", "sib-loki.service")
    assert not active(host, "sib-loki.service")
    assert host.do("systemctl", "is-system-running").strip() == "running"


def test_a_purge_leaves_what_an_administrator_wrote(host: Host) -> None:
    host.do("sh", "-c", "echo '# mine' >/etc/sib/outputs.yaml")
    packages = [f"sib-{name}" for name in (*STORES, "grafana", "server")]
    host.do("dpkg", "-P", *packages, timeout=120)
    assert host.do("find", "/etc/sib", "-type", "f").split() == ["/etc/sib/outputs.yaml"]
    assert host.do("sh", "-c", "ls -d /var/lib/sib-* 2>/dev/null || :") == ""
