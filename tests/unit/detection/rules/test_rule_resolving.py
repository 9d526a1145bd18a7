"""Macros and lists put in, whatever they name."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from sib_server.detection.rules.collect import Origin, RuleSet, SourceFile, collect
from sib_server.detection.rules.parsing import parse
from sib_server.detection.rules.reading import read_items
from sib_server.detection.rules.resolving import ResolveError, Resolver
from sib_server.detection.rules.writing import write


def rules(text: str) -> RuleSet:
    items, wrong = read_items("a.yaml", text.encode())
    found, more = collect([SourceFile("a.yaml", Origin.SIB, "a", tuple(items))])
    assert not wrong + more
    return found


SOME = """
- list: inner
  items: [a, "b c", "'d e'", 5]
- list: outer
  items: [inner, f, outer]
- list: none
  items: []
- list: one
  items: [g]
- macro: n
  condition: evt.type = one
- macro: m
  condition: x.y in (outer) or n
"""


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("m and z.z exists",
         '(x.y in (a, "b c", "d e", 5, f, outer) or evt.type = g) and z.z exists'),
        ("not m", 'not (x.y in (a, "b c", "d e", 5, f, outer) or evt.type = g)'),
        ('x.y in ("outer", one)', 'x.y in ("outer", g)'),
        ("x.y in (none)", "x.y in ()"),
        ("x.y in one", "x.y in g"),
        ("x.y = val(z.one)", "x.y = val(z.one)"),
    ],
)  # fmt: skip
def test_names_are_put_to_what_they_stand_for(text: str, same: str) -> None:
    assert write(Resolver(rules(SOME)).resolved(parse(text))) == same


NESTED = """
- list: deepest
  items: [a]
- list: deep
  items: [deepest, b]
- list: mine
  items: [deep, c]
- list: early
  items: [late, d]
- list: late
  items: [mine, e]
- list: empty
  items: []
- list: empty
  items: [late, empty]
  override: {items: append}
"""


@pytest.mark.parametrize(
    ("name", "items"),
    [
        ("deep", "a, b"),
        # What was put into a list is text; the turn of `deepest` was before that of `mine`.
        ("mine", "deepest, b, c"),
        ("early", "deep, c, e, d"),
        ("late", "deep, c, e"),
        ("empty", "mine, e, late, empty"),
    ],
)
def test_lists_in_lists_are_put_in_as_far_as_falco_does(name: str, items: str) -> None:
    text = f"x.y in ({name})"
    assert write(Resolver(rules(NESTED)).resolved(parse(text))) == f"x.y in ({items})"


def test_lists_without_end_are_refused() -> None:
    grow = "".join(f"- list: l{n}\n  items: [l{n + 1}, l{n + 1}]\n" for n in range(40))
    with pytest.raises(ResolveError, match="stands for more than 1000000 items"):
        Resolver(rules(grow)).resolved(parse("x.y in (l0)"))
    chain = "".join(f"- list: l{n}\n  items: [l{n + 1}]\n" for n in range(5000))
    assert write(Resolver(rules(chain)).resolved(parse("x.y in (l0)"))) == "x.y in (l5000)"


def test_macros_without_end_are_refused() -> None:
    grow = "".join(f"- macro: m{n}\n  condition: m{n - 1} or m{n - 1}\n" for n in range(1, 30))
    grow = "- macro: m0\n  condition: a.b = c\n" + grow
    with pytest.raises(ResolveError, match="more than 200000 checks"):
        Resolver(rules(grow)).resolved(parse("m0 or m1 or m15 or m29"))
    chain = "".join(f"- macro: m{n}\n  condition: m{n - 1} and a.b = c\n" for n in range(1, 3000))
    resolver = Resolver(rules("- macro: m0\n  condition: a.b = c\n" + chain))
    with pytest.raises(ResolveError, match="through more than"):
        resolver.resolved(parse("m2999"))
    for n in range(100):
        resolver.resolved(parse(f"m{n}"))
    for n in range(15, 90, 15):
        resolver.resolved(parse(f"m{n}"))
    for n in (105, 120, 135, 150, 165, 180, 195, 210):
        refused = n > 100
        with pytest.raises(ResolveError, match="levels") if refused else nullcontext():
            resolver.resolved(parse(f"m{n}"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("gone", "'gone' is not known"),
        ("loop", "names itself"),
        ("early", "'late' is not known yet where 'early' names it"),
        ("through", "'late' is not known yet where 'first' names it"),
        ("x.y in inner", "the list 'inner' of 4 items"),
        ("x.y != none", "the list 'none' of 0 items"),
        ("bad", "no condition"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(text: str, reason: str) -> None:
    more = """
- macro: knot
  condition: x.y exists
- macro: loop
  condition: knot or a.b exists
- macro: knot
  condition: or not loop
  override: {condition: append}
- macro: early
  condition: late
- macro: first
  condition: x.y exists
- macro: second
  condition: x.y exists
- macro: first
  condition: and second
  override: {condition: append}
- macro: late
  condition: x.y exists
- macro: second
  condition: and late
  override: {condition: append}
- macro: through
  condition: second or first
- macro: bad
  condition: "a.b ="
"""
    with pytest.raises(ResolveError, match=reason):
        Resolver(rules(SOME + more)).resolved(parse(text))
