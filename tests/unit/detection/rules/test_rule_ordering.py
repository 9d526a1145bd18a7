"""Conditions put in their cheapest order mean what they meant."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_server.detection.rules.collect import Origin, RuleSet, SourceFile, collect
from sib_server.detection.rules.conditions import (
    And,
    Check,
    Comparison,
    Condition,
    Exists,
    FieldOf,
    Named,
    Not,
    Or,
    Value,
    Values,
)
from sib_server.detection.rules.costs import Costs
from sib_server.detection.rules.event_types import event_types
from sib_server.detection.rules.ordering import MAX_CHECKS, Orderer
from sib_server.detection.rules.parsing import parse
from sib_server.detection.rules.reading import read_items
from sib_server.detection.rules.resolving import Resolver
from sib_server.detection.rules.writing import write
from tests.support.engine import SHIPPED, rule_files
from tests.support.rules import judge

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

NAMES = """
- list: shells
  items: [sh, bash]
- list: more
  items: [shells, cat]
- macro: ours
  condition: evt.type in (execve, execveat) and proc.name in (shells, x)
- macro: ours_again
  condition: not ours or fd.name = /a
"""
OWN = """
- macro: own
  condition: proc.name = cat or proc.pname in (more)
- macro: written
  condition: evt.type in (open, openat) and fd.typechar = f and evt.is_open_write = true
