"""What a running server does about bundles, step by step."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from starlette.requests import Request

from sib_protocol.ids import HostId, new_host_id
from sib_protocol.messages import BundleOutcome
from sib_server.detection.bundles.desk import BundleDesk
from sib_server.detection.bundles.keeper import BundleKeeper
from sib_server.detection.bundles.metrics import BundleCollector
from sib_server.detection.bundles.publishing import Publisher, make_content
from sib_server.detection.bundles.releases import Stage
from sib_server.detection.bundles.repository import Repository
from sib_server.detection.bundles.rollout import HostStanding, RolloutPolicy
from sib_server.detection.bundles.routes import BundleRoutes
from sib_server.fleet.policy import AuthenticatedHost
from sib_server.state.database import StateUnavailableError

POLICY = RolloutPolicy(soak_ns=0, silent_ns=300 * 10**9, failed_percent=5.0)


class Server:
    def __init__(self, directory: Path) -> None:
        self.repository = Repository(directory / "bundles")
        self.desk = BundleDesk(10.0)
        self.hosts: list[HostStanding] = []
        self.keeper = self.make()

    def make(self) -> BundleKeeper:
        return BundleKeeper(self.repository, self.desk, lambda: self.hosts, POLICY)

    def step(self) -> None:
        # Rollouts are judged every few seconds; here at once.
        self.keeper._judge_at = 0.0
        asyncio.run(self.keeper.step())

    def publish(self, text: bytes, percent: float = 100.0) -> int:
        content = make_content({"rules/a.yaml": text}, {})
        publisher = Publisher(self.repository, POLICY)
        return publisher.publish(content, hosts=self.hosts, percent=percent).version


@pytest.fixture
def server(tmp_path: Path) -> Server:
    return Server(tmp_path)


def test_a_repository_that_is_made_later_is_served(server: Server) -> None:
    server.step()
    assert server.desk.root() is None
    server.repository.create()
    server.step()
    assert server.desk.root() == server.repository.root_path().read_text()
    before = server.desk.shelf
    server.step()
    assert server.desk.shelf is before
    with server.repository.locked():
        server.repository.rotate("root", ())
    server.step()
    assert server.desk.shelf.root == 2


def test_a_rollout_goes_on_to_all_and_to_its_end(server: Server) -> None:
    server.repository.create()
    host = HostId(new_host_id())
    server.hosts = [HostStanding(host, time.time_ns())]
    version = server.publish(b"1", 1.0)
    server.step()
    server.step()
    assert server.desk.shelf.releases.rollout.stage is Stage.CANARY
    for stage in (Stage.ALL, Stage.DONE):
        server.hosts = [HostStanding(host, time.time_ns(), version)]
        server.step()
        server.step()
        assert server.desk.shelf.releases.rollout.stage is stage
    assert server.desk.shelf.releases.rollout.stable == version


def test_a_rollout_that_fails_is_stopped(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.repository.create()
    host = HostId(new_host_id())
    server.hosts = [HostStanding(host, time.time_ns())]
    version = server.publish(b"1", 1.0)
    outcome = BundleOutcome.UNPROVEN
    server.hosts = [HostStanding(host, time.time_ns(), 0, version, outcome, "its clock")]
    server.step()
    server.step()
    assert server.desk.shelf.releases.rollout.stopped is None
    outcome = BundleOutcome.ROLLED_BACK
    server.hosts = [HostStanding(host, time.time_ns(), 0, version, outcome, "a storm")]
    server.step()
    server.step()
    stopped = server.desk.shelf.releases.rollout.stopped
    assert stopped is not None
    assert (stopped.version, stopped.reason) == (
        version,
        "1 of 1 hosts refused it or rolled it back: a storm",
    )
    assert f"the rollout of bundle {version} is stopped" in caplog.text


def test_a_server_without_keys_serves_and_says_it_once(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    server.repository.create()
    server.publish(b"1")
    shutil.rmtree(server.repository.keys.directory)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            server.keeper._sign_at = 0.0
            server.step()
    assert len(server.desk.shelf.targets) == 1
    assert caplog.text.count("there are not enough targets keys") == 1
    assert server.keeper.problem is not None


def routes(server: Server) -> BundleRoutes:
    async def nobody(_request: Request) -> AuthenticatedHost:
        raise AssertionError

    return BundleRoutes(server.desk, nobody)


def test_metrics_say_how_hosts_are(server: Server) -> None:
    server.repository.create()
    server.hosts = [HostStanding(HostId(new_host_id())) for _ in range(2)]
    version = server.publish(b"1")
    server.step()
    collector = BundleCollector(server.desk, routes(server), lambda: server.hosts)
    registry = CollectorRegistry()
    registry.register(collector)
    asyncio.run(collector.refresh())
    page = generate_latest(registry).decode()
    assert 'sib_server_bundle_hosts{state="untold"} 2.0' in page
    assert f'sib_server_bundle_version{{rollout="candidate"}} {version}.0' in page
    assert "sib_server_bundle_published_seconds" in page
    asyncio.run(collector.refresh())

    def away() -> list[HostStanding]:
        raise StateUnavailableError("sqlite://", "away")

    gone = BundleCollector(server.desk, routes(server), away)
    asyncio.run(gone.refresh())
    assert not any(
        metric.samples for metric in gone.collect() if metric.name == "sib_server_bundle_hosts"
    )
