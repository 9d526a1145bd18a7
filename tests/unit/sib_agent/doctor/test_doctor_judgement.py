from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_agent.doctor import judge
from sib_agent.doctor.metrics import (
    judge_alloy,
    judge_falco_metrics,
    read_components,
    read_metrics,
)
from sib_agent.doctor.probe import ProbeOutcome
from sib_agent.settings import AgentSettings, FalcoSettings
from sib_agent.standing import Standing, judge_units
from sib_protocol.checks import Finding, Verdict
from sib_protocol.identity import Identity
from sib_protocol.ids import HostName, new_host_id
from sib_protocol.units import UnitState

DAY = 86400
IDENTITY = Identity(new_host_id(), HostName("web-1"), ("https://s:8443",), "ab", 0, 7 * DAY, 0)
SETTINGS = AgentSettings()


def said(finding: Finding) -> tuple[str, str]:
    assert finding.remedy or finding.verdict in (Verdict.WELL, Verdict.SKIPPED)
    return finding.verdict.value, f"{finding.problem} | {finding.remedy}"


def unit(component: str, **other: object) -> UnitState:
    fields = {"active": "active", "detail": "running", "result": "success", "restarts": 0}
    return UnitState(
        component=component,
        unit=f"sib-{component}.service",
        oneshot=False,
        **{**fields, **other},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("state", "verdict", "text"),
    [
        (unit("agent"), "well", "running"),
        (unit("agent", active="inactive"), "failed", "systemctl start sib-agent.service"),
        (unit("falco", active="failed", result="oom-kill"), "failed", "oom-kill"),
        (unit("falco", detail="auto-restart", active="activating"), "failed", "logs falco"),
        (unit("alloy", restarts=3), "warning", "3 times"),
        (unit("setup", active="failed", result="exit-code"), "failed", "logs setup"),
    ],
)
def test_units(state: UnitState, verdict: str, text: str) -> None:
    (finding,) = judge.judge_units([state], SETTINGS)
    found = said(finding)
    assert found[0] == verdict
    assert text in found[1]


def test_units_that_are_not_wanted_are_not_missed() -> None:
    without = AgentSettings(falco=FalcoSettings(enabled=False))
    stopped = [unit("falco", active="inactive"), unit("setup", active="inactive")]
    assert judge.judge_units(stopped, without) == []
    assert said(judge.judge_units(None, SETTINGS)[0])[0] == "skipped"
    well = judge_units(Standing.WELL, [], [unit("falco")])
    assert well == (Standing.WELL, [])
    standing, problems = judge_units(Standing.WELL, [], [unit("alloy", active="failed")])
    assert standing is Standing.TROUBLED
    assert "sib-agent logs alloy" in problems[0]


@pytest.mark.parametrize(
    ("now", "verdict"),
    [(-1, "failed"), (0, "well"), (5 * DAY, "well"), (6 * DAY, "warning"), (7 * DAY, "failed")],
)
def test_a_certificate_is_judged_by_its_life(now: int, verdict: str) -> None:
    assert said(judge.judge_identity(IDENTITY, now))[0] == verdict


@pytest.mark.parametrize(
    ("difference", "verdict", "text"),
    [
        (0.2, "well", "0.2 s behind"),
        (-6.0, "warning", "ahead of"),
        (6.0, "warning", "behind"),
        (-301.0, "failed", "ntp"),
    ],
)
def test_clocks(difference: float, verdict: str, text: str) -> None:
    found = said(judge.judge_clock_difference(difference))
    assert found[0] == verdict
    assert text in found[1]


