from __future__ import annotations

import time
from pathlib import Path

import pytest
import sqlalchemy as sa

from sib_protocol.checks import Verdict
from sib_protocol.machine import Listener
from sib_protocol.units import UnitState
from sib_server.events.sinks.falcosidekick_counts import Counts
from sib_server.events.sinks.settings import OutputExpectation
from sib_server.operations.doctor import judgements as judge
from sib_server.operations.doctor.facts import FileFact, HostFact, JournalSample, find_files
from sib_server.operations.doctor.outputs import judge_outputs
from sib_server.operations.doctor.visitor import AnotherDoctorError, visit, visitor_ids
from sib_server.operations.doctor.way import loki_found
from sib_server.pki.authority import Authority
from sib_server.state.database import StateDatabase
from sib_server.state.schema import certificates, health, hosts

DAY = 86400.0


def unit(component: str, active: str, *, restarts: int = 0, oneshot: bool = False) -> UnitState:
    detail = {"active": "running", "failed": "failed"}.get(active, "dead")
    return UnitState(
        component, f"sib-{component}.service", active, detail, "exit-code", restarts, oneshot
    )


def test_units() -> None:
    found = judge.judge_units(
        [
            unit("server", "active"),
            unit("loki", "failed", restarts=9),
            unit("falcosidekick", "inactive"),
            unit("grafana", "inactive"),
            unit("prometheus", "active", restarts=2),
            unit("disk-guard", "inactive", oneshot=True),
        ],
        {"server", "loki", "falcosidekick"},
    )
    verdicts = {finding.check: finding.verdict for finding in found}
    assert verdicts == {
        "unit-server": Verdict.WELL,
        "unit-loki": Verdict.FAILED,
        "unit-falcosidekick": Verdict.FAILED,
        "unit-grafana": Verdict.WELL,
        "unit-prometheus": Verdict.WARNING,
        "unit-disk-guard": Verdict.WELL,
    }
    assert judge.judge_units(None, {"server"})[0].verdict is Verdict.SKIPPED
    assert judge.judge_units([], {"server", "loki"})[0].verdict is Verdict.SKIPPED


@pytest.mark.parametrize(
    ("check", "days", "verdict"),
    [
        ("certificate", 5, Verdict.WELL),
        ("certificate", 1, Verdict.WARNING),
        ("certificate", 0.2, Verdict.FAILED),
        ("certificate", -1, Verdict.FAILED),
        ("ca", 400, Verdict.WELL),
        ("ca", 60, Verdict.WARNING),
        ("ca", 5, Verdict.FAILED),
    ],
)
def test_ends(check: str, days: float, verdict: Verdict) -> None:
    found = judge.judge_end(check, "it", 1e9 + days * DAY, 1e9, "cure")
    assert found.verdict is verdict
    assert (found.remedy == "cure") is (verdict is not Verdict.WELL)
    assert judge.judge_end(check, "it", None, 1e9, "cure").verdict is Verdict.FAILED


def test_names() -> None:
    assert judge.judge_names({"a", "b"}, ["a"]).verdict is Verdict.WELL
    assert "lacks c" in judge.judge_names({"a"}, ["a", "c"]).problem


@pytest.mark.parametrize(
    ("mode", "uid", "name", "verdict"),
    [
        (0o600, 7, "x.key", Verdict.WELL),
        (0o640, 7, "x.key", Verdict.WELL),
        (0o644, 7, "x.pem", Verdict.WELL),
        (0o644, 7, "x.key", Verdict.FAILED),
        (0o620, 7, "x.key", Verdict.FAILED),
        (0o600, 8, "x.key", Verdict.FAILED),
    ],
)
def test_secrets(mode: int, uid: int, name: str, verdict: Verdict) -> None:
    found = judge.judge_secrets([FileFact(f"/pki/{name}", mode, uid, False)], {7})
    assert found.verdict is verdict
    if verdict is Verdict.FAILED:
        assert found.remedy is not None
        assert f"/pki/{name}" in found.remedy


def test_secrets_that_cannot_be_seen_and_configuration(tmp_path: Path) -> None:
    assert judge.judge_secrets([], {7}).verdict is Verdict.SKIPPED
    assert judge.judge_configuration([FileFact("/x", 0o640, 0, False)]).verdict is Verdict.WELL
    assert judge.judge_configuration([FileFact("/x", 0o660, 0, False)]).verdict is Verdict.FAILED
    assert judge.judge_configuration([FileFact("/x", 0o640, 5, False)]).verdict is Verdict.FAILED
    (tmp_path / "a").mkdir(mode=0o700)
    (tmp_path / "a/b").write_text("x")
    (tmp_path / "a/c").symlink_to("/etc/shadow")
    names = {Path(file.path).name for file in find_files([tmp_path / "a", tmp_path / "none"])}
    assert names == {"a", "b"}


