from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import sqlalchemy as sa

from sib_protocol.errors import ExitCode
from sib_protocol.ids import HostName, new_host_id
from sib_protocol.keys import make_csr, new_key
from sib_protocol.messages import RenewRequest
from sib_server.errors import TooManyAttemptsError
from sib_server.fleet.enrollment import BadHostNameError
from sib_server.fleet.health import HealthState
from sib_server.fleet.hosts import HostNameTakenError, HostNotFoundError, insert_host
from sib_server.fleet.refusals import RemovedHostError, UnknownCertificateError
from sib_server.fleet.reports import ReceivedReport
from sib_server.pki.ledger import CertificateNotFoundError
from sib_server.pki.peer import parse_peer
from sib_server.pki.tokens import TokenUsedUpError
from sib_server.state.schema import certificates, health
from tests.support.fleet import World, enroll_request, expired_request, health_report


def test_enroll_authenticate_report_list_remove(world: World) -> None:
    token = world.token(tags=("web",), uses=2)
    member = world.join("Web-1.example", token, remote="192.0.2.7")
    peer = parse_peer(member.der)
    assert (peer.host_id, peer.host_name) == (member.id, "Web-1.example")
    seen = world.fleet.authenticate(member.der)
    assert (seen.host_id, seen.host_name) == (member.id, "Web-1.example")
    assert (seen.serial, seen.not_after) == (peer.serial, peer.not_after)
    assert seen.not_after == world.clock.ns // 10**9 + 7 * 86400

    host = world.fleet.host("web-1.EXAMPLE")
    assert world.fleet.host(member.id) == host
    assert (host.tags, host.address) == (("web",), "192.0.2.7")
    assert host.certificate is not None
    assert (host.certificate.serial, host.certificate.revoked) == (peer.serial, False)
    assert world.fleet.state_of(host) is HealthState.NEVER

    report = health_report("1.2.3", facts={"falco": "0.44"})
    world.fleet.record_health([ReceivedReport(member.id, report, world.clock.ns, "192.0.2.8")])
    host = world.fleet.host(member.id)
    assert (host.report, host.version, host.address) == (report, "1.2.3", "192.0.2.8")
    assert world.fleet.state_of(host) is HealthState.HEALTHY
    world.clock.pass_(minutes=2)
    assert world.fleet.state_of(host) is HealthState.LATE
    world.clock.pass_(minutes=9)
    assert world.fleet.state_of(host) is HealthState.SILENT

    world.join("db-1", token)
    assert [item.name for item in world.fleet.hosts()] == ["db-1", "Web-1.example"]
    assert world.fleet.remove_host("Web-1.example", dry_run=True).revoked == 1
    assert world.fleet.authenticate(member.der).host_id == member.id
    removal = world.fleet.remove_host("Web-1.example")
    assert (removal.host.id, removal.revoked) == (member.id, 1)
    assert [item.name for item in world.fleet.hosts()] == ["db-1"]
    gone = world.fleet.host(member.id)
    assert gone.removed_ns == world.clock.ns
    assert gone.certificate is not None
    assert gone.certificate.revoked
    assert len(world.fleet.hosts(removed=True)) == 2
    for reference in (member.id, "Web-1.example"):
        with pytest.raises(HostNotFoundError):
            world.fleet.remove_host(reference)


def test_a_taken_name_is_a_conflict_that_says_how_to_free_it_and_spends_nothing(
    world: World,
) -> None:
    first = world.join("web-1")
    token = world.token()
    with pytest.raises(HostNameTakenError, match="Web-1") as caught:
        world.join("Web-1", token)
    assert caught.value.status == 409
    assert caught.value.exit_code is ExitCode.CONFLICT
    assert "sib-server host remove Web-1" in (caught.value.remedy or "")
    assert next(t for t in world.tokens.list() if t.id == token.record.id).uses_left == 1
    world.fleet.remove_host("web-1")
    again = world.join("Web-1", token)
    assert again.id != first.id
    assert world.fleet.host("web-1").id == again.id
    with pytest.raises(RemovedHostError):
        world.fleet.authenticate(first.der)


def test_a_name_that_is_anothers_id_does_not_become_it(world: World) -> None:
    victim = world.join("victim")
    impostor = world.join(victim.id)
    assert world.fleet.host(victim.id).name == "victim"
    assert world.fleet.host(impostor.id).name == victim.id


def test_the_index_decides_when_two_take_a_name_at_once(world: World) -> None:
    token = world.token(uses=8)

    def join(_: int) -> bool:
        try:
            world.join("same", token)
        except HostNameTakenError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(join, range(8), timeout=60)) == 1
    assert world.tokens.list()[0].uses_left == 7


