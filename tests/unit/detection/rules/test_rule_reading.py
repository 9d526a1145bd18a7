"""Rules files: what is wrong is told with its line, and the rest is read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol import documents
from sib_protocol.documents import (
    DocumentError,
    Mapping,
    Node,
    Scalar,
    read_documents,
)
from sib_server.detection.rules.collect import Origin, RuleSet, SourceFile, collect
from sib_server.detection.rules.emit import item_document, rules_file
from sib_server.detection.rules.findings import Finding, Severity
from sib_server.detection.rules.reading import read_items

if TYPE_CHECKING:
    from collections.abc import Iterator

RULE = "- rule: R\n  desc: d\n  condition: a.b = c\n  output: o\n  priority: NOTICE\n"


def told(text: str) -> list[tuple[int, str]]:
    _, found = read_items("a.yaml", text.encode())
    assert all(one.place.file == "a.yaml" and one.severity is Severity.ERROR for one in found)
    return [(one.place.line, one.reason) for one in found]


def test_a_fault_costs_the_item_that_it_is_in_alone() -> None:
    items, found = read_items("a.yaml", f"- rule: Bad\n- x\n{RULE}- list: 1\n".encode())
    assert [(one.place.line, one.rule) for one in found] == [(1, "Bad"), (2, ""), (8, "1")]
    assert [item.place.line for item in items] == [3]


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("rule: x", 1, "list of items"),
        ("- x", 1, "an item is a mapping"),
        ("- a: 1\n  b: 2", 1, "its keys are a, b"),
        ("- rule: R\n  desc: d", 1, "no condition and no output and no priority"),
        (RULE + "  wrong: 1", 6, "no key 'wrong' of a rule"),
        (RULE + "  enabled: maybe", 6, "true or false, not 'maybe'"),
        (RULE + "  enabled: [true]", 6, "'enabled' is a text"),
        (RULE + "  tags: T1003", 6, "'tags' is a list"),
        (RULE + "  tags: [[a]]", 6, "list of texts"),
        (RULE + "  append: true\n  override: {desc: append}", 1, "exclude each other"),
        (RULE + "  override: [desc]", 6, "a mapping of keys"),
        (RULE + "  override: {desc: add}", 6, "append or replace, not 'add'"),
        (RULE + "  override: {priority: append}", 6, "does not append 'priority'"),
        (RULE + "  override: {enabled: replace}", 6, "'enabled', which is not given"),
        (RULE + "  override: {desc: append}", 3, "does not say what 'condition' is for"),
        (RULE.replace("a.b = c", "' '"), 3, "'condition' is empty"),
        (RULE.replace("a.b = c", '"a\\0b"'), 3, "holds a NUL"),
        (RULE.replace("rule: R", "rule: null"), 1, "'rule' is empty"),
        (RULE + "  exceptions: x", 6, "'exceptions' is a list"),
        (RULE + "  exceptions: [x]", 6, "a mapping with a name"),
        (RULE + "  exceptions:\n  - fields: x", 7, "'name' is missing"),
        (RULE + "  exceptions:\n  - name: n", 7, "names no fields"),
        (RULE + "  exceptions:\n  - {name: n, fields: a.b, x: y}", 7, "no key 'x' of an exception"),
        (RULE + "  exceptions:\n  - {name: n, fields: [a.b], comps: [in, in]}", 7, "has 1 fields"),
        (RULE + "  exceptions:\n  - {name: n, fields: [a.b], values: [x]}", 7, "does not fit"),
        (RULE + "  exceptions:\n  - {name: n, fields: a.b, values: [[x]]}", 7, "does not fit"),
        (RULE + "  exceptions:\n  - {name: n, fields: [a.b], values: [[x, y]]}", 7, "not fit"),
        ("- macro: m", 1, "'condition' is missing"),
        ("- macro: m\n  condition: [a]", 2, "'condition' is a text"),
        ("- list: l", 1, "'items' is missing"),
        ("- list: l\n  items: x", 2, "'items' is a list"),
        ("- required_engine_version: [1]", 1, "is a text"),
        ("- required_plugin_versions: x", 1, "is a list"),
        ("- required_plugin_versions: [x]", 1, "name and version"),
        ("- required_plugin_versions:\n  - {name: a, version: 1, alternatives: [x]}", 2, "alterna"),
        ("- a\n- [", 3, "not YAML"),
        (RULE.replace("  desc", "   desc"), 2, "indented further than the one above"),
        (RULE.replace("  output", " output"), 4, "indented otherwise than its neighbours"),
        (RULE + "  tags: %x", 6, "does the text want quotes?"),
        (RULE + '  tags: "x', 6, "a quote or bracket left open?"),
        (RULE + "  tag: [x]", 6, "no key 'tag' of a rule; did you mean 'tags'?"),
        ("- rul: x", 1, "without `rule`, `macro` or `list`; its keys are rul"),
        ("- rule: a\n  rule: b", 2, "'rule' is there twice"),
        ("- [a]: b", 1, "a key that is not text"),
        ("- *x", 1, "no anchor"),
        ("- a\n- \x01", 2, "not YAML"),
    ],
)
def test_each_fault_is_told_with_its_line(text: str, line: int, reason: str) -> None:
    found = told(text)
    assert any(where == line and reason in what for where, what in found), found


def test_bytes_that_are_no_text_and_what_is_too_large_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, (one,) = read_items("a", b"- a\n- \xff")
    assert (one.place.line, one.reason) == (2, "not UTF-8 text")
    monkeypatch.setattr(documents, "MAX_BYTES", 2**20)
    with pytest.raises(DocumentError, match="larger than 1 MiB"):
        read_documents(b" " * (2**20 + 1))


def test_what_aliases_repeat_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_NODES", 10_000)
    laughs = "a: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"b{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 8)
    )
    with pytest.raises(DocumentError, match="more than 10000 values"):
        read_documents(laughs.encode())
    deep = "[" * 20 + "]" * 20
    with pytest.raises(DocumentError, match="nested deeper"):
        read_documents(deep.encode())
    hidden = "a: &a [[[[[[x]]]]]]\nb: [[[[[[*a]]]]]]\n"
    with pytest.raises(DocumentError, match="nested deeper"):
        read_documents(hidden.encode())


def plain(node: Node) -> Any:
    if isinstance(node, Scalar):
        return node.text
    if isinstance(node, Mapping):
        return {key: plain(value) for key, value in node.entries.items()}
    return [plain(item) for item in node.items]


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=6)
trees = st.recursive(
    texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@given(trees)
def test_documents_are_read_as_written(tree: Any) -> None:
    text = yaml.safe_dump(tree, allow_unicode=True, default_style='"')
    assert [plain(node) for node in read_documents(text.encode())] == [tree]


@given(st.text(max_size=60) | st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(text: str | bytes) -> None:
    content = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    items, found = read_items("a.yaml", content)
    assert all(one.place.line >= 1 for one in found)
    assert items == [] or found is not None


WHOLE = """
- required_engine_version: 15
- required_engine_version: 0.50.0
- required_plugin_versions:
  - {name: container, version: 0.4.0, alternatives: [{name: other, version: 1.0.0}]}
  - {name: json, version: 0.7.0}
