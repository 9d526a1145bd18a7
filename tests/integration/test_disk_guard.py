"""The disk guard with a real journal and its server, and with a real Loki."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sib_protocol.checks import Finding, Verdict
from sib_protocol.errors import ExitCode
from sib_protocol.ids import HostName, LineNumber, new_host_id, new_stream_id
from sib_server.events.incoming import IncomingBatch
from sib_server.events.journal import Journal
from sib_server.events.stored import Seq
from sib_server.operations.disk.decision import Decision, StoreUse, overrides
from sib_server.operations.disk.findings import judge_loki_limits
from sib_server.operations.disk.measure import measure_journal, measure_loki
from sib_server.operations.disk.settings import HOUR_NS
from sib_server.operations.stores import fetch
from sib_server.stack.access import StoreAccess
from sib_server.stack.loki import LIMITS, TENANT
from tests.support.components import RealLoki, get, post_json
from tests.support.lab import Server, event_line, number_of
from tests.support.proxy import wait_for

pytestmark = pytest.mark.timeout(400)
DAY = 24 * HOUR_NS
OLD, YOUNG = 3_000, 50


def fill(path: Path, *, delivered: int | None = None) -> None:
    """A journal with old events and young ones."""
    now = [time.time_ns()]
    journal = Journal.open(path, clock_ns=lambda: now[0])
    host, stream = new_host_id(), new_stream_id()
    for first, count, age in ((0, OLD, 5 * DAY), (OLD, YOUNG, HOUR_NS)):
        now[0] = time.time_ns() - age
        lines = [event_line(number) for number in range(first, first + count)]
        name = HostName("web-1")
        journal.append([IncomingBatch(stream, host, name, LineNumber(first), lines)])
    if delivered is not None:
        journal.advance("loki", Seq(delivered))
    journal.close()


def server_with(tmp_path: Path, sinks: dict[str, Any]) -> Server:
    """One whose file system is too full for its taste, whatever it holds."""
    return Server(
        tmp_path / "server",
        {
            "sinks": sinks,
            "disk": {
                "reserve_bytes": 2**60,
                "directory": str(tmp_path / "guard"),
                "loki_directory": str(tmp_path / "no-loki"),
                "prometheus_directory": str(tmp_path / "no-prometheus"),
            },
        },
    )


def guard(server: Server, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = server.cli("disk-guard", "--json", *arguments, check=False)
    assert done.returncode in {ExitCode.OK, ExitCode.INCOMPLETE}, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_oldest_events_go_and_the_day_stays(tmp_path: Path) -> None:
    server = server_with(tmp_path, {})
    fill(server.journal_path)
    before = measure_journal(server.journal_path, [])
    assert before is not None
    assert before.pinned == 0
    assert sum(piece.size for piece in before.pieces) == pytest.approx(before.used, rel=0.05)

    guard(server, "--dry-run")
    assert not (tmp_path / "guard").exists()
    code, decision = guard(server)
    assert code == ExitCode.INCOMPLETE  # the day that is kept is over the budget of nothing
    (journal,) = decision["stores"]
    assert journal["cut_ns"] is not None
    server.start()
    wait_for("the old ones go", lambda: len(server.lines()) == YOUNG, 40)
    assert sorted(map(number_of, server.lines())) == list(range(OLD, OLD + YOUNG))
    found = server.cli("events", "search", "--json", "--rule", "SIB disk guard").stdout
    assert len(found.splitlines()) == 1
    after = measure_journal(server.journal_path, [])
    assert after is not None
    assert after.used < before.used / 2
    assert after.slack > 0, "the file keeps its size, and uses it again"
    page = get(f"http://127.0.0.1:{server.metrics_port}/metrics").decode()
    assert 'sib_server_disk_kept_seconds{store="journal"}' in page
    # Once is news.
    guard(server)
    time.sleep(3)
    found = server.cli("events", "search", "--json", "--rule", "SIB disk guard").stdout
    assert len(found.splitlines()) == 1
    doctor = json.loads(server.cli("doctor", "--json", check=False).stdout)
    assert "disk-budget" in {finding["check"] for finding in doctor}
    assert server.stop() == 0


def test_what_a_sink_has_not_had_never_goes(tmp_path: Path) -> None:
    server = server_with(tmp_path, {"loki": {"enabled": True, "url": "http://127.0.0.1:1"}})
    fill(server.journal_path, delivered=1_000)
    code, decision = guard(server)
    assert code == ExitCode.INCOMPLETE
    (journal,) = decision["stores"]
    assert journal["undelivered"] > journal["used"] / 2
    server.start()
    wait_for("what was delivered goes", lambda: len(server.lines()) <= OLD + YOUNG - 1_000, 40)
    time.sleep(3)
    assert sorted(map(number_of, server.lines())) == list(range(1_000, OLD + YOUNG))
    assert server.stop() == 0


@pytest.mark.slow
def test_a_real_loki_takes_up_the_decision_and_deletes(tmp_path: Path) -> None:
    loki = RealLoki(tmp_path / "loki")
    place = tmp_path / "overrides.yaml"
    place.write_text("overrides: {}\n")
    config = json.loads((loki.directory / "loki.yaml").read_text())
    config["runtime_config"] = {"file": str(place), "period": "1s"}
    config["compactor"] = {
        "working_directory": str(loki.directory / "compactor"),
        "retention_enabled": True,
        "delete_request_store": "filesystem",
        "compaction_interval": "3s",
        "apply_retention_interval": "5s",
        "retention_delete_delay": "1s",
    }
    config["limits_config"]["retention_period"] = "720h"
    (loki.directory / "loki.yaml").write_text(json.dumps(config))
    loki.start()
    try:
        now = time.time_ns()
        cut = StoreUse("loki", 1, 0, 0, now - 60 * HOUR_NS)
        place.write_bytes(overrides(Decision(now, 1, 1, (cut,), {}), 90, now))

        def limit() -> Finding:
            status, page = fetch(f"{loki.url}{LIMITS}", StoreAccess(), tenant=TENANT)
            assert status == 200
            return judge_loki_limits(60, page)

        wait_for("Loki knows of it", lambda: limit().verdict is Verdict.WELL, 30)
        place.write_text("overrides: {}\n")
        wait_for("Loki forgets it", lambda: limit().verdict is Verdict.FAILED, 30)
        assert "still keeps 720 hours" in limit().problem
        for name, age in (("old", 5 * DAY), ("new", 0)):
            values = [[str(now - age + number), f"{name} {number}"] for number in range(100)]
            content = {"streams": [{"stream": {"name": name}, "values": values}]}
            assert post_json(f"{loki.url}/loki/api/v1/push", content)[0] == 204
        assert post_json(f"{loki.url}/flush", {})[0] == 204
        # A start writes out the index, which else takes a quarter of an hour.
        assert loki.process is not None
        loki.process.terminate()
        loki.process.wait(60)
        loki.start()

        def chunks() -> int:
            store = measure_loki(loki.directory)
            assert store is not None
            return sum(1 for path in (loki.directory / "chunks/fake").rglob("*") if path.is_file())

        before = chunks()
        place.write_bytes(overrides(Decision(now, 1, 1, (cut,), {}), 90, now))
        wait_for("what is older is deleted", lambda: chunks() < before, 200)
    finally:
        loki.kill()