def test_each_place_where_an_event_can_end_has_its_own_cure() -> None:
    far = ProbeOutcome(True, written=0.1, spooled=0.2, number=7, acknowledged=0.3)
    steps = [
        (far, "well", "at the server after 0.30 s"),
        (msgspec.structs.replace(far, acknowledged=9.0), "warning", "overloaded"),
        (msgspec.structs.replace(far, by_falco=False), "well", "in Falco's place"),
        (
            msgspec.structs.replace(far, acknowledged=None, problem="down"),
            "failed",
            "not acknowledged (within 20 s): down",
        ),
        (ProbeOutcome(True, written=0.1), "failed", "did not take it"),
        (ProbeOutcome(True), "failed", "logs falco"),
        (ProbeOutcome(False), "failed", "was lost"),
        (ProbeOutcome(False, problem="Permission denied"), "failed", "run it as root"),
    ]
    for outcome, verdict, text in steps:
        found = said(judge.judge_probe(outcome, SETTINGS, 20))
        assert found[0] == verdict
        assert text in found[1]


def test_logs_that_alloy_may_not_read_are_named_with_their_folders() -> None:
    assert said(judge.judge_unreadable([], 0))[0] == "well"
    assert said(judge.judge_unreadable([], 3))[1].startswith("Alloy may read all 3")
    files = [Path(f"/var/log/httpd/{n}_log") for n in range(4)]
    found = said(judge.judge_unreadable(files, 9))
    assert found[0] == "warning"
    assert "4 of 9" in found[1]
    assert found[1].endswith("setfacl -R -m u:sib-agent:rX -m d:u:sib-agent:rX /var/log/httpd")


def falco_page(seen: int, dropped: int, queue: int = 0) -> bytes:
    return (
        "# TYPE falcosecurity_scap_n_evts_total counter\n"
        f'falcosecurity_scap_n_evts_total{{raw_name="n_evts"}} {seen}\n'
        "# TYPE falcosecurity_scap_n_drops_total counter\n"
        f'falcosecurity_scap_n_drops_total{{raw_name="n_drops"}} {dropped}\n'
        "# TYPE falcosecurity_falco_outputs_queue_num_drops_total counter\n"
        f"falcosecurity_falco_outputs_queue_num_drops_total {queue}\n"
    ).encode()


@pytest.mark.parametrize(
    ("page", "verdict", "text"),
    [
        (falco_page(10**6, 0), "well", "1000000 system calls seen, 0 lost"),
        (falco_page(10**6, 10), "well", "10 lost"),
        (falco_page(10**6, 10**5), "warning", "(9.1%)"),
        (falco_page(10**6, 0, 5), "warning", "5 alerts"),
        (falco_page(0, 0), "well", "0 system calls"),
        (None, "failed", "port 8765"),
    ],
)
def test_falcos_losses(page: bytes | None, verdict: str, text: str) -> None:
    found = said(judge_falco_metrics(page, 8765))
    assert found[0] == verdict
    assert text in found[1]


@given(st.binary(max_size=300))
def test_any_page_can_be_read(page: bytes) -> None:
    assert all(isinstance(value, float) for value in read_metrics(page).values())
    assert said(judge_falco_metrics(page, 1))[0] in ("well", "warning")
    read_components(page)


def test_alloys_parts() -> None:
    def page(state: str) -> bytes:
        health = {"state": state, "message": "no such file", "updatedTime": "x"}
        return json.dumps([{"localID": "loki.write.server", "health": health}]).encode()

    ill = judge_alloy(read_components(page("unhealthy")), b"", "127.0.0.1:12345")
    assert [said(item)[0] for item in ill] == ["failed", "well"]
    assert "loki.write.server is unhealthy: no such file" in ill[0].problem
    good = judge_alloy(read_components(page("healthy")), None, "127.0.0.1:12345")
    assert [said(item)[0] for item in good] == ["well", "skipped"]
    lost = judge_alloy([], b"loki_write_dropped_entries_total 3\n", "127.0.0.1:12345")
    assert "3 log lines" in lost[-1].problem
    (away,) = judge_alloy(read_components(b"<html>"), None, "127.0.0.1:12345")
    assert said(away)[0] == "failed"


def test_a_daemons_own_words_are_split_into_what_and_cure() -> None:
    (stopped,) = judge.judge_daemon(IDENTITY, None, 1.0, alive=False)
    assert (stopped.problem, stopped.remedy) == (
        "the daemon does not run",
        "systemctl start sib-agent",
    )