def test_the_journals_sample() -> None:
    assert judge.judge_journal(JournalSample(10, 0), 0).verdict is Verdict.WELL
    assert judge.judge_journal(JournalSample(10, 1), 0).verdict is Verdict.FAILED
    assert judge.judge_journal(JournalSample(10, 0), 3).verdict is Verdict.FAILED


def test_ports() -> None:
    found = judge.judge_listeners(
        [
            Listener("::", 8443),
            Listener("127.0.0.1", 3100),
            Listener("192.0.2.1", 2801),
            Listener("::", 9096, 12, "loki", "sib-loki.service"),
            Listener("192.0.2.1", 22, 1, "sshd", "ssh.service"),
            Listener("192.0.2.1", 3100, 2, "theirs", "other.service"),
        ],
        public={8443: "the server", 3000: "Grafana"},
        loopback={3100: "loki", 2801: "falcosidekick"},
        units={"sib-loki.service"},
    )
    assert [(finding.check, finding.verdict) for finding in found] == [
        ("port-3000", Verdict.FAILED),
        ("port-8443", Verdict.WELL),
        ("exposed", Verdict.FAILED),
        ("exposed", Verdict.FAILED),
    ]
    assert not judge.is_loopback("nonsense")


def test_the_fleet() -> None:
    well = HostFact("a", "healthy", "1")
    assert [f.verdict for f in judge.judge_fleet([well], "1")] == [Verdict.WELL]
    assert judge.judge_fleet([], "1")[0].verdict is Verdict.WARNING
    many = [HostFact(f"s{n}", "silent", "") for n in range(9)]
    found = judge.judge_fleet(
        [well, *many, HostFact("l", "late", "0.9"), HostFact("x", "healthy", "1", 2, "no")], "1"
    )
    assert {finding.check: finding.verdict for finding in found} == {
        "fleet-silent": Verdict.FAILED,
        "fleet-late": Verdict.WARNING,
        "fleet-versions": Verdict.WARNING,
        "fleet-bundles": Verdict.WARNING,
        "fleet-losses": Verdict.WARNING,
    }
    assert "s4, …" in found[0].problem


def test_sinks() -> None:
    assert [f.verdict for f in judge.judge_sink("loki", 3, 2.0, 0)] == [Verdict.WELL]
    assert [f.verdict for f in judge.judge_sink("loki", 3, 301.0, 4)] == [
        Verdict.FAILED,
        Verdict.WARNING,
    ]


def counts(**outputs: float) -> Counts:
    return Counts(
        1.0,
        {tuple(key.split("_")): value for key, value in outputs.items()},  # type: ignore[misc]
    )


WEBHOOK = {"webhook": OutputExpectation()}


@pytest.mark.parametrize(
    ("before", "now", "alert", "verdict"),
    [
        (counts(), counts(), False, Verdict.WELL),
        (counts(webhook_ok=1), counts(webhook_ok=1), False, Verdict.WELL),
        (counts(), counts(webhook_error=1), False, Verdict.FAILED),
        (counts(), counts(slack_ok=1), False, Verdict.WARNING),
        (counts(webhook_ok=1), counts(webhook_ok=2), True, Verdict.WELL),
        (counts(webhook_ok=1), counts(webhook_ok=1, webhook_error=1), True, Verdict.FAILED),
        (counts(webhook_ok=1), counts(webhook_ok=1), True, Verdict.FAILED),
    ],
)
def test_outputs(before: Counts, now: Counts, alert: bool, verdict: Verdict) -> None:
    assert judge_outputs(before, now, WEBHOOK, alert=alert).verdict is verdict
    assert judge_outputs(counts(), counts(), {}, alert=True).verdict is Verdict.WARNING


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (b'{"data":{"result":[{"values":[["1","x nonce y"]]}]}}', True),
        (b'{"data":{"result":[{"values":[["1","x"]]}]}}', False),
        (b'{"data":{"result":[{"values":[[1]]}]}}', False),
        (b'{"data":3}', False),
        (b"nonsense", False),
        (None, False),
    ],
)
def test_lokis_answer(answer: bytes | None, found: bool) -> None:
    assert loki_found(answer, "nonce") is found


def test_a_visit_leaves_no_trace_and_only_one_is_made_at_a_time(tmp_path: Path) -> None:
    state = StateDatabase(f"sqlite:///{tmp_path}/state.db")
    state.migrate()
    authority = Authority.create(tmp_path / "pki", "test")

    def rows() -> int:
        with state.read() as connection:
            return sum(
                connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
                for table in (hosts, certificates, health)
            )

    with visit(state, authority) as visitor:
        assert (visitor.host_id, visitor.stream) == visitor_ids(authority.pin)
        assert rows() == 3
        with pytest.raises(AnotherDoctorError), visit(state, authority):
            pass
        # Killed, and long ago: it does not stand in the way of the next.
        with state.begin() as connection:
            old = time.time_ns() - 601 * 10**9
            connection.execute(sa.update(hosts).values(enrolled_ns=old))
        with visit(state, authority):
            assert rows() == 3
    assert rows() == 0
    state.close()
