from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import MalformedMessageError
from sib_protocol.events import Priority, sib_event
from sib_server.events.sinks.falcosidekick_counts import (
    Counts,
    Progress,
    compare,
    expected_counts,
    parse_counts,
)
from sib_server.events.sinks.falcosidekick_payload import outgoing
from sib_server.events.sinks.settings import OutputExpectation
from tests.fakes.events import HOST, STREAM, alert, stored
from tests.fakes.falcosidekick import _payload

NOW = 1_795_568_118_991_961_223


def test_an_alert_goes_as_falco_wrote_it_under_the_certificates_host() -> None:
    line = alert(3, NOW, output_fields={"evt.time": 1795568118991961223, "x": [1.50, None, "é"]})
    body = outgoing(stored(3, line=line, host="web-1")).body
    sent, wrote = json.loads(body), json.loads(line)
    assert sent.pop("hostname") == "web-1"
    fields = sent.pop("output_fields")
    assert fields.pop("sib.event_id") == f"{STREAM}/3"
    assert fields.pop("sib.host_id") == HOST
    assert fields == wrote.pop("output_fields")
    del wrote["hostname"]
    assert sent == wrote
    assert b"1.5" in body


def test_sib_s_own_events_and_lines_that_are_no_alerts_are_taken() -> None:
    own = sib_event(rule="SIB gap", priority=Priority.ERROR, time_ns=NOW, output="o", fields={})
    for line in (own, b"\xff not json", b"", b"{}", b'{"output":5,"output_fields":[1]}'):
        sent = outgoing(stored(1, line=line, received_ns=NOW))
        payload = _payload(sent.body)
        assert payload is not None, line
        assert payload["output_fields"]["sib.event_id"] == f"{STREAM}/1"
    unparsed = json.loads(outgoing(stored(1, line=b"\xff not", received_ns=NOW)).body)
    assert unparsed["output_fields"]["sib.unparsed"] is True
    assert unparsed["output"] == "\ufffd not"
    assert unparsed["time"] == "2026-11-25T00:55:18.991961223Z"


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_names = st.sampled_from(
    ["output", "Output", "HOSTNAME", "hostname", "rule", "priority", "time", "tags", "uuid"]
)
_fields = st.dictionaries(st.sampled_from(["k8s.ns.name", "k8s.pod.name", "a"]), _json)


@given(
    st.one_of(
        st.binary(max_size=60),
        st.builds(
            lambda top, fields: json.dumps({**top, "output_fields": fields}).encode(),
            st.dictionaries(_names, _json),
            _fields | _json,
        ),
    )
)
def test_falcosidekick_takes_whatever_a_host_writes(line: bytes) -> None:
    sent = outgoing(stored(1, line=line.replace(b"\n", b""), received_ns=NOW))
    payload = _payload(sent.body)
    assert payload is not None
    assert payload["hostname"] == "web-1"
    # Go reads keys in any case, so a second spelling would win over ours.
    assert len({name.casefold() for name in payload}) == len(payload)
    for name in ("k8s.ns.name", "k8s.pod.name"):
        assert isinstance(payload["output_fields"].get(name) or "", str)


PAGE = """# HELP falcosecurity_falcosidekick_outputs_total x
# TYPE falcosecurity_falcosidekick_outputs_total counter
falcosecurity_falcosidekick_outputs_total{destination="slack",status="error"} 2
falcosecurity_falcosidekick_outputs_total{destination="slack",status="ok"} 40
falcosecurity_falcosidekick_falco_events_total{rule="a \\"} broken"} 1
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.79556817e+09
"""


def test_only_the_wanted_metrics_are_read() -> None:
    counts = parse_counts(PAGE)
    assert counts.started == 1.79556817e9
    assert counts.outputs == {("slack", "error"): 2, ("slack", "ok"): 40}
    assert parse_counts("") == Counts(0.0, {})
    for bad in ("process_start_time_seconds x\n", "falcosecurity_falcosidekick_outputs_total 1\n"):
        with pytest.raises(MalformedMessageError):
            parse_counts(bad)


def counts(started: float = 1.0, **outputs: float) -> Counts:
    return Counts(started, {tuple(name.split("_")): n for name, n in outputs.items()})  # type: ignore[misc]


def test_a_batch_is_done_when_each_output_counted_its_share() -> None:
    before = counts(slack_ok=5)
    expected = {"slack": 2, "pager": 1}
    waiting = compare(before, counts(slack_ok=7), expected, quiet=True)
    assert (waiting.progress, waiting.missing) == (Progress.WAITING, {"pager"})
    done = compare(before, counts(slack_ok=6, slack_error=1, pager_ok=1), expected, quiet=False)
    assert done.progress is Progress.SETTLED
    assert (done.worked, done.failed) == ({"slack", "pager"}, {"slack"})
    mqtt = compare(before, Counts(1.0, {("slack", "ok"): 5, ("mqtt", "EOF"): 1}), {}, quiet=True)
    assert (mqtt.progress, mqtt.failed) == (Progress.SETTLED, {"mqtt"})
    assert compare(before, before, {}, quiet=False).progress is Progress.WAITING


def test_a_restart_shows_by_its_time_or_by_counters_that_fell() -> None:
    before = counts(slack_ok=5)
    assert compare(before, counts(2.0, slack_ok=9), {}, quiet=True).progress is Progress.RESTARTED
    assert compare(before, counts(slack_ok=4), {}, quiet=True).progress is Progress.RESTARTED
    assert compare(before, counts(), {}, quiet=True).progress is Progress.RESTARTED


def test_an_output_is_expected_to_count_what_its_minimum_lets_through() -> None:
    batch = [
        outgoing(stored(1, time_ns=NOW, priority="Notice")),
        outgoing(stored(2, time_ns=NOW, priority="Critical")),
        outgoing(stored(3, time_ns=NOW, priority="Debug", rule="Test rule")),
    ]
    outputs = {
        "all": OutputExpectation(),
        "pager": OutputExpectation("critical"),
        "alertmanager": OutputExpectation("notice", per_event=2),
    }
    assert expected_counts(batch, outputs) == {"all": 3, "pager": 2, "alertmanager": 6}
