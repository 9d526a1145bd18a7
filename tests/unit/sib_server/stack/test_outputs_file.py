from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.checks import Verdict
from sib_server.stack.outputs import (
    NO_OUTPUTS,
    PRIORITIES,
    Enabled,
    Kind,
    Output,
    expectations,
    falcosidekick_config,
    known_outputs,
    read_outputs,
)

PATH = Path("/etc/sib/outputs.yaml")


def read(tree: Any) -> Any:
    return read_outputs(yaml.safe_dump(tree).encode(), PATH)


@pytest.mark.parametrize(
    ("tree", "problem", "remedy"),
    [
        ({"slak": {}}, "slak is no output", "did you mean 'slack'?"),
        ({"slack": {"webhokurl": "x"}}, "slack.webhokurl is no key", "'webhookurl'"),
        ({"aws": {"kinesys": {}}}, "aws.kinesys is no key", "'kinesis'"),
        ({"slack": {"webhookurl": "hooks.slack.com/1"}}, "slack.webhookurl is no http", "whole"),
        ({"webhook": {"address": "http://[1"}}, "webhook.address is no http", "whole"),
        ({"alertmanager": {"hostport": ["am:9093"]}}, "alertmanager.hostport is no", "whole"),
        (
            {"slack": {"webhookurl": "https://hooks.slack.com/services/XXXX/YYYY"}},
            "the example of the documentation",
            "your own",
        ),
        ({"slack": {"minimumpriority": "warn"}}, "'warn' is no priority", "'warning'"),
        ({"slack": {"minimumpriority": "p1"}}, "'p1' is no priority", "one of emergency"),
        ({"slack": {"checkcert": "no"}}, "slack.checkcert has to be true or false", "correct"),
        ({"slack": {"webhookurl": True}}, "slack.webhookurl has to be a text", "correct"),
        ({"kafkarest": {"version": "two"}}, "has to be a whole number", "correct"),
        ({"webhook": {"customheaders": ["a"]}}, "has to be a mapping", "correct"),
        ({"alertmanager": {"hostport": [{}]}}, "has to be a list", "correct"),
        ({"customfields": {"a": ["b"]}}, "customfields has to be a mapping", "correct"),
        ({"loki": {"hostport": "http://x"}}, "loki is not yours to set", "Loki already"),
        ({"listenport": 1}, "listenport is not yours to set", "stack.falcosidekick.port"),
        ({"slack": "https://x"}, "slack is no mapping", "indented"),
        (["slack"], "the file is no mapping", "indented"),
        ({"Slack": {}, "slack": {}}, "slack is there twice", "leave one out"),
    ],
)
def test_what_falcosidekick_would_ignore_is_an_error_that_names_the_key(
    tree: Any, problem: str, remedy: str
) -> None:
    found = read(tree)
    assert found.broken
    assert (dict(found.tree), found.enabled) == ({}, ())
    failures = [item for item in found.findings if item.verdict is Verdict.FAILED]
    assert len(failures) == 1
    assert problem in failures[0].problem
    assert str(PATH) in failures[0].problem
    assert remedy in (failures[0].remedy or "")


def test_every_mistake_is_told_at_once() -> None:
    found = read({"slak": {}, "teams": {"webhookurl": "x", "minimumpriority": "y"}})
    assert len(found.findings) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"slack: [", "not valid YAML"),
        (b"\xff\xfe", "not UTF-8"),
        (b"a: " + b"x" * 2**20, "over 1 MiB"),
        (b"&a [*a]", "by its aliases"),
        (b"slack: &a {channel: *a}", "by its aliases"),
    ],
)
def test_a_file_that_is_none_is_told(content: bytes, said: str) -> None:
    found = read_outputs(content, PATH)
    assert found.broken
    assert said in found.findings[0].problem


def test_a_secret_is_never_in_a_finding() -> None:
    found = read(
        {
            "slack": {"webhookurl": "hooks.slack.com/services/T0/B0/s3cr3t"},
            "pagerduty": {"routingkey": ["s3cr3t"]},
        }
    )
    assert found.broken
    assert all("s3cr3t" not in f"{item.problem}{item.remedy}" for item in found.findings)


