"""Demo events: made of rules, whole, marked, and the same for the same seed."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.events import DEMO_TAG, summarize
from sib_server.demo.demo import templates
from sib_server.demo.scenes import (
    HOSTS,
    SPAN_SECONDS,
    Template,
    make_events,
    quick,
    tactics,
)
from sib_server.detection.rules.settings import DetectionSettings
from sib_server.events.sinks.falcosidekick_payload import is_demo
from sib_server.settings import ServerSettings

NOW = 1_795_608_000_000_000_000


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> list[Template]:
    empty = tmp_path_factory.mktemp("nothing")
    detection = DetectionSettings(own_rules=empty, falco_rules=empty, directory=empty)
    return templates(ServerSettings(detection=detection))


def test_events_are_falcos_in_form_and_told_apart(shipped: list[Template]) -> None:
    events = make_events(shipped, seed=7, now_ns=NOW)
    assert events == make_events(shipped, seed=7, now_ns=NOW)
    assert {event.host for event in events} == set(HOSTS)
    rules: Counter[str] = Counter()
    for event in events:
        alert = json.loads(event.line)
        summary = summarize(event.line)
        rules[summary.rule] += 1
        assert not summary.unparsed
        assert summary.priority is not None
        assert summary.time_ns == event.time_ns
        assert NOW - SPAN_SECONDS * 10**9 <= event.time_ns <= NOW
        assert DEMO_TAG in alert["tags"]
        assert is_demo(event.line)
        assert "%" not in alert["output"].partition("command=")[0], alert["output"]
        assert alert["output_fields"]["proc.name"] not in {"standin", "sib-drill"}
    assert set(rules) == {template.rule for template in shipped}
    assert [event.time_ns for event in events] == sorted(event.time_ns for event in events)


def test_quick_is_one_event_a_tactic(shipped: list[Template]) -> None:
    chosen = quick(shipped)
    first = [tactics(template)[0] for template in chosen]
    assert len(set(first)) == len(first) >= 13


@given(st.text(max_size=60), st.text(max_size=120), st.integers(0, 2**40))
def test_any_rule_and_drill_gives_an_event(output: str, act: str, seed: int) -> None:
    template = Template("R", output, "nonsense", ("mitre_impact",), act)
    for event in make_events([template], seed=seed, now_ns=NOW):
        assert summarize(event.line).rule == "R"


@pytest.mark.parametrize(
    ("line", "demo"),
    [
        (b'{"rule":"r","tags":["sib_demo"]}', True),
        (b'{"rule":"sib_demo","tags":["x"]}', False),
        (b'{"rule":"r","tags":"sib_demo"}', False),
        (b'{"output":"sib_demo"', False),
        (b'{"rule":"r"}', False),
    ],
)
def test_only_the_tag_tells_a_demonstration(line: bytes, demo: bool) -> None:
    assert is_demo(line) is demo


def test_the_shipped_rules_are_where_they_should_be(shipped: list[Template]) -> None:
    assert Path(__file__).resolve().parents[3].joinpath("rules/falco/macros.yaml").is_file()
    assert len(shipped) > 100
