"""Bundles from a real server: who gets what, and who gets nothing."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sib_protocol.messages import (
    BundleHealth,
    HealthAnswer,
    HealthReport,
    SpoolHealth,
    WantedBundle,
    decode_message,
    encode_message,
)
from tests.support.components import get
from tests.support.lab import Server
from tests.support.proxy import wait_for
from tests.support.wire import Attacker, Host, Wire, fresh

pytestmark = pytest.mark.timeout(120)

WANTED = "/v1/bundle/wanted"
METADATA = "/v1/bundle/metadata/"
TARGETS = "/v1/bundle/targets/"


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("publisher") / "server", {"bundles": {"transfers": 2}})
    running.start()
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()


@pytest.fixture(scope="module")
def hosts(publisher: Server) -> Iterator[Attacker]:
    made = Attacker(publisher)
    yield made
    made.close()


def rule_set(server: Server, text: bytes) -> Path:
    folder = server.directory / "compiled"
    (folder / "rules").mkdir(parents=True, exist_ok=True)
    (folder / "rules" / "10-own.yaml").write_bytes(text)
    return folder


def report(wire: Wire, bundle: BundleHealth | None) -> HealthAnswer:
    spool = SpoolHealth("5f0c6f0e-6b6e-4f2f-9d3a-3f1f5d3c8a11", 0, 0, 0, 1, 0.0, 0)
    body = encode_message(HealthReport("0.1.0", 1.0, time.time_ns(), 0, spool, bundle=bundle))
    answer = wire.ask("POST", "/v1/health", body)
    assert answer.status == 200
    return decode_message(answer.body, HealthAnswer)


def published(server: Server, hosts: Attacker, host: Host, text: bytes, *more: str) -> HealthAnswer:
    """Publish, and wait until a running server tells of it."""
    folder = rule_set(server, text)
    done = server.cli("bundle", "publish", "--from", str(folder), "--json", *more)
    version = json.loads(done.stdout)["published"]

    def told() -> bool:
        found = report(hosts.wire(host), BundleHealth(0)).bundle
        return found is not None and found.version == version

    wait_for("the server tells of it", told, 20)
    return report(hosts.wire(host), BundleHealth(0))


def test_a_host_is_told_and_fetches_and_a_stranger_or_a_removed_one_gets_nothing(
    publisher: Server, hosts: Attacker
) -> None:
    host = fresh(hosts)
    wire = hosts.wire(host)
    assert report(wire, BundleHealth(0)).bundle is None
    assert wire.ask("GET", WANTED).status == 204
    # A running server notices that the repository was made.
    publisher.cli("bundle", "init")
    answer = published(publisher, hosts, host, b"- list: one\n  items: []\n")
    assert answer.bundle is not None
    (target,) = answer.bundle.targets
    # What the report was answered can be asked for, and whether it still holds.
    asked = wire.ask("GET", WANTED)
    assert asked.headers["etag"] == answer.bundle.etag()
    assert decode_message(asked.body, WantedBundle) == answer.bundle
    same = wire.ask("GET", WANTED, headers={"If-None-Match": answer.bundle.etag()})
    assert (same.status, same.body, same.headers["etag"]) == (304, b"", answer.bundle.etag())
    other = WantedBundle(answer.bundle.version, ())
    assert wire.ask("GET", WANTED, headers={"If-None-Match": other.etag()}).status == 200
    timestamp = wire.ask("GET", METADATA + "timestamp.json")
    assert timestamp.status == 200
    snapshot = timestamp.json()["signed"]["meta"]["snapshot.json"]["version"]
    meta = wire.ask("GET", f"{METADATA}{snapshot}.snapshot.json").json()["signed"]["meta"]
    targets = wire.ask("GET", f"{METADATA}{meta['targets.json']['version']}.targets.json").json()
    digest = targets["signed"]["targets"][target]["hashes"]["sha256"]
    part = wire.ask("GET", f"{TARGETS}{digest}.{target}")
    assert (part.status, len(part.body)) == (200, targets["signed"]["targets"][target]["length"])
    again = wire.ask(
        "GET", f"{TARGETS}{digest}.{target}", headers={"If-None-Match": part.headers["etag"]}
    )
    assert (again.status, again.body) == (304, b"")
    etag = {"If-None-Match": f'"other", {timestamp.headers["etag"]}'}
    assert wire.ask("GET", METADATA + "timestamp.json", headers=etag).status == 304

    for path in (WANTED, METADATA + "timestamp.json", f"{TARGETS}{digest}.{target}"):
        stranger = hosts.wire().ask("GET", path)
        assert (stranger.status, stranger.error) == (401, "certificate_required")
    gone = fresh(hosts)
    before = hosts.wire(gone)
    assert before.ask("GET", METADATA + "timestamp.json").status == 200
    publisher.cli("host", "remove", gone.name, "--yes")
    for path in (WANTED, METADATA + "timestamp.json", f"{TARGETS}{digest}.{target}"):
        assert before.ask("GET", path).status in {401, 403}


@pytest.mark.parametrize(
    "path",
    [
        METADATA + "releases.json",
        METADATA + "..%2freleases.json",
        METADATA + "../keys/root.pem",
        METADATA + "%2e%2e%2fkeys",
        METADATA + "99.root.json",
        METADATA,
        TARGETS + "1.base.tar.gz",
        TARGETS + "..%2f..%2fstate.db",
        TARGETS + "%00",
        TARGETS + "a" * 5000,
    ],
)
def test_only_what_is_published_can_be_named(publisher: Server, hosts: Attacker, path: str) -> None:
    publisher.cli("bundle", "init")
    answer = hosts.wire(fresh(hosts)).ask("GET", path)
    assert (answer.status, "error" in answer.json()) == (404, True)


def test_a_slow_reader_has_one_transfer_and_costs_no_memory(
    publisher: Server, hosts: Attacker
) -> None:
    publisher.cli("bundle", "init")
    # More than the kernel's buffers on both sides hold.
    big = random.Random(1).randbytes(6_500_000).hex().encode()
    host = fresh(hosts)
    answer = published(publisher, hosts, host, b"- list: x\n  items: []\n# " + big)
    assert answer.bundle is not None
    shelf = {
        name: part["sha256"]
        for name, part in json.loads(
            publisher.cli("bundle", "status", "--json", check=False).stdout
        )["releases"][0]["parts"].items()
    }
    path = f"{TARGETS}{shelf['base']}.{answer.bundle.targets[0]}"
    slow = [hosts.wire(host), hosts.wire(fresh(hosts))]
    for wire in slow:
        # Asked for, and not read.
        wire.send(f"GET {path} HTTP/1.1\r\nHost: sib\r\n\r\n".encode())
        wire.socket.recv(1)
    time.sleep(0.3)
    second = hosts.wire(host).ask("GET", path)
    assert (second.status, second.error) == (503, "too_many_transfers")
    assert "retry-after" in second.headers
    third = hosts.wire(fresh(hosts)).ask("GET", path)
    assert (third.status, third.error) == (503, "too_many_transfers")
    for wire in slow:
        wire.close()

    def free() -> bool:
        return hosts.wire(fresh(hosts)).ask("GET", path).status == 200

    wait_for("the places are free again", free, 20)
    page = get(f"http://127.0.0.1:{publisher.metrics_port}/metrics").decode()
    assert "sib_server_bundle_parts_refused_total 2.0" in page
    assert 'sib_server_bundle_hosts{state="lagging"}' in page
    assert 'sib_server_bundle_version{rollout="candidate"}' in page


def test_what_a_host_says_of_its_bundle_is_shown(publisher: Server, hosts: Attacker) -> None:
    publisher.cli("bundle", "init")
    host = fresh(hosts)
    answer = published(publisher, hosts, host, b"- list: shown\n  items: []\n", "--force")
    assert answer.bundle is not None
    report(hosts.wire(host), BundleHealth(answer.bundle.version, engine="0.44.1"))
    (view,) = [
        one
        for one in json.loads(publisher.cli("host", "list", "--json").stdout)
        if one["name"] == host.name
    ]
    assert view["bundle"]["version"] == answer.bundle.version
    status = json.loads(publisher.cli("bundle", "status", "--json", check=False).stdout)
    assert status["hosts"]["versions"][str(answer.bundle.version)] >= 1
    assert status["roles"]["root"]["keys_here"] == 1
