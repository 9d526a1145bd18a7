"""The repository, as python-tuf's own client sees it, through changes, time and crashes."""

from __future__ import annotations

import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tuf.api.exceptions import ExpiredMetadataError

from sib_protocol.bundles.archive import unpack
from sib_protocol.errors import FileAccessError
from sib_protocol.files import write_atomic
from sib_protocol.ids import new_host_id
from sib_server.detection.bundles import repository as module
from sib_server.detection.bundles.expiries import Expiries
from sib_server.detection.bundles.failures import (
    NotReadyError,
    RepositoryDamagedError,
    RepositoryMissingError,
    UnknownReleaseError,
)
from sib_server.detection.bundles.keys import KeyFileError, KeyMissingError, load_key
from sib_server.detection.bundles.metadata import whole_seconds
from sib_server.detection.bundles.publishing import Publisher, make_content
from sib_server.detection.bundles.releases import Stage
from sib_server.detection.bundles.repository import Repository
from sib_server.detection.bundles.rollout import HostStanding
from sib_server.detection.bundles.settings import BundleSettings
from sib_server.detection.bundles.shelf import load_shelf
from tests.support.tuf_client import updater

DAY = 86_400 * 10**9
# Every write is synced, which a disk makes slow and this test is not about.
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
START = 1_790_000_000 * 10**9
POLICY = BundleSettings().policy()


class CrashError(Exception):
    pass


class RepositoryMachine(RuleBasedStateMachine):
    """Whatever happens, a host that was there from the start can go on, and never goes back."""

    def __init__(self) -> None:
        super().__init__()
        self.place = Path(tempfile.mkdtemp(prefix="sib-tuf-", dir=MEMORY))
        self.now = START
        self.repository = Repository(self.place / "server", clock=lambda: self.now)
        self.publisher = Publisher(self.repository, POLICY, keep=3, clock=lambda: self.now)
        self.seen: dict[str, int] = {}
        self.count = 0

    def teardown(self) -> None:
        shutil.rmtree(self.place)

    @initialize()
    def made(self) -> None:
        assert self.repository.create()
        assert not self.repository.create()
        self.pinned = self.repository.root_path().read_bytes()

    def crashing(self, work: Callable[[], Any], after: int | None) -> None:
        """Run it, and have it die before its ``after``-th durable write."""
        if after is None:
            work()
            return
        left = [after]
        real = write_atomic

        def write(path: Path, content: bytes, mode: int = 0o640) -> None:
            if left[0] == 0:
                raise CrashError
            left[0] -= 1
            real(path, content, mode)

        with mock.patch.object(module, "write_atomic", write), suppress(CrashError):
            work()

    crashes = st.none() | st.integers(0, 5)

    @rule(percent=st.sampled_from([5.0, 100.0]), same=st.booleans(), after=crashes)
    def publish(self, percent: float, same: bool, after: int | None) -> None:
        self.count += not same
        content = make_content({"rules/10-a.yaml": b"%d" % self.count}, {"tag-web": {}})
        self.crashing(lambda: self.publisher.publish(content, percent=percent), after)

    @rule(after=crashes)
    def roll_back(self, after: int | None) -> None:
        def work() -> None:
            with suppress(UnknownReleaseError):
                self.publisher.roll_back()

        self.crashing(work, after)

    @rule(after=crashes)
    def stop(self, after: int | None) -> None:
        def work() -> None:
            candidate = self.repository.releases().rollout.candidate
            if candidate is not None:
                self.publisher.stop(candidate, "it went wrong")

        self.crashing(work, after)

    @rule(role=st.sampled_from(["root", "targets", "snapshot", "timestamp"]), after=crashes)
    def rotate(self, role: str, after: int | None) -> None:
        def work() -> None:
            with self.repository.locked():
                self.repository.rotate(role, ())

        self.crashing(work, after)

    @rule(days=st.sampled_from([0.1, 1, 9, 40]))
    def time_passes(self, days: float) -> None:
        self.now += int(days * DAY)

    @rule()
    def lost_and_put_back_from_an_hour_ago(self) -> None:
        """A backup holds fewer versions than hosts have seen; only time tells it to go above."""
        copy = self.place / "backup"
        shutil.copytree(self.repository.directory, copy)
        self.now += 3600 * 10**9
        self.publisher.publish(make_content({"rules/x.yaml": b"lost"}, {}))
        self.host_refreshes()
        shutil.rmtree(self.repository.directory)
        copy.rename(self.repository.directory)
        self.now += 10**9
        self.publisher.publish(make_content({"rules/x.yaml": b"after"}, {}))

    def host_refreshes(self) -> Any:
        client = updater(
            self.place / "host",
            self.pinned,
            lambda: load_shelf(self.repository),
            whole_seconds(self.now),
        )
        client.refresh()
        return client

    @invariant()
    def a_running_server_keeps_hosts_going(self) -> None:
        if not self.repository.exists:
            return
        with self.repository.locked():
            self.repository.refresh()
        client = self.host_refreshes()
        versions = {
            role: client._trusted_set[role].version for role in ("timestamp", "snapshot", "targets")
        }
        assert all(versions[role] >= self.seen.get(role, 0) for role in versions)
        self.seen = versions
        releases = self.repository.releases()
        rollout = releases.rollout
        assert (rollout.candidate is None) == (rollout.stage is Stage.DONE)
        history = [release.version for release in releases.history]
        assert history == sorted(set(history))
        for version in filter(None, rollout.needed()):
            release = releases.find(version)
            assert release is not None
            for part in release.parts:
                found = client.get_targetinfo(part.target)
                assert found is not None
                assert found.custom == {"version": version}
                unpack(Path(client.download_target(found)).read_bytes())


TestRepository = RepositoryMachine.TestCase
TestRepository.settings = settings(max_examples=40, stateful_step_count=10, deadline=None)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path / "bundles")
    made.create()
    return made


def test_nothing_that_signs_is_for_others_to_read(repository: Repository) -> None:
    files = list((repository.directory / "keys").iterdir())
    assert len(files) == 4
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((repository.directory / "keys").stat().st_mode) == 0o700


def test_an_exported_root_key_is_gone_and_still_signs(
    repository: Repository, tmp_path: Path
) -> None:
    stick, root = tmp_path / "stick.pem", repository.root()
    keyid = root.roles["root"].keyids[0]
    with pytest.raises(KeyFileError, match="12 characters"):
        repository.keys.export("root", keyid, stick, "short")
    repository.keys.export("root", keyid, stick, "long enough a phrase")
    assert b"ENCRYPTED" in stick.read_bytes()
    assert repository.keys.present("root", [keyid]) == []
    assert stat.S_IMODE(stick.stat().st_mode) == 0o600
    for action in (lambda: repository.renew_root(()), lambda: repository.rotate("targets", ())):
        with pytest.raises(KeyMissingError, match="root keys"):
            action()
    with pytest.raises(KeyMissingError):
        repository.keys.export("root", keyid, tmp_path / "again.pem", "long enough a phrase")
    with pytest.raises(KeyFileError, match="wrong passphrase"):
        load_key(stick, "another long phrase")
    with pytest.raises(KeyFileError, match="encrypted"):
        load_key(stick)
    with pytest.raises(FileAccessError):
        load_key(tmp_path / "none.pem")
    signer = load_key(stick, "long enough a phrase")
    assert repository.renew_root([signer]).version == 2
    assert repository.rotate("targets", [signer]).version == 3
    # What is in daily use goes on without the root key.
    with repository.locked():
        assert repository.refresh() == []


def test_content_made_from_a_bundle_that_is_not_the_newest_any_more_is_refused(
    repository: Repository,
) -> None:
    publisher = Publisher(repository, POLICY)
    first = publisher.publish(make_content({"rules/10-a.yaml": b"1"}, {}), follows=0)
    newer = publisher.publish(make_content({"rules/10-a.yaml": b"2"}, {}))
    renewed = make_content({"rules/10-a.yaml": b"1", "rules/55-intel.yaml": b"x"}, {})
    with pytest.raises(NotReadyError, match=f"bundle {newer.version} was published meanwhile"):
        publisher.publish(renewed, follows=first.version)
    assert repository.releases().newest == newer.version
    assert publisher.publish(renewed, follows=newer.version).version > newer.version


def test_a_threshold_of_root_keys_holds(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "bundles")
    repository.create(root_keys=3, root_threshold=2)
    keyids = repository.root().roles["root"].keyids
    sticks = []
    for number, keyid in enumerate(keyids):
        sticks.append(tmp_path / f"{number}.pem")
        repository.keys.export("root", keyid, sticks[-1], "long enough a phrase")
    signers = [load_key(stick, "long enough a phrase") for stick in sticks]
    with pytest.raises(KeyMissingError):
        repository.renew_root(signers[:1])
    assert repository.renew_root(signers[1:]).version == 2
    pinned = repository.root_path().read_bytes()
    # Also after all keys were replaced because one was lost: a single one never suffices.
    with pytest.raises(KeyMissingError):
        repository.rotate("root", signers[:1])
    role = repository.rotate("root", signers[:2]).roles["root"]
    assert (len(role.keyids), role.threshold) == (3, 2)
    assert not set(role.keyids) & set(keyids)
    assert len(repository.keys.present("root", role.keyids)) == 3
    updater(tmp_path / "host", pinned, lambda: load_shelf(repository)).refresh()
    with pytest.raises(KeyMissingError):
        repository.keys.export("root", keyids[0], tmp_path / "old.pem", "long enough a phrase")
    for number, keyid in enumerate(role.keyids[:2]):
        repository.keys.export("root", keyid, tmp_path / f"new{number}.pem", "long enough a phrase")
    with pytest.raises(KeyMissingError):
        repository.renew_root(signers)


def test_a_server_that_is_away_too_long_lets_hosts_wait_and_not_be_fooled(tmp_path: Path) -> None:
    now = [START]
    expiries = Expiries(timestamp=timedelta(hours=2))
    repository = Repository(tmp_path / "bundles", expiries, clock=lambda: now[0])
    repository.create()
    root = repository.root_path().read_bytes()
    now[0] += 3 * 3600 * 10**9

    def refresh() -> None:
        updater(
            tmp_path / "host", root, lambda: load_shelf(repository), whole_seconds(now[0])
        ).refresh()

    with pytest.raises(ExpiredMetadataError):
        refresh()
    with repository.locked():
        assert repository.refresh() == ["timestamp"]
    refresh()


def test_a_root_key_at_home_renews_the_root(tmp_path: Path) -> None:
    now = [START]
    repository = Repository(
        tmp_path / "bundles", Expiries(root=timedelta(days=10)), clock=lambda: now[0]
    )
    repository.create()
    now[0] += 6 * DAY
    with repository.locked():
        assert repository.refresh()[0] == "root"
    assert repository.root().version == 2


def test_damage_and_absence_are_told(repository: Repository, tmp_path: Path) -> None:
    for work in (
        lambda: Repository(tmp_path / "none").root(),
        lambda: Repository(tmp_path / "none").chain(),
        lambda: Repository(tmp_path / "none").timestamp(),
        lambda: Repository(tmp_path / "none").locked().__enter__(),
    ):
        with pytest.raises(RepositoryMissingError):
            work()
    assert load_shelf(Repository(tmp_path / "none")).root_text() is None
    (repository.directory / "releases.json").write_text("[")
    with pytest.raises(RepositoryDamagedError):
        repository.releases()
    timestamp = repository.metadata / "timestamp.json"
    timestamp.write_text("{}")
    with pytest.raises(RepositoryDamagedError, match="not TUF"):
        repository.timestamp()
    shutil.copy(repository.root_path(), timestamp)
    with pytest.raises(RepositoryDamagedError, match="not metadata of timestamp"):
        repository.timestamp()


def test_a_creation_that_was_cut_off_is_finished_with_the_same_root(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "bundles")
    real = write_atomic
    with mock.patch.object(module, "write_atomic", side_effect=[None, CrashError]) as writes:
        writes.side_effect = lambda path, content, mode: (
            real(path, content, mode)
            if "root" in path.name
            else (_ for _ in ()).throw(CrashError())
        )
        with pytest.raises(CrashError):
            repository.create()
    root = repository.root_path().read_bytes()
    assert not repository.exists
    assert repository.create()
    assert repository.root_path().read_bytes() == root


def test_what_was_published_while_another_was_judged_is_not_stopped_for_it(
    repository: Repository,
) -> None:
    publisher = Publisher(repository, POLICY)
    bad = publisher.publish(make_content({"rules/a.yaml": b"bad"}, {}))
    good = publisher.publish(make_content({"rules/a.yaml": b"good"}, {}))
    assert publisher.stop(bad.version, "hosts refused it") is None
    assert repository.releases().rollout.candidate == good.version


def test_stopping_the_first_rollout_of_all_leaves_hosts_without_rules(
    repository: Repository,
) -> None:
    publisher = Publisher(repository, POLICY)
    hosts = [HostStanding(new_host_id()) for _ in range(3)]
    first = publisher.publish(make_content({"rules/a.yaml": b"1"}, {}), hosts=hosts, percent=1.0)
    assert repository.releases().rollout.stage is Stage.CANARY
    back = publisher.stop(first.version, "all of them crashed")
    assert back is not None
    assert (back.version, back.restores) == (first.version + 1, 0)
    assert unpack(repository.archive(back.parts[0].sha256).read_bytes()) == {}
    rollout = repository.releases().rollout
    assert rollout.stopped is not None
    assert (rollout.stable, rollout.stopped.version) == (2, 1)
    assert publisher.stop(first.version, "again") is None
    assert not publisher.go_on(rollout)
    with pytest.raises(UnknownReleaseError, match="there is no bundle 77"):
        publisher.roll_back(77)
