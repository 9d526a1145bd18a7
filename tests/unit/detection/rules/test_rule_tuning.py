"""What an exception silences, judged by the condition that hosts would get."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import ExitCode
from sib_protocol.ids import HostId, HostName, LineNumber, StreamId
from sib_server.detection.rules.collect import Origin, Rule, SourceFile, collect
from sib_server.detection.rules.conditions import Comparison, FieldOf, values
from sib_server.detection.rules.effective import full_condition
from sib_server.detection.rules.parsing import parse
from sib_server.detection.rules.reading import read_items
from sib_server.detection.rules.tuned import with_exception
from sib_server.detection.rules.tuning import (
    NotTunableError,
    Tally,
    check_readable,
    output_fields,
    propose,
)
from sib_server.events.incoming import IncomingBatch
from sib_server.events.journal import Journal
from tests.support.rules import AT, Place, judge

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sib_server.detection.rules.conditions import Check, Condition

RULE = """
- rule: Read
  desc: x
  condition: evt.type = open
  output: x
  priority: NOTICE
  exceptions:
    - name: names
      fields: proc.name
    - name: pairs
      fields: [proc.name, user.name]
      comps: [in, =]
      values: [[(cron), root]]
    - name: triple
      fields: [proc.name, user.name, fd.name]
    - name: prefix
      fields: [fd.name]
      comps: [startswith]
"""
LISTS = {"shells", "tools"}


def rule(text: str = RULE) -> Rule:
    items, wrong = read_items("a.yaml", text.encode())
    rules, found = collect([SourceFile("a.yaml", Origin.SIB, "a", tuple(items))])
    assert not wrong + found
    return rules.rules["Read"]


def holds(condition: Condition, fields: Mapping[str, str]) -> bool:
    """As Falco judges equality: a field without a value is equal to nothing."""

    def check(leaf: Check) -> bool:
        assert isinstance(leaf, Comparison)
        assert isinstance(leaf.left, FieldOf)
        if leaf.left.name == "evt.type":
            return True
        assert leaf.operator in {"=", "in", "startswith"}
        return fields.get(leaf.left.name) in {value.text for value in values(leaf)}

    return judge(condition, check)


texts = st.text(max_size=12) | st.sampled_from(
    [
        "shells",
        "a shells b",
        "(x)",
        "a,b",
        "a=b",
        'say "hi"',
        "it's",
        "-1",
        "0",
        "\\",
        'a\\"b',
        "$x",
    ]
)
events = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("proc.name", "user.name", "fd.name", "proc.cmdline"), texts)
)


@given(events, st.lists(events, max_size=4))
def test_a_proposal_silences_what_hosts_would_silence(
    event: dict[str, str], others: list[dict[str, str]]
) -> None:
    known = rule()
    try:
        proposals = propose(known, event, LISTS)
    except NotTunableError:
        return
    for proposal in proposals:
        assert proposal.silences(event) is True
        tuning = proposal.tuning("Read", "s/1", AT)
        check_readable(known, tuning)
        after = with_exception(known, tuning)
        assert after is not None
        condition = parse(full_condition(after))
        assert not holds(condition, event)
        for other in others:
            before = holds(parse(full_condition(known)), other)
            assert (before and not holds(condition, other)) == (
                before and proposal.silences(other) is True
            )


def test_the_narrowest_is_the_one_that_silences_the_fewest() -> None:
    event = {"proc.name": "cat", "user.name": "root", "fd.name": "/etc/shadow"}
    tally = Tally(propose(rule(), event, LISTS))
    for host, fields in (
        ("web-1", event),
        ("web-1", {**event, "fd.name": "/etc/gshadow"}),
        ("db-1", {**event, "user.name": "bob"}),
        ("db-1", {"proc.name": "cat"}),
        ("db-1", {"proc.name": "dd"}),
    ):
        tally.add(host, fields)
    found = {one.proposal.exception: one for one in tally.narrowest_first()}
    assert list(found) == ["triple", "pairs", "names"]
    assert [(one.events, one.unknown, one.kept) for one in found.values()] == [
        (1, 1, 3),
        (2, 1, 2),
        (4, 0, 1),
    ]
    assert found["names"].hosts == {"web-1": 2, "db-1": 2}


def test_a_rule_without_a_fitting_exception_gets_one() -> None:
    bare = rule(RULE[: RULE.index("  exceptions")])
    (proposal,) = propose(bare, {"proc.exepath": "/bin/cat", "user.name": "root"}, LISTS)
    assert proposal.adds_exception
    assert proposal.fields == ("proc.exepath", "user.name")
    # What no exception can hold is left out; an account alone is too much.
    (proposal,) = propose(bare, {"proc.name": "x", "proc.cmdline": "a tools b"}, LISTS)
    assert proposal.fields == ("proc.name",)
    with pytest.raises(NotTunableError):
        propose(bare, {"user.name": "root"}, LISTS)
    taken = rule(RULE[: RULE.index("    - name: names")] + "    - name: sib_tuning\n"
                 "      fields: [fd.cip]\n")  # fmt: skip
    (proposal,) = propose(taken, {"proc.name": "cat"}, LISTS)
    assert proposal.exception == "sib_tuning_2"


@pytest.mark.parametrize("name", ["a\tb", "a\ufffdb", "", "end\\", "x shells y", "x" * 256])
def test_what_no_exception_can_hold_is_refused(name: str) -> None:
    with pytest.raises(NotTunableError):
        propose(rule(), {"proc.name": name}, LISTS)


def test_fields_are_read_from_falcos_lines_alone() -> None:
    line = json.dumps({"output_fields": {"a": 1, "b": None, "c": True, "d": ["x"], "e": "t"}})
    assert output_fields(line.encode()) == {"a": "1", "c": "true", "e": "t"}
    assert output_fields(b"not JSON") == output_fields(b'{"output_fields": 1}') == {}
    assert output_fields(b"[1]") == {}


STREAM = StreamId("00000000-0000-4000-8000-000000000001")
HOST = HostId("00000000-0000-4000-9000-000000000001")


def event(rule: str, process: str, user: str) -> bytes:
    return json.dumps(
        {
            "rule": rule,
            "priority": "Warning",
            "output": "x",
            "output_fields": {"proc.name": process, "proc.pname": "cron", "user.name": user},
        }
    ).encode()


@pytest.fixture
def journal(place: Place) -> str:
    """An event's id without its number."""
    lines = [
        event("Ours", "backup", "root"),
        event("Ours", "backup", "root"),
        event("Ours", "evil \x1b[2J", "root"),
        event("Stock shell", "bash", "ci"),
        event("Nobody's", "bash", "ci"),
    ]
    written = Journal.open(place.root / "journal.db")
    written.append([IncomingBatch(STREAM, HOST, HostName("web-1"), LineNumber(0), lines)])
    written.close()
    return f"{STREAM}/"