def test_the_registry_itself_refuses_a_taken_name(world: World) -> None:
    world.join("web")

    def insert() -> None:
        with world.state.begin() as connection:
            insert_host(
                connection,
                new_host_id(),
                HostName("WEB"),
                tags=[],
                token_id="0" * 16,
                address="",
                now_ns=1,
            )

    with pytest.raises(HostNameTakenError):
        insert()


def test_a_token_is_spent_as_often_as_it_may_be_and_not_once_more(world: World) -> None:
    token = world.token(uses=5)

    def join(number: int) -> bool:
        try:
            world.join(f"host-{number}", token, remote=f"192.0.2.{number}")
        except TokenUsedUpError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(join, range(16), timeout=60)) == 5
    assert len(world.fleet.hosts()) == 5


def test_renewal_keeps_the_id_and_a_replay_gets_the_same_answer(world: World) -> None:
    member = world.join("web-1")
    world.clock.pass_(days=5)
    key = new_key()
    request = RenewRequest(csr=make_csr(key, "whatever"))
    peer = world.fleet.authenticate(member.der)
    answer = world.fleet.renew(peer, request)
    assert (answer.host_id, answer.host_name) == (member.id, "web-1")
    assert world.fleet.renew(peer, request) == answer
    with world.state.read() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(certificates))
    assert count == 2
    # Both hold while the host goes over.
    assert world.fleet.authenticate(member.der).host_id == member.id


def test_lost_answers_never_strand_a_host(world: World) -> None:
    member = world.join("web-1")
    world.fleet.authenticate(member.der)
    world.clock.pass_(days=5)
    for _ in range(3):
        world.renew(member)
    world.clock.pass_(days=4)
    for _ in range(3):
        world.fleet.renew_expired(expired_request(member, new_key()), remote="192.0.2.1")
    key = new_key()
    request = expired_request(member, key)
    answer = world.fleet.renew_expired(request, remote="192.0.2.1")
    assert world.fleet.renew_expired(request, remote="192.0.2.1") == answer
    assert answer.host_id == member.id


def test_a_host_that_renews_in_a_loop_is_stopped(world: World) -> None:
    member = world.join("web-1")

    def loop() -> None:
        for _ in range(30):
            world.renew(member)

    with pytest.raises(TooManyAttemptsError, match="web-1") as caught:
        loop()
    assert caught.value.retry_after == 3600
    world.clock.pass_(days=1, seconds=1)
    world.renew(member)


def test_old_certificates_are_forgotten_and_then_unknown(world: World) -> None:
    first = member = world.join("web-1")
    for _ in range(10):
        world.clock.pass_(days=5)
        member = world.renew(member)
    with world.state.read() as connection:
        count = connection.scalar(sa.select(sa.func.count()).select_from(certificates))
    assert count is not None
    assert count < 10
    with pytest.raises(UnknownCertificateError):
        world.fleet.authenticate(first.der)


def test_health_keeps_the_latest_and_what_it_cannot_read_is_none(world: World) -> None:
    member = world.join("web-1")
    report = health_report("new\x1b[31m\0" + "x" * 100)
    world.fleet.record_health([ReceivedReport(member.id, report, 2_000)])
    world.fleet.record_health([ReceivedReport(member.id, health_report("old"), 1_000)])
    host = world.fleet.host("web-1")
    assert host.last_seen_ns == 2_000
    assert host.version == ("new?[31m?" + "x" * 100)[:64]
    assert host.report == report
    with world.state.begin() as connection:
        connection.execute(sa.update(health).values(report='{"from": "the future"}'))
    assert world.fleet.host("web-1").report is None
    # A removed host's last words are dropped.
    world.fleet.remove_host("web-1")
    world.fleet.record_health([ReceivedReport(member.id, report, 3_000)])
    assert world.fleet.host(member.id).last_seen_ns is None


@pytest.mark.parametrize(
    "name", ["", "-web", "a b", "web\n", "../../etc", "x" * 254, "wéb", "a\0", "<b>"]
)
def test_names_that_no_host_can_have(world: World, name: str) -> None:
    token = world.token()
    with pytest.raises(BadHostNameError):
        world.fleet.enroll(
            enroll_request(token, name, make_csr(new_key(), "x")), remote="192.0.2.1"
        )
    assert world.tokens.list()[0].uses_left == 1


def test_references_to_nothing(world: World) -> None:
    with pytest.raises(HostNotFoundError, match="nobody"):
        world.fleet.host("nobody")
    with pytest.raises(CertificateNotFoundError, match="abc"):
        world.fleet.revoke_certificate("00:0A:BC")


def test_the_log_names_what_happened_and_no_secret(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sib_server")
    token = world.token(ttl=timedelta(hours=1))
    world.join("web-1", token)
    with pytest.raises(TokenUsedUpError):
        world.join("web-2", token)
    assert "host web-1 enrolled" in caplog.text
    assert "token_used_up" in caplog.text
    assert token.secret not in caplog.text
    assert "BEGIN" not in caplog.text