- list: l
  items: [a, 5, "b c"]
- list: l
  items: [d]
  override: {items: append}
- macro: m
  condition: a.b = c
- macro: m
  condition: or a.b = d
  append: true
- rule: R
  desc: d
  condition: m
  output: o
  priority: NOTICE
  source: ""
  enabled: false
  warn_evttypes: no
  capture: yes
  capture_duration: 500
  tags: [x, y, x]
  exceptions:
    - {name: one, fields: a.b, comps: in, values: [x, y]}
    - {name: two, fields: [a.b, c.d], comps: [in, =], values: [[[x, y], z]]}
    - name: three
      fields: [a.b]
- rule: R
  output: more
  tags: [z]
  priority: ERROR
  capture: false
  capture_duration: "7"
  exceptions: [{name: one, values: [w]}, {name: four, fields: [a.b], values: [[v]]}]
  override: {output: append, tags: append, priority: replace, exceptions: append,
             capture: replace, capture_duration: replace}
- rule: R
  condition: and a.b exists
  append: true
- rule: R
  enabled: true
- rule: R
  exceptions:
  override: {exceptions: replace}
"""


def put_together(text: str, origin: Origin = Origin.SIB) -> tuple[RuleSet, list[Finding]]:
    items, wrong = read_items("a.yaml", text.encode())
    assert wrong == []
    return collect([SourceFile("a.yaml", origin, "a", tuple(items))])


def test_items_are_put_together_as_falco_does() -> None:
    rules, found = put_together(WHOLE[: WHOLE.rindex("- rule: R")])
    assert found == []
    rule = rules.rules["R"]
    assert rule.condition.value == "m and a.b exists"
    assert rule.output.value == "o more"
    assert (rule.priority.value, rule.source, rule.enabled) == ("ERROR", "syscall", True)
    assert rule.tags == ("x", "y", "z")
    assert rule.capture_duration == "7"
    assert rule.flags == {"warn_evttypes": False, "capture": False}
    values = {one.name: one.values for one in rule.exceptions}
    assert values == {
        "one": ("x", "y", "w"),
        "two": ((("x", "y"), "z"),),
        "three": (),
        "four": (("v",),),
    }
    assert rules.lists["l"].items == ("a", "5", "b c", "d")
    assert rules.macros["m"].condition.value == "a.b = c or a.b = d"
    rules, found = put_together(WHOLE)
    assert rules.rules["R"].exceptions == ()


def test_what_is_written_for_hosts_reads_as_the_same() -> None:
    items, _ = read_items("a.yaml", WHOLE.encode())
    again, wrong = read_items("b.yaml", rules_file("x", map(item_document, items)))
    assert wrong == []
    first, second = (
        collect([SourceFile("a", Origin.SIB, "a", tuple(part))])[0] for part in (items, again)
    )
    assert [str(engine.version) for engine in second.engines] == ["15", "0.50.0"]
    assert [one.plugins for one in second.plugins] == [one.plugins for one in first.plugins]
    for name, rule in first.rules.items():
        other = second.rules[name]
        for part in ("condition", "output", "desc", "priority"):
            assert getattr(rule, part).value == getattr(other, part).value
        for part in ("exceptions", "tags", "enabled", "flags", "source", "capture_duration"):
            assert getattr(rule, part) == getattr(other, part)


def faults(text: str) -> Iterator[tuple[int, str]]:
    _, found = put_together(text)
    return ((one.place.line, one.reason) for one in found)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (RULE + RULE, "replaces the rule of the same name at a.yaml:1"),
        ("- list: l\n  items: []\n- list: l\n  items: []\n", "replaces the list"),
        ("- macro: m\n  condition: a\n- macro: m\n  condition: a\n", "replaces the macro"),
        ("- list: l\n  items: []\n  append: true\n", "changes a list that is not defined"),
        ("- macro: m\n  condition: a\n  append: true\n", "changes a macro that is not defined"),
        ("- rule: R\n  enabled: false\n", "changes a rule that is not defined"),
        (
            RULE + "- rule: R\n  exceptions: [{name: n, fields: [a.b]}]\n"
            "  override: {exceptions: append}\n",
            "is new, so it needs fields and values",
        ),
        (
            RULE + "  exceptions: [{name: n, fields: [a.b]}]\n- rule: R\n"
            "  exceptions: [{name: n, fields: [a.b], values: [[x]]}]\n"
            "  override: {exceptions: append}\n",
            "only values can be added",
        ),
        (
            RULE + "  exceptions: [{name: n, fields: [a.b]}]\n- rule: R\n"
            "  exceptions: [{name: n, values: [[x, y]]}]\n  override: {exceptions: append}\n",
            "does not fit its fields, a.b",
        ),
        (
            RULE + "  exceptions: [{name: n, fields: a.b}]\n- rule: R\n"
            "  exceptions: [{name: n, values: [[x]]}]\n  override: {exceptions: append}\n",
            "does not fit its fields, a.b",
        ),
    ],
)
def test_what_falco_would_refuse_or_replace_is_told(text: str, reason: str) -> None:
    ((_, told_reason),) = faults(text)
    assert reason in told_reason


def test_to_write_anew_what_others_wrote_is_an_administrators_right() -> None:
    items, _ = read_items("a.yaml", RULE.encode())
    files = [
        SourceFile("a.yaml", Origin.FALCO, "a", tuple(items)),
        SourceFile("b.yaml", Origin.OWN, "b", tuple(items)),
    ]
    rules, (one,) = collect(files)
    assert one.severity is Severity.WARNING
    assert rules.rules["R"].origin is Origin.OWN
    _, nothing = collect(files[:1] * 2)
    assert nothing == []
    _, (one,) = collect([replace(files[0], origin=Origin.SIB)] * 2)
    assert one.severity is Severity.ERROR
    assert str(one).startswith("a.yaml:1: error: R: replaces")