"""


def collected(*texts: tuple[str, Origin]) -> RuleSet:
    files = []
    for number, (text, origin) in enumerate(texts):
        items, wrong = read_items(f"{number}.yaml", text.encode())
        assert not wrong
        files.append(SourceFile(f"{number}.yaml", origin, str(number), tuple(items)))
    rules, wrong = collect(files)
    assert not wrong
    return rules


RULES = collected((NAMES, Origin.SIB), (OWN, Origin.OWN))
RESOLVER = Resolver(RULES)
ORDERER = Orderer(RULES)
FIELDS = ("proc.name", "proc.pname", "fd.name", "evt.type", "user.uid", "evt.is_open_write")
TEXTS = ("sh", "bash", "cat", "x", "/a", "/a/b", "execve", "0", "true")

value_nodes = st.sampled_from([Value(text, quoted=False) for text in TEXTS])
listed = st.sampled_from([Value(name, quoted=False) for name in ("shells", "more")])
field_nodes = st.sampled_from([FieldOf(name) for name in FIELDS])
compared = st.builds(
    Comparison, field_nodes, st.sampled_from(["=", "!=", "startswith", "contains"]), value_nodes
)
memberships = st.builds(
    Comparison,
    field_nodes,
    st.just("in"),
    st.lists(value_nodes | listed, min_size=1, max_size=3).map(lambda v: Values(tuple(v))),
)
leaves: st.SearchStrategy[Condition] = st.one_of(
    compared,
    memberships,
    st.builds(Exists, field_nodes),
    st.sampled_from([Named(name) for name in ("ours", "ours_again", "own")]),
)
conditions: st.SearchStrategy[Condition] = st.recursive(
    leaves,
    lambda inner: st.one_of(
        inner.map(Not),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: And(tuple(parts))),
        st.lists(inner, min_size=2, max_size=4).map(lambda parts: Or(tuple(parts))),
    ),
    max_leaves=12,
)
events = st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(TEXTS))
MANY_EVENTS = [
    dict.fromkeys(some, text)
    for text in ("sh", "x", "execve")
    for size in range(len(FIELDS) + 1)
    for some in itertools.combinations(FIELDS, size)
]
"""Each field there or not."""


def holds(condition: Condition, event: Mapping[str, str]) -> bool:
    """What Falco answers: a check of a field that the event has not does not hold."""

    def check(leaf: Check) -> bool:
        assert isinstance(leaf.left, FieldOf)
        found = event.get(leaf.left.name)
        if found is None or isinstance(leaf, Exists):
            return found is not None
        if isinstance(leaf.right, Values):
            return found in [value.text for value in leaf.right.items]
        assert isinstance(leaf.right, Value)
        text = leaf.right.text
        return {
            "=": found == text,
            "!=": found != text,
            "startswith": found.startswith(text),
            "contains": text in found,
        }[leaf.operator]

    return judge(condition, check)


@given(conditions, st.lists(events, min_size=1, max_size=8))
def test_the_order_changes_no_meaning(
    condition: Condition, some: Iterable[Mapping[str, str]]
) -> None:
    ordered = ORDERER.ordered(write(condition))
    before, after = RESOLVER.resolved(condition), RESOLVER.resolved(parse(ordered))
    assert event_types(before) == event_types(after)
    for event in some:
        assert holds(before, event) == holds(after, event), ordered
    assert ORDERER.ordered(write(condition)) == ordered


@given(conditions, st.booleans(), st.sampled_from(["and", "or"]), st.sampled_from(FIELDS))
def test_what_a_later_file_appends_binds_as_it_did(
    condition: Condition, bracketed: bool, word: str, field: str
) -> None:
    text = f"({write(condition)})" if bracketed else write(condition)
    added = f"{word} not {field} exists"
    before = RESOLVER.resolved(parse(f"{text} {added}"))
    after = RESOLVER.resolved(parse(f"{ORDERER.ordered(text)} {added}"))
    for event in MANY_EVENTS:
        assert holds(before, event) == holds(after, event), ORDERER.ordered(text)


@pytest.mark.parametrize(
    ("written", "ordered"),
    [
        # The type last: Falco hands the rule nothing else. A set before a walk through ancestors.
        (
            "evt.type = execve and proc.aname = cron and proc.name = sh",
            "proc.name = sh and proc.aname = cron and evt.type = execve",
        ),
        # A macro of SIB's is put in, one of the administrator's stays.
        (
            "ours and own",
            "proc.name in (shells, x) and own and evt.type in (execve, execveat)",
        ),
        # By what the macro costs on hosts, which get it in order as well.
        ("fd.name endswith /x and written", "written and fd.name endswith /x"),
        # Alternatives of which each names programs are not tried for other programs.
        (
            "((proc.name = a and user.uid = 0) or (proc.name in (c, shells) and user.uid = 1))",
            "proc.name in (a, c, shells) and ((proc.name = a and user.uid = 0)"
            " or (proc.name in (c, shells) and user.uid = 1))",
        ),
        # Not by what a macro of others stands for, which a host's file may change.
        (
            "(user.uid = 0 and own) or (user.uid = 1 and proc.name = cat)",
            "(user.uid = 0 and own) or (proc.name = cat and user.uid = 1)",
        ),
        # One set for several of one field; `=` of a list's name is not Falco's language.
        ("(proc.name in (shells) or proc.name = y)", "proc.name in (shells, y)"),
        ("proc.name in (shells)", "proc.name in (shells)"),
        # What is likely decides early.
        (
            "fd.num >= 0 and fd.typechar = f and fd.name = /x and evt.is_open_write = true",
            "evt.is_open_write = true and fd.name = /x and fd.num >= 0 and fd.typechar = f",
        ),
        # Brackets that mean nothing.
        ("not (not (user.uid = 0))", "user.uid = 0"),
        ("proc.name = a and (user.uid = 0 and (proc.tty = 0))",
         "proc.name = a and user.uid = 0 and proc.tty = 0"),
        # But not those that keep what a later file appends from the last alternative; where there
        # are none, it stays the last.
        ("(proc.aname = a or user.uid = 0)", "(user.uid = 0 or proc.aname = a)"),
        ("proc.aname = a or user.uid = 0 or proc.aname = b or fd.name = /x",
         "user.uid = 0 or proc.aname in (a, b) or fd.name = /x"),
        # What cannot be read is somebody else's to find.
        ("unknown and evt.type = open", "unknown and evt.type = open"),
        ("(", "("),
    ],
)  # fmt: skip
def test_what_decides_cheaply_comes_first(written: str, ordered: str) -> None:
    assert ORDERER.ordered(written) == ordered


def test_a_very_large_condition_is_left_alone() -> None:
    text = " or ".join(f"fd.sip = {n}" for n in range(MAX_CHECKS)) + " or evt.type = connect"
    assert ORDERER.ordered(text) == text


@pytest.mark.parametrize(
    "alternative",
    ["proc.name = p{}", "(proc.name = p{0} and user.uid = {0})", "(not (fd.name startswith /{0}))"],
)
@pytest.mark.timeout(20)
def test_thousands_of_alternatives_take_no_time(alternative: str) -> None:
    text = " or ".join(alternative.format(n) for n in range(MAX_CHECKS // 3))
    before = f"evt.type = execve and ({text})"
    after = ORDERER.ordered(before)
    assert after != before
    assert event_types(parse(after)) == event_types(parse(before))


def test_each_of_the_shipped_rules_is_cheaper_by_the_estimates() -> None:
    files = [(path.read_text(), Origin.SIB) for path in rule_files()]
    rules = collected(*files)
    assert len(files) == len(list(SHIPPED.glob("*.yaml"))) / 2 + 0.5
    orderer, resolver = Orderer(rules), Resolver(rules)
    for rule in rules.rules.values():
        written = resolver.resolved(parse(rule.condition.value))
        ordered = resolver.resolved(parse(orderer.ordered(rule.condition.value)))
        costs = Costs(
            lambda name: parse(rules.macros[name].condition.value),
            rules.lists,
            event_types(written).names,
        )
        assert costs.of(ordered).cost <= 1.05 * costs.of(written).cost, rule.name
