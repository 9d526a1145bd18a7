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
- macro: m
  condition: x.y in (outer) or n
- macro: n
  condition: evt.type = one
"""


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("m and z.z exists",
         '(x.y in (a, "b c", "d e", 5, f, outer) or evt.type = g) and z.z exists'),
        ("not m", 'not (x.y in (a, "b c", "d e", 5, f, outer) or evt.type = g)'),
        ('x.y in ("outer", one)', 'x.y in ("outer", g)'),
        ("x.y in (none)", "x.y in ()"),
        ("x.y in inner", 'x.y in (a, "b c", "d e", 5)'),
        ("x.y = val(z.one)", "x.y = val(z.one)"),
    ],
)  # fmt: skip
def test_names_are_put_to_what_they_stand_for(text: str, same: str) -> None:
    assert write(Resolver(rules(SOME)).resolved(parse(text))) == same


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
        ("bad", "no condition"),
    ],
)
def test_names_that_stand_for_nothing_are_refused(text: str, reason: str) -> None:
    more = """
- macro: loop
  condition: knot or a.b exists
- macro: knot
  condition: not loop
- macro: bad
  condition: "a.b ="
"""
    with pytest.raises(ResolveError, match=reason):
        Resolver(rules(SOME + more)).resolved(parse(text))