def test_no_file_and_an_empty_one_are_no_outputs() -> None:
    assert read_outputs(b"", PATH) == NO_OUTPUTS
    assert read_outputs(b"# nothing\n", PATH) == NO_OUTPUTS
    assert read({"slack": None}).findings[0].verdict is Verdict.WARNING


def test_an_output_without_what_enables_it_is_a_warning() -> None:
    found = read({"smtp": {"hostport": "mail:25", "from": "sib@x"}})
    assert not found.broken
    assert found.enabled == ()
    assert "set smtp.to" in (found.findings[0].remedy or "")


def test_what_is_enabled_and_how_it_counts() -> None:
    found = read(
        {
            "CustomFields": {"site": "berlin", "rack": 7},
            "Slack": {"WebhookURL": "https://hooks.slack.com/1", "MinimumPriority": "Warning"},
            "alertmanager": {"hostport": "http://a:9093, http://b:9093"},
            "telegram": {"chatid": -100123, "token": "t"},
        }
    )
    assert found.findings == ()
    assert found.enabled == (
        Enabled("alertmanager", "", 2),
        Enabled("slack", "warning", 1),
        Enabled("telegram", "", 1),
    )
    assert expectations(found) == {
        "alertmanager": {"minimum_priority": "", "per_event": 2},
        "slack": {"minimum_priority": "warning", "per_event": 1},
        "telegram": {"minimum_priority": "", "per_event": 1},
    }
    config = falcosidekick_config(found, 2801)
    assert config["listenaddress"] == "127.0.0.1"
    assert config["slack"]["webhookurl"] == "https://hooks.slack.com/1"
    assert config["alertmanager"]["hostport"] == ["http://a:9093", "http://b:9093"]
    assert config["telegram"]["chatid"] == "-100123"
    assert "loki" not in config


def test_an_output_that_counts_otherwise_leaves_the_sink_to_wait() -> None:
    found = read(
        {
            "aws": {"region": "eu-central-1", "s3": {"bucket": "b"}, "sqs": {"url": ""}},
            "webhook": {"address": "https://x"},
        }
    )
    assert [item.name for item in found.enabled] == ["aws.s3", "webhook"]
    assert expectations(found) == {}


def test_every_known_output_can_be_enabled_by_what_it_needs() -> None:
    def filled(output: Output) -> dict[str, Any]:
        value = {
            Kind.TEXT: "https://x",
            Kind.FLAG: True,
            Kind.NUMBER: 1,
            Kind.LIST: ["https://x"],
            Kind.MAP: {"a": "b"},
        }
        keys = {key: value[kind] for key, kind in output.keys.items()}
        if "minimumpriority" in keys:
            keys["minimumpriority"] = "error"
        return {**keys, **{name: filled(part) for name, part in output.parts.items()}}

    known = known_outputs()
    assert len(known) > 50
    for name, output in known.items():
        found = read({name: filled(output)})
        assert found.findings == ()
        assert {item.name.partition(".")[0] for item in found.enabled} == {name}
        assert len(found.enabled) == (len(output.parts) if not output.needs else 1)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(PRIORITIES),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(max_size=5), below),
    max_leaves=8,
)
_KEYS = st.sampled_from(["slack", "aws", "s3", "bucket", "webhookurl", "hostport", "loki", "x"])


@given(
    st.dictionaries(_KEYS, st.dictionaries(_KEYS, _VALUES | st.dictionaries(_KEYS, _VALUES)))
    | _VALUES
)
def test_whatever_is_in_it_is_told_or_taken(tree: Any) -> None:
    found = read(tree)
    assert found.broken or all(
        name in known_outputs() or not isinstance(value, dict) or name.startswith(("custom", "t"))
        for name, value in found.tree.items()
    )
    # What was taken is taken again, as it is.
    again = read(dict(found.tree))
    assert (dict(again.tree), again.enabled) == (dict(found.tree), found.enabled)


@given(st.binary(max_size=300))
def test_bytes_are_no_traceback(content: bytes) -> None:
    read_outputs(content, PATH)
