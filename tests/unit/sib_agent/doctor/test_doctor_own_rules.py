"""A host's own rule files that change in vain what SIB has put into its rules."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_agent.doctor.own_rules import UnreadError, items_of, look_at_rules, macros_put_in
from sib_agent.settings import FalcoSettings
from sib_protocol.checks import Verdict

SIBS = b"""# Made by SIB from sib, macros.
- macro: sib_contained
  condition: container.id != host
- macro: sib_named
  condition: proc.name = x
- list: sib_shells
  items: [bash]
- rule: One
  condition: container.id != host and proc.name in (sib_shells)
- rule: Two, to whose condition a file appends
  condition: sib_named and evt.type = open
"""
MACRO = b"- macro: sib_contained\n  condition: never_true\n"
LATER = b"- list: x\n  items: []\n\n- macro: sib_contained\n  append: true\n  condition: or x\n"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "bundles/7/rules").mkdir(parents=True)
    (tmp_path / "bundles/current").symlink_to("7")
    (tmp_path / "bundles/7/rules/10-sib.yaml").write_bytes(SIBS)
    (tmp_path / "own").mkdir()
    return tmp_path


def look(place: Path, *, stock: bool = True, own: tuple[str, ...] = ("own",)) -> list[str]:
    settings = FalcoSettings(
        bundles=place / "bundles",
        more_rules=tuple(str(place / name) for name in own),
        stock_rules=stock,
    )
    found = look_at_rules(settings)
    return [f"{one.verdict.value}: {one.problem.replace(str(place), '')}" for one in found]


def test_a_change_of_what_is_put_in_is_named_by_file_and_line(place: Path) -> None:
    (place / "own/a.yaml").write_bytes(MACRO)
    (place / "own/b.yml").write_bytes(LATER)
    (place / "own/notes.txt").write_bytes(MACRO)
    rest = "changes the macro sib_contained, and none of SIB's rules: it is put into their"
    assert look(place) == [
        f"warning: /own/a.yaml:1 {rest} conditions already",
        f"warning: /own/b.yml:4 {rest} conditions already",
    ]
    # A single file may be named, too, and one that is not there is not loaded.
    assert look(place, own=("own/a.yaml", "own/gone.yaml")) == [
        f"warning: /own/a.yaml:1 {rest} conditions already"
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"- list: sib_shells\n  override: {items: append}\n  items: [fish]\n",
        b"- macro: sib_named\n  condition: never_true\n",
        b"- macro: mine\n  condition: sib_contained\n",
        b"- rule: sib_contained\n  condition: x\n",
        b"- macro: [sib_contained]\n- 7\n",
        b"macro: sib_contained\n",
        b"",
    ],
)
def test_what_does_something_is_not_named(place: Path, text: bytes) -> None:
    (place / "own/a.yaml").write_bytes(text)
    assert look(place) == ["well: 1 files of the bundle in force, 1 of this host's own"]


def test_it_says_whose_the_projects_rules_are(place: Path) -> None:
    (place / "bundles/7/rules/01-falco.yaml").write_bytes(b"[]")
    told = "well: 2 files of the bundle in force, 0 of this host's own; the Falco project's rules"
    assert look(place) == [f"{told} are the bundle's"]
    assert look(place, stock=False) == [
        f"{told} are the bundle's, which falco.stock_rules does not leave out"
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"- [" * 400_000, "larger than 1048576 bytes"),
        (b"[" * 50 + b"]" * 50, "nested deeper than 12 levels"),
        (b"[" * 100_000, "not YAML"),
        (b"- macro: \xff", "not UTF-8 text"),
        (b"- macro: 'x", "not YAML"),
        (b"- &a [x]\n- &b " + b"[*a, *a]\n" + b"- *c\n", "has no anchor before it"),
    ],
)
def test_a_file_in_an_attackers_hands_is_skipped_and_the_others_are_looked_at(
    place: Path, text: bytes, why: str
) -> None:
    (place / "own/a.yaml").write_bytes(text)
    (place / "own/b.yaml").write_bytes(MACRO)
    skipped, named = look(place)
    assert skipped.startswith("skipped: /own/a.yaml cannot be looked at: ")
    assert why in skipped
    assert named.startswith("warning: /own/b.yaml:1 changes")
    (place / "bundles/7/rules/10-sib.yaml").write_bytes(text)
    (only,) = look(place)
    assert only.startswith("skipped: the bundle in force cannot be looked at")


def test_what_is_shown_and_looked_at_has_bounds(place: Path) -> None:
    (place / "own/a.yaml").write_bytes(MACRO * 15)
    found = look(place)
    assert (len(found), found[-1]) == (11, "warning: 5 more such changes")
    for number in range(120):
        (place / f"own/b{number:03}.yaml").write_bytes(b"[]")
    assert look(place)[-1] == "skipped: only the first 100 own files were looked at"


def test_what_is_no_file_is_not_waited_for(place: Path) -> None:
    os.mkfifo(place / "own/a.yaml")
    (place / "own/b.yaml").mkdir()
    (place / "own/c.yaml").symlink_to("c.yaml")
    found = look(place)
    assert found[0] == "skipped: /own/a.yaml cannot be looked at: not a regular file"
    assert [one.partition(" cannot")[0] for one in found[1:]] == [
        "skipped: /own/b.yaml",
        "skipped: /own/c.yaml",
    ]


@given(st.binary(max_size=300) | st.text("-:[]{}&*!|>'\"\n macroule", max_size=200).map(str.encode))
def test_whatever_a_file_holds_it_is_read_or_refused(content: bytes) -> None:
    with suppress(UnreadError):
        assert len(macros_put_in(content)) <= sum(
            "macro" in one.entries for one in items_of(content)
        )


def test_findings_have_a_remedy(place: Path) -> None:
    (place / "own/a.yaml").write_bytes(MACRO)
    settings = FalcoSettings(bundles=place / "bundles", more_rules=(str(place / "own"),))
    (finding,) = look_at_rules(settings)
    assert finding.verdict is Verdict.WARNING
    assert "sib-server rules tune" in str(finding.remedy)
