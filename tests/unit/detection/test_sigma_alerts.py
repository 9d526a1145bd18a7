"""Firing alerts of imported rules become events, once each."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import MalformedMessageError
from sib_protocol.events import Priority, summarize
from sib_protocol.ids import HostName, new_host_id
from sib_server.detection.sigma.alert_watch import AlertWatch, Ruler, RulerError, find_ruler
from sib_server.detection.sigma.alerts import (
    MOST_AT_ONCE,
    alert_event,
    choose_new,
    parse_alerts,
)
from sib_server.events.journal import OWN_NAME, Journal
from sib_server.events.reader import JournalReader
from sib_server.events.sinks.settings import LokiSinkSettings
from sib_server.events.stored import Seq
from sib_server.events.writer import JournalWriter
from sib_server.fleet.hosts import HostNotFoundError, HostRecord
from sib_server.settings import ServerSettings, SinksSettings
from sib_server.stack.access import StoreAccess
from sib_server.stack.push.settings import PushSettings

SIGMA_ID = "4e25af4b-246d-44ea-8563-e42aacab006b"


def alert(**labels: str) -> dict[str, Any]:
    return {
        "labels": {
            "alertname": "Failed logins",
            "severity": "high",
            "source": "sigma",
            "sigma_id": SIGMA_ID,
            "technique": "T1110,T1110.001",
            **labels,
        },
        "annotations": {"description": "somebody guesses"},
        "state": "firing",
        "activeAt": "2026-11-25T23:59:59.123456789Z",
        "value": "3e+00",
    }


def answer(*alerts: dict[str, Any]) -> bytes:
    return json.dumps({"status": "success", "data": {"alerts": alerts}}).encode()


def test_an_alert_is_an_event_with_what_an_analyst_asks_for() -> None:
    (found,) = parse_alerts(answer(alert(host="web-1", user="{{root}}")))
    line = alert_event(found)
    event = json.loads(line)
    assert event["output"] == "Failed logins on web-1: somebody guesses"
    assert event["output_fields"] == {
        "sib.sigma_id": SIGMA_ID,
        "sib.value": "3e+00",
        "sib.label.user": "{{root}}",
        "sib.host": "web-1",
    }
    summary = summarize(line)
    assert (summary.rule, summary.priority, summary.source) == (
        *("Failed logins", Priority.ERROR),
        "sigma",
    )
    assert summary.techniques == ("T1110", "T1110.001")
    assert f"sigma:{SIGMA_ID}" in event["tags"]
    assert event["time"] == "2026-11-25T23:59:59.123456789Z"


@pytest.mark.parametrize(
    "change",
    [
        {"state": "pending"},
        {"state": "inactive"},
        {"activeAt": None},
        {"activeAt": "yesterday"},
        {"labels": {"alertname": "somebody else's", "severity": "high"}},
    ],
)
def test_what_is_none_of_an_imported_rules_or_does_not_fire_is_left(change: dict[str, Any]) -> None:
    assert parse_alerts(answer({**alert(), **change})) == []


def test_an_alert_is_told_from_others_and_from_itself_later() -> None:
    later = {**alert(host="a"), "activeAt": "2026-11-26T00:10:00Z"}
    found = parse_alerts(answer(later, alert(host="a"), alert(host="b"), alert()))
    assert len({one.key for one in found}) == 4
    assert found[-1].since_ns > found[0].since_ns
    again = parse_alerts(answer({**alert(host="a"), "value": "9"}))
    assert again[0].key in {one.key for one in found}
    assert [one.host for one in parse_alerts(answer(alert(host="../x")))] == [None]


def test_a_flood_is_taken_in_pieces() -> None:
    flood = parse_alerts(answer(*(alert(host=f"h{n}") for n in range(MOST_AT_ONCE + 3))))
    first = choose_new(flood, ())
    assert len(first) == MOST_AT_ONCE
    assert len(choose_new(flood, {one.key for one in first})) == 3


@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.floats(allow_nan=False),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["data", "alerts", "labels", "state", "x"]), inner)
        ),
    ).map(lambda tree: json.dumps(tree).encode())
)
def test_any_answer_is_read_or_refused(content: bytes) -> None:
    with suppress(MalformedMessageError):
        assert parse_alerts(content) == []


class FakeLoki:
    """Answers as it is told; the real one is in tests/integration/test_stack_components.py."""

    def __init__(self) -> None:
        self.status, self.content = 200, answer()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(outer.content)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def loki() -> Iterator[FakeLoki]:
    made = FakeLoki()
    yield made
    made.close()


def hosts(*records: HostRecord) -> Any:
    def find(name: str) -> HostRecord:
        for record in records:
            if record.name == name:
                return record
        raise HostNotFoundError(name)

    return find


def test_each_alert_is_stored_once_under_its_host(loki: FakeLoki, tmp_path: Path) -> None:
    known = HostRecord(new_host_id(), HostName("web-1"), (), 0, None, None, None, None, None, None)
    path, directory = tmp_path / "journal.db", tmp_path / "sigma"
    journal = Journal.open(path)
    own = journal.journal_id
    writer = JournalWriter(journal)
    ruler = Ruler(loki.url, StoreAccess(), None)

    def watch() -> AlertWatch:
        return AlertWatch(
            ruler, writer, (own, OWN_NAME), hosts(known), directory=directory, seconds=0.01
        )

    async def follow() -> None:
        one = watch()
        assert await one.look() == 0
        loki.content = answer(alert(host="web-1"), alert(host="gone"), alert())
        assert await one.look() == 3
        assert await one.look() == 0
        assert await watch().look() == 0, "a server that starts again reports nothing twice"
        loki.content = answer()
        await one.look()
        loki.content = answer(alert(host="web-1"))
        (directory / "reported.json").write_bytes(b"[")
        assert await one.look() == 1, "better twice than never"
        loki.status = 404
        with pytest.raises(RulerError, match="404"):
            await one.look()
        loki.status, loki.content = 200, b"<html>"
        with pytest.raises(MalformedMessageError):
            await one.look()
        # Whatever is wrong, the watch goes on, and is right again by itself.
        running = asyncio.create_task(one.run())
        await asyncio.sleep(0.1)
        loki.content = answer(alert(host="late"))
        for _ in range(500):
            if journal.last_seq == 5:
                break
            await asyncio.sleep(0.02)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    try:
        asyncio.run(follow())
    finally:
        writer.close()
    with JournalReader(path) as reader:
        events = list(reader.read(Seq(0), max_events=100))
    assert len(events) == 5
    assert [event.host_id for event in events].count(known.id) == 2
    assert {event.host_id for event in events} == {known.id, own}


def test_the_ruler_is_where_the_logs_go() -> None:
    assert find_ruler(ServerSettings()) is None
    sink = SinksSettings(loki=LokiSinkSettings(enabled=True, url="http://events"))
    found = find_ruler(ServerSettings(sinks=sink))
    assert found is not None
    assert found.url == "http://events"
    both = find_ruler(ServerSettings(sinks=sink, push=PushSettings(loki_url="http://logs")))
    assert both is not None
    assert both.url == "http://logs"