def test_tune_shows_writes_and_takes_back(
    place: Place, journal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = place.run("tune", f"{journal}0")
    assert "would have silenced 2 of the rule's 3 events" in told.stdout
    assert "nothing was written" in told.stdout
    assert place.rows("tunings") == []
    answer = json.loads(place.run("tune", f"{journal}0", "--yes", "--json").stdout)
    assert (answer["silenced"], answer["kept"], answer["written"]) == (2, 1, True)
    assert answer["samples"][0]["host"] == "web-1"
    (row,) = place.rows("tunings")
    assert row["values"] == ["backup", "root"]
    assert row["id"] in place.run("tunings").stdout
    assert b'"backup"' in place.compile().files["rules/99-decisions.yaml"]
    monkeypatch.setattr("sib_server.cli.rules_tune.iso", lambda _: "2099-01-01T00:00:00Z")
    again = place.run("tune", f"{journal}1", "--yes", code=ExitCode.CONFLICT).stderr
    assert f"written already, as {row['id']} at {row['at']}" in again
    place.run("undo", "t0", code=ExitCode.NOT_FOUND)
    place.run("undo", row["id"])
    assert place.rows("tunings") == []


def test_tune_takes_the_exception_that_is_named(place: Place, journal: str) -> None:
    told = place.run("tune", f"{journal}3").stdout
    assert "wider or other: --exception names" in told
    told = place.run("tune", f"{journal}3", "--exception", "names", "--yes").stdout
    assert "written as t" in told
    place.run("tune", f"{journal}3", "--exception", "no", code=ExitCode.NOT_FOUND)
    place.compile().checked()


def test_tune_refuses_what_it_cannot_silence(place: Place, journal: str) -> None:
    place.run("tune", f"{journal}2", "--yes", code=ExitCode.REFUSED)
    place.run("tune", f"{journal}4", code=ExitCode.NOT_FOUND)
    place.run("tune", f"{journal}99", code=ExitCode.NOT_FOUND)
    place.run("tune", "nonsense", code=ExitCode.REFUSED)
