"""Bundles that do harm, one after another, in any order with good ones: what hosts go back to."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace as changed

from sib_protocol.bundles.archive import unpack
from sib_protocol.ids import new_host_id
from sib_protocol.messages import BundleOutcome
from sib_server.detection.bundles.publishing import Publisher, make_content
from sib_server.detection.bundles.releases import Release, Rollout, Stage
from sib_server.detection.bundles.repository import Repository
from sib_server.detection.bundles.rollout import (
    Advance,
    HostStanding,
    RolloutPolicy,
    Stop,
    judge_rollout,
    wanted_release,
)

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
MINUTE = 60 * 10**9
POLICY = RolloutPolicy(soak_ns=30 * MINUTE, silent_ns=600 * MINUTE, failed_percent=5.0)
HOSTS = [new_host_id() for _ in range(8)]


class HarmMachine(RuleBasedStateMachine):
    """Hosts take what is good, and roll back what does harm."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="sib-harm-", dir=MEMORY))
        self.now = 1_800_000_000 * 10**9
        self.repository = Repository(self.place, clock=lambda: self.now)
        self.repository.create()
        self.publisher = Publisher(self.repository, POLICY, keep=4, clock=lambda: self.now)
        self.hosts = {host: HostStanding(host, seen_ns=self.now) for host in HOSTS}
        self.count = 0

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    @property
    def rollout(self) -> Rollout:
        return self.repository.releases().rollout

    def text(self, release: Release | None) -> bytes:
        if release is None:
            return b"none"
        files = unpack(self.repository.archive(release.parts[0].sha256).read_bytes())
        return files.get("rules/a.yaml", b"none")

    @rule(harm=st.booleans(), percent=st.sampled_from([20.0, 100.0]))
    def publish(self, harm: bool, percent: float) -> None:
        self.count += 1
        text = b"%s %d" % (b"harm" if harm else b"good", self.count)
        content = make_content({"rules/a.yaml": text}, {})
        self.publisher.publish(content, hosts=list(self.hosts.values()), percent=percent)

    @rule(who=st.sets(st.sampled_from(HOSTS), min_size=1))
    def report(self, who: set[str]) -> None:
        releases = self.repository.releases()
        for host, before in self.hosts.items():
            version, ended, outcome = before.version, before.ended, before.outcome
            wanted = wanted_release(releases, host)
            if host in who and wanted is not None and wanted.version not in {version, ended}:
                ended = wanted.version
                harm = self.text(wanted).startswith(b"harm")
                outcome = BundleOutcome.ROLLED_BACK if harm else BundleOutcome.ACCEPTED
                version = version if harm else ended
            if host in who:
                self.hosts[host] = HostStanding(host, self.now, version, ended, outcome)

    @rule(minutes=st.sampled_from([1, 10, 31]))
    def judge(self, minutes: int) -> None:
        self.now += minutes * MINUTE
        # Whoever has nothing new to say says that.
        for host, standing in self.hosts.items():
            self.hosts[host] = HostStanding(
                host, self.now, standing.version, standing.ended, standing.outcome
            )
        rollout = self.rollout
        verdict = judge_rollout(rollout, list(self.hosts.values()), self.now, POLICY)
        if isinstance(verdict, Stop):
            assert rollout.candidate is not None
            back = self.publisher.stop(rollout.candidate, verdict.reason)
            assert back is not None
            assert not self.text(back).startswith(b"harm"), "it was never proven"
        elif isinstance(verdict, Advance):
            assert self.publisher.go_on(verdict.rollout)

    @rule()
    def promote(self) -> None:
        rollout = self.rollout
        if rollout.candidate is not None and rollout.stage is Stage.CANARY:
            following = changed(rollout, stage=Stage.ALL, since_ns=self.now)
            assert self.publisher.go_on(following)

    @invariant()
    def what_is_stable_does_no_harm_and_all_that_is_wanted_can_be_had(self) -> None:
        releases = self.repository.releases()
        stable = releases.find(releases.rollout.stable)
        assert (stable is None) == (releases.rollout.stable == 0)
        assert not self.text(stable).startswith(b"harm")
        fetchable = {release.version for release in releases.live()}
        for host in HOSTS:
            wanted = wanted_release(releases, host)
            assert wanted is None or wanted.version in fetchable


def test_whatever_comes_in_a_row_hosts_go_back_to_what_did_no_harm() -> None:
    run_state_machine_as_test(
        HarmMachine,
        settings=hypothesis.settings(
            max_examples=60,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )
