"""Bundles that a host must refuse, from a server in an attacker's hands that has its TLS key.

The agent's own code fetches over real TLS; only what the server holds is the attacker's.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import itertools
import json
import os
import tarfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from click.testing import CliRunner, Result
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from sib_agent.bundles import pulling
from sib_agent.bundles.engine import Falco
from sib_agent.bundles.fetching import BundleSource, Fetched, NotFetched
from sib_agent.bundles.keeping import BundleKeeper
from sib_agent.bundles.pulling import UnfitBundleError, UnprovenBundleError, pull, refresh
from sib_agent.bundles.store import BundleStore
from sib_agent.bundles.watching import WatchLimits
from sib_agent.cli import main
from sib_agent.client import (
    ServerBusyError,
    ServerClient,
    ServerRefusedError,
    ServerUnreachableError,
)
from sib_agent.enrollment import enroll, renew
from sib_agent.settings import FalcoSettings
from sib_protocol.bundles.archive import LIMITS
from sib_protocol.errors import ExitCode, MalformedMessageError
from sib_protocol.identity import IdentityStore, identity_context
from sib_protocol.ids import HostName
from sib_protocol.limits import MAX_MESSAGE_BYTES
from sib_protocol.messages import BundleHealth, WantedBundle
from sib_server.detection.bundles.expiries import Expiries
from sib_server.detection.bundles.publishing import Content, Publisher, make_content
from sib_server.detection.bundles.repository import Repository
from sib_server.detection.bundles.settings import BundleSettings
from sib_server.detection.bundles.shelf import load_shelf
from tests.support.live import LiveServer

pytestmark = pytest.mark.timeout(120)

POLICY = BundleSettings().policy()

Answer = bytes | Callable[[], Response]
DAY = 86_400 * 10**9


@dataclass
class Hostile:
    """What answers in place of the server's bundle routes."""

    files: dict[str, Answer] = field(default_factory=dict)
    pinned: str | None = None
    connections: set[Any] = field(default_factory=set)
    said: Response = field(default_factory=lambda: Response(status_code=204))
    tags: list[str | None] = field(default_factory=list)

    def root(self) -> str | None:
        return self.pinned

    def wanted(self, _host: Any, _has: BundleHealth | None) -> WantedBundle | None:
        return None

    async def answer(self, request: Request) -> Response:
        self.connections.add(request.client)
        found = self.files.get(request.path_params["name"])
        if found is None:
            return Response(b'{"error":"no_such_file","problem":"no"}', 404)
        return Response(found) if isinstance(found, bytes) else found()

    async def say(self, request: Request) -> Response:
        self.tags.append(request.headers.get("if-none-match"))
        return self.said

    def routes(self) -> list[Route]:
        return [
            Route("/v1/bundle/wanted", self.say),
            *(
                Route(f"/v1/bundle/{kind}/{{name}}", self.answer)
                for kind in ("metadata", "targets")
            ),
        ]

    def serve(self, repository: Repository) -> None:
        shelf = load_shelf(repository)
        self.files = {
            name: document.content
            for name, document in (*shelf.metadata.items(), *shelf.targets.items())
        }

    def change(self, end: str, how: Callable[[bytes], Answer]) -> None:
        """Change what answers to every name with an ending."""
        for name, content in self.files.items():
            if name.endswith(end):
                assert isinstance(content, bytes)
                self.files[name] = how(content)


@dataclass
class Lab:
    server: Hostile
    repository: Repository
    identities: IdentityStore
    store: BundleStore
    live: LiveServer

    def publish(self, *, files: dict[str, bytes] | None = None) -> int:
        content = make_content(files or {"rules/10-own.yaml": b"%d" % time.time_ns()}, {})
        return self.publish_archives(content)

    def publish_archives(self, content: Content) -> int:
        version = Publisher(self.repository, POLICY).publish(content).version
        self.server.serve(self.repository)
        return version

    def pull(self, version: int, *targets: str) -> dict[str, str]:
        return pull(self.identities, self.store, version, targets or (f"{version}.base.tar.gz",))


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    repository = Repository(tmp_path / "repository")
    repository.create()
    server = Hostile(pinned=repository.root_path().read_text())
    live = LiveServer(tmp_path, more_routes=server.routes(), bundles=server)
    identities = IdentityStore(tmp_path / "identity")
    enroll(live.token(), HostName("web-1"), identities)
    store = BundleStore(tmp_path / "bundles", tmp_path / "state")
    store.prepare()
    yield Lab(server, repository, identities, store, live)
    live.close()


def refused(lab: Lab, version: int, why: str, *targets: str, unfit: bool = False) -> None:
    before = lab.store.disk()
    with pytest.raises(UnfitBundleError if unfit else UnprovenBundleError, match=why):
        lab.pull(version, *targets)
    assert lab.store.disk() == before
    assert list(lab.store.state.glob("staging-*")) == []


def test_a_signed_bundle_is_taken_with_a_tags_part(lab: Lab) -> None:
    content = make_content({"rules/10-a.yaml": b"a"}, {"tag-web": {"rules/80-web.yaml": b"w"}})
    version = lab.publish_archives(content)
    targets = [f"{version}.base.tar.gz", f"{version}.tag-web.tar.gz"]
    assert lab.pull(version, *targets) == content.digests()
    assert len(lab.server.connections) == 1, "a handshake is what a pull costs a server most"
    place = lab.store.bundles / str(version) / "rules"
    assert sorted(path.name for path in place.iterdir()) == ["10-a.yaml", "80-web.yaml"]
    assert [path.stat().st_mode & 0o777 for path in (place, place / "10-a.yaml")] == [0o750, 0o640]
    # The same again is no harm, and later ones follow from it, also over new roots.
    lab.pull(version, *targets)
    for role in ("targets", "snapshot", "timestamp", "root"):
        lab.repository.rotate(role, ())
        following = lab.publish()
        lab.pull(following)


def test_unsigned(lab: Lab) -> None:
    version = lab.publish()

    def strip(content: bytes) -> bytes:
        tree = json.loads(content)
        return json.dumps({**tree, "signatures": []}).encode()

    for role in ("timestamp", "snapshot", "targets"):
        lab.server.serve(lab.repository)
        lab.server.change(f"{role}.json", strip)
        refused(lab, version, f"{role} was signed by 0/1 keys")


def test_signed_and_then_changed(lab: Lab) -> None:
    version = lab.publish()
    lab.server.change(
        "targets.json", lambda content: content.replace(b'"version":1', b'"version":2')
    )
    refused(lab, version, "signed by 0/1")


@pytest.mark.parametrize("with_root", [False, True])
def test_the_wrong_key(lab: Lab, tmp_path: Path, with_root: bool) -> None:
    version = lab.publish()
    lab.pull(version)
    other = Repository(tmp_path / "other")
    other.create()
    if with_root:
        # An attacker's own root, in the place of the next one.
        for _ in range(3):
            other.renew_root(())
    Publisher(other, POLICY).publish(make_content({"rules/evil.yaml": b""}, {}), above=version)
    lab.server.serve(other)
    refused(lab, version + 1, "was signed by 0/1 keys")


def test_a_root_that_the_server_offers_later_is_not_taken(lab: Lab, tmp_path: Path) -> None:
    pinned = lab.identities.bundle_root()
    other = Repository(tmp_path / "other")
    other.create()
    lab.server.pinned = other.root_path().read_text()
    renew(lab.identities)
    assert lab.identities.bundle_root() == pinned
    version = Publisher(other, POLICY).publish(make_content({"rules/evil.yaml": b""}, {})).version
    lab.server.serve(other)
    refused(lab, version, "was signed by 0/1 keys")


def test_without_a_pinned_root_nothing_is_taken_until_it_renews(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "repository")
    repository.create()
    server = Hostile()
    live = LiveServer(tmp_path, more_routes=server.routes(), bundles=server)
    identities = IdentityStore(tmp_path / "identity")
    enroll(live.token(), HostName("web-1"), identities)
    store = BundleStore(tmp_path / "bundles", tmp_path / "state")
    store.prepare()
    lab = Lab(server, repository, identities, store, live)
    try:
        version = lab.publish()
        refused(lab, version, "until it renews")
        server.pinned = repository.root_path().read_text()
        renew(identities)
        lab.pull(version)
    finally:
        live.close()


def newest(lab: Lab, role: str) -> str:
    """The name of a role's newest metadata file."""
    names = [name for name in lab.server.files if name.endswith(f".{role}.json")]
    return max(names, key=lambda name: int(name.partition(".")[0]))


def test_an_older_one(lab: Lab) -> None:
    first = lab.publish()
    old = dict(lab.server.files)
    # Two more: the one before the newest stays signed, for the hosts that the newest harms.
    lab.publish()
    lab.pull(lab.publish())
    new = dict(lab.server.files)
    lab.server.files = old
    refused(lab, first, "version")
    # Also where only the timestamp is new, and it names the old rest.
    lab.server.files = {**old, "timestamp.json": new["timestamp.json"]}
    refused(lab, first, "not among the signed targets")


@pytest.mark.parametrize("role", ["snapshot", "targets"])
def test_an_old_list_behind_a_new_timestamp(lab: Lab, role: str) -> None:
    """A host that has seen nothing yet: only what the timestamp says keeps it from the old one."""
    first = lab.publish()
    old = dict(lab.server.files)
    old_name = newest(lab, role)
    for _ in range(2):
        lab.publish()
    lab.server.files = {**old, **lab.server.files, newest(lab, role): old[old_name]}
    refused(lab, first, f"{role} version|{role} v")


@dataclass
class Pulling:
    """The server, to a keeper in this process."""

    lab: Lab

    def ask(self, known: WantedBundle | None) -> WantedBundle | None:
        return known

    def fetch(self, wanted: WantedBundle) -> Fetched | NotFetched:
        return Fetched(self.lab.pull(wanted.version))

    def refresh(self) -> NotFetched | None:
        try:
            refresh(self.lab.identities, self.lab.store)
        except UnprovenBundleError as error:
            return NotFetched(error.problem, proven_bad=True)
        return None


def test_the_one_before_is_still_signed_and_not_taken_by_a_host_that_went_on(lab: Lab) -> None:
    """TUF vouches for both halves of a rollout; that a host only goes up is its own rule."""
    first, second = lab.publish(), lab.publish()
    keeper = BundleKeeper(
        lab.store,
        Falco(FalcoSettings(enabled=False)),
        Pulling(lab),
        lambda: 0,
        limits=WatchLimits(comeback_seconds=1.0, probation_seconds=1.0, storm=1000.0),
        trust=lambda: "root",
        steady=itertools.count(1000.0, 5.0).__next__,
    )
    keeper.open()

    def settle(version: int) -> BundleHealth:
        keeper.told(WantedBundle(version, (f"{version}.base.tar.gz",)), 26.0)
        for _ in range(20):
            keeper.step()
        return keeper.health()

    assert settle(second).version == second
    assert lab.pull(first)
    health = settle(first)
    assert health.version == second
    assert health.ended is not None
    assert health.ended.reason == f"it is older than bundle {second}, seen before"
    assert lab.store.disk().current == second


def test_who_keeps_bundles_back_is_noticed_when_signatures_grow_old(lab: Lab) -> None:
    """A frozen server names nothing new; all that betrays it is time."""
    first = lab.publish()
    life = 4
    soon = Repository(
        lab.repository.directory,
        Expiries(timestamp=timedelta(days=1)),
        clock=lambda: time.time_ns() - DAY + life * 10**9,
    )
    with soon.locked():
        soon.commit(soon.releases())
    lab.server.serve(soon)
    steady = itertools.count(1000.0, 600.0).__next__
    root = lab.identities.bundle_root()
    assert root is not None
    keeper = BundleKeeper(
        lab.store,
        Falco(FalcoSettings(enabled=False)),
        Pulling(lab),
        lambda: 0,
        limits=WatchLimits(comeback_seconds=1.0, probation_seconds=1.0, storm=1000.0),
        trust=lambda: hashlib.sha256(root).hexdigest(),
        steady=steady,
    )
    keeper.open()
    wanted = WantedBundle(first, (f"{first}.base.tar.gz",))

    def held_back() -> str | None:
        for _ in range(20):
            keeper.told(wanted, 26.0)
            keeper.step()
        return keeper.health().withheld

    held_back()
    assert keeper.health().version == first
    time.sleep(life)
    assert "timestamp.json is expired" in str(held_back())
    # What is fresh again is passed on, and that it names others only is seen, too.
    for _ in range(3):
        newest = lab.publish()
    found = str(held_back())
    assert found.startswith(f"the server says bundle {first}, and what it signs says")
    wanted = WantedBundle(newest, (f"{newest}.base.tar.gz",))
    assert held_back() is None
    assert keeper.health().version == newest


def test_whatever_answers_the_question_a_host_goes_on(lab: Lab) -> None:
    client = ServerClient(
        lab.identities.load().servers, lambda: identity_context(lab.identities), timeout=10.0
    )
    source, known = BundleSource(client), WantedBundle(7, ("7.base.tar.gz",))
    try:
        assert source.ask(None) is None
        lab.server.said = Response(status_code=304)
        assert source.ask(known) is known
        assert source.ask(None) is None
        assert lab.server.tags == [None, known.etag(), None]
        lab.server.said = Response(b'{"version": 8, "targets": ["8.base.tar.gz"], "new": 1}')
        assert source.ask(known) == WantedBundle(8, ("8.base.tar.gz",))
        for body in (b"", b"[]", b'{"version": "8", "targets": 7}', b"\xff", b"[" * 100_000):
            lab.server.said = Response(body)
            with pytest.raises(MalformedMessageError):
                source.ask(known)
        lab.server.said = Response(b" " * (MAX_MESSAGE_BYTES + 1))
        with pytest.raises(ServerUnreachableError, match="far too long"):
            source.ask(known)
        lab.server.said = Response(b"", 404)
        with pytest.raises(ServerRefusedError):
            source.ask(known)
    finally:
        client.close()


def test_the_command_refreshes_what_was_proven(lab: Lab, tmp_path: Path) -> None:
    """What the daemon starts; its exit code is how it hears of a freeze."""
    lab.publish()
    settings = tmp_path / "agent.yaml"
    tree = {
        "identity": {"directory": str(tmp_path / "identity")},
        "falco": {"bundles": str(lab.store.bundles)},
        "bundles": {"state": str(lab.store.state)},
    }
    settings.write_text(json.dumps(tree))

    def run(*more: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(settings), "bundle-fetch", *more])

    done = run()
    assert (done.exit_code, json.loads(done.stdout)) == (0, {"digests": {}})
    root = lab.identities.bundle_root()
    assert root is not None
    held = lab.store.held(hashlib.sha256(root).hexdigest())
    assert held is not None
    assert held.versions == {1}
    assert lab.store.disk().complete == {0}
    assert json.loads(run("1", "1.base.tar.gz").stdout)["digests"].keys() == {"base"}
    lab.server.change("timestamp.json", lambda content: content[:-9])
    assert run().exit_code == ExitCode.UNTRUSTED


def test_an_expired_one(lab: Lab, tmp_path: Path) -> None:
    version = lab.publish()
    late = Repository(
        lab.repository.directory,
        Expiries(timestamp=timedelta(days=1)),
        clock=lambda: time.time_ns() - 30 * DAY,
    )
    with late.locked():
        late.commit(late.releases())
    lab.server.serve(late)
    refused(lab, version, "expired")


def test_a_truncated_one(lab: Lab) -> None:
    version = lab.publish()
    lab.server.change(".tar.gz", lambda content: content[:-1])
    refused(lab, version, "length|hash")

    def cut(content: bytes) -> Callable[[], Response]:
        async def half() -> AsyncIterator[bytes]:
            yield content[: len(content) // 2]

        headers = {"content-length": str(len(content))}
        return lambda: StreamingResponse(half(), headers=headers)

    for end in (".tar.gz", "timestamp.json"):
        lab.server.serve(lab.repository)
        lab.server.change(end, cut)
        before = lab.store.disk()
        with pytest.raises(ServerUnreachableError):
            lab.pull(version)
        assert lab.store.disk() == before


def endless(pause: float, piece: bytes) -> Callable[[bytes], Callable[[], Response]]:
    async def forever() -> AsyncIterator[bytes]:
        while True:
            yield piece
            await asyncio.sleep(pause)

    return lambda _content: lambda: StreamingResponse(forever())


@pytest.mark.parametrize("end", [".tar.gz", "timestamp.json", "snapshot.json", "targets.json"])
def test_an_endless_one(lab: Lab, end: str) -> None:
    version = lab.publish()
    lab.server.change(end, endless(0.0, b"x" * 65536))
    refused(lab, version, "exceeding|bytes")


def test_an_endless_root(lab: Lab) -> None:
    version = lab.publish()
    lab.server.files["2.root.json"] = endless(0.0, b"x" * 65536)(b"")
    refused(lab, version, "exceeding|bytes")


def test_one_that_never_ends_because_it_trickles(lab: Lab) -> None:
    version = lab.publish()
    lab.server.change(".tar.gz", endless(0.05, b"x"))
    start = time.monotonic()
    with (
        mock.patch.object(pulling.ServerFetcher.__init__, "__defaults__", (1.0,)),
        pytest.raises(ServerUnreachableError, match="too long"),
    ):
        lab.pull(version)
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../outside.yaml", tarfile.REGTYPE),
        ("/tmp/outside.yaml", tarfile.REGTYPE),
        ("rules/link.yaml", tarfile.SYMTYPE),
        ("rules/../../outside.yaml", tarfile.REGTYPE),
    ],
)
def test_a_path_outside(lab: Lab, name: str, kind: bytes) -> None:
    """Signed by the right key: the server itself was taken over."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", format=tarfile.USTAR_FORMAT) as opened:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, "/etc/shadow"
        opened.addfile(member, io.BytesIO())
    version = lab.publish_archives(Content({"base": made.getvalue()}))
    refused(lab, version, "base of bundle", unfit=True)
    assert not (lab.store.bundles.parent / "outside.yaml").exists()
    assert not Path("/tmp/outside.yaml").exists()


def test_a_bomb(lab: Lab) -> None:
    bomb = gzip.compress(bytes(LIMITS.unpacked + 2**20), 9)
    version = lab.publish_archives(Content({"base": bomb}))
    refused(lab, version, "unpacks to more", unfit=True)


def test_larger_than_a_host_takes(lab: Lab) -> None:
    version = lab.publish_archives(Content({"base": bytes(LIMITS.packed + 1)}))
    refused(lab, version, "larger than", unfit=True)


def test_a_file_in_two_parts(lab: Lab) -> None:
    content = make_content({"rules/a.yaml": b"1"}, {"tag-web": {"rules/a.yaml": b"2"}})
    version = lab.publish_archives(content)
    names = (f"{version}.base.tar.gz", f"{version}.tag-web.tar.gz")
    refused(lab, version, "in two parts", *names, unfit=True)


def test_parts_that_the_server_makes_up(lab: Lab) -> None:
    version = lab.publish()
    base = f"{version}.base.tar.gz"
    refused(lab, version, "not among the signed targets", base, f"{version}.tag-web.tar.gz")
    refused(lab, version, "leaves out the base", f"{version}.tag-web.tar.gz")
    refused(lab, version, "not of bundle", base, f"{version + 1}.base.tar.gz")
    refused(lab, version, "not the name of a bundle's part", "../../etc/passwd")
    many = [base, *(f"{version}.tag-{number}.tar.gz" for number in range(40))]
    refused(lab, version, "not of bundle", *many)


def test_a_version_that_is_signed_for_another(lab: Lab) -> None:
    version = lab.publish()
    releases = lab.repository.releases()
    from msgspec.structs import replace  # noqa: PLC0415

    # Signed by the right key under a name that promises something else.
    (release,) = releases.history
    part = replace(release.parts[0], target=f"{version + 5}.base.tar.gz")
    lab.repository.commit(replace(releases, history=(replace(release, parts=(part,)),)))
    lab.server.serve(lab.repository)
    refused(lab, version + 5, "signed for another version")


def test_a_server_that_is_busy_or_away_is_no_verdict(lab: Lab) -> None:
    version = lab.publish()
    body = b'{"error":"too_many_transfers","problem":"too many"}'
    lab.server.change(".tar.gz", lambda _content: lambda: Response(body, 503))
    with pytest.raises(ServerBusyError):
        lab.pull(version)
    lab.server.change("timestamp.json", lambda _content: lambda: Response(b"?", 302))
    with pytest.raises(UnprovenBundleError):
        lab.pull(version)
    lab.live.call(lab.live.listener.stop(0.1))
    with pytest.raises(ServerUnreachableError):
        lab.pull(version)


def test_what_was_seen_is_on_disk_before_it_is_believed(lab: Lab) -> None:
    version = lab.publish()
    with mock.patch.object(os, "fsync", wraps=os.fsync) as synced:
        lab.pull(version)
    assert synced.call_count >= 4
    root = lab.identities.bundle_root()
    assert root is not None
    kept = lab.store.trust(hashlib.sha256(root).hexdigest())
    assert {path.name for path in kept.glob("*.json")} == {
        *("root.json", "timestamp.json", "snapshot.json", "targets.json"),
    }
