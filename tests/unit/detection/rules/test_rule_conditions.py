"""The language of conditions: what is read is written back, and what Falco refuses is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_server.detection.rules.conditions import (
    LIST_OPERATORS,
    MODIFIERS,
    NUMBER_OPERATORS,
    SYMBOL_OPERATORS,
    TRANSFORMERS,
    VALUE,
    WORD_OPERATORS,
    And,
    Comparison,
    Condition,
    Exists,
    FieldOf,
    Named,
    Not,
    Or,
    Several,
    Transformed,
    Value,
    Values,
    fields,
    macros,
    values,
)
from sib_server.detection.rules.event_types import EventTypes, event_types
from sib_server.detection.rules.expressions import backtracks, refusal
from sib_server.detection.rules.parsing import MAX_DEPTH, MAX_LENGTH, ConditionError, parse
from sib_server.detection.rules.writing import write

words = st.from_regex(r"[a-z][a-z0-9_]{0,6}", fullmatch=True).filter(
    lambda word: not word.startswith(("and", "or", "not", "exists", "in", *TRANSFORMERS))
)
field_names = st.lists(words, min_size=2, max_size=3).map(".".join)
arguments = st.none() | st.from_regex(r"[a-z0-9.]{1,5}", fullmatch=True) | st.just("a b")
field_nodes = st.builds(FieldOf, field_names, arguments)
quoted = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
plain = st.from_regex(r"[a-zA-Z0-9/_.*-]{1,8}", fullmatch=True).filter(
    lambda word: not word.startswith(("val", *MODIFIERS))
)
value_nodes = st.builds(Value, quoted, st.just(True)) | st.builds(Value, plain, st.just(False))
numbers = st.from_regex(r"-?[0-9]{1,5}(\.[0-9]{1,3})?|0x[0-9a-f]{1,4}", fullmatch=True).map(
    lambda text: Value(text, quoted=False)
)
operands = st.recursive(
    field_nodes | numbers | st.builds(Value, quoted, st.just(True)),
    lambda inner: st.builds(
        Transformed,
        st.sampled_from(TRANSFORMERS),
        st.lists(inner, min_size=1, max_size=3).map(tuple),
    ),
    max_leaves=4,
)
transformed = st.builds(
    Transformed,
    st.sampled_from(TRANSFORMERS),
    st.lists(operands | st.builds(Several, st.lists(operands, max_size=3).map(tuple)), min_size=1,
             max_size=3).map(tuple),
    arguments,
)  # fmt: skip
right_fields = transformed | field_nodes.map(lambda field: Transformed(VALUE, (field,)))
lists = st.builds(Values, st.lists(value_nodes, max_size=4).map(tuple))
left = field_nodes | transformed
comparisons = st.one_of(
    st.builds(Comparison, left, st.sampled_from(NUMBER_OPERATORS), numbers | right_fields),
    st.builds(
        Comparison,
        left,
        st.sampled_from([*SYMBOL_OPERATORS, *WORD_OPERATORS]),
        value_nodes | right_fields,
    ),
    st.builds(
        Comparison,
        left,
        st.builds("{} {}".format, st.sampled_from([*SYMBOL_OPERATORS, *WORD_OPERATORS]),
                  st.sampled_from(MODIFIERS)),
        lists,
    ),
    st.builds(
        Comparison,
        left,
        st.sampled_from(LIST_OPERATORS),
        lists | right_fields | words.map(lambda word: Value(word, quoted=False)),
    ),
)  # fmt: skip


def negated(part: Condition) -> Condition:
    """Falco counts `not`s: two of them are none."""
    return part.part if isinstance(part, Not) else Not(part)


def several(parts: st.SearchStrategy[Condition]) -> st.SearchStrategy[tuple[Condition, ...]]:
    return st.lists(parts, min_size=2, max_size=3).map(tuple)


conditions: st.SearchStrategy[Condition] = st.recursive(
    st.builds(Exists, left) | comparisons | st.builds(Named, words),
    lambda inner: (
        inner.map(negated) | st.builds(And, several(inner)) | st.builds(Or, several(inner))
    ),
    max_leaves=12,
)


@given(conditions)
def test_what_is_written_reads_as_the_same(condition: Condition) -> None:
    assert parse(write(condition)) == condition


@given(conditions, st.data())
def test_any_text_is_read_or_refused_with_a_place(
    condition: Condition, data: st.DataObject
) -> None:
    text = write(condition)
    cut = data.draw(st.integers(0, len(text)))
    more = data.draw(
        st.sampled_from(["", "(", ")", '"', "'", "\\", " and ", "not ", ",", "[", "é"])
    )
    mutated = text[:cut] + more + text[cut + data.draw(st.integers(0, 3)) :]
    refused: ConditionError | None = None
    try:
        again = parse(mutated)
    except ConditionError as error:
        refused = error
    if refused is None:
        assert parse(write(again)) == again
    else:
        assert 0 <= refused.at <= len(mutated)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("a.b=c and(d or e)", "a.b = c and (d or e)"),
        ("not not a.b exists", "a.b exists"),
        ("not(a and b)", "not (a and b)"),
        ("a.b in(x,y)", "a.b in (x, y)"),
        ("a.b in tools", "a.b in tools"),
        ("a.b contains anyof (x)", "a.b contains anyof (x)"),
        ("a.b = oneof", "a.b = oneof"),
        ("a.b = oneof and c", "a.b = oneof and c"),
        ("a.b = 'it''", None),
        ("a.b >= 0x1F", "a.b >= 0x1F"),
        ("a.b[2] = x and c.d['q r'] exists", 'a.b[2] = x and c.d["q r"] exists'),
        ("tolower(a.b) startswith /x", "tolower(a.b) startswith /x"),
        ("a.b != val(c.d)", "a.b != val(c.d)"),
        ('a.b = "\\x41"', None),
        ('a.b = "\\t\\""', 'a.b = "\\t\\""'),
        ("a.b = 'c\\ '", 'a.b = "c\\ "'),
        ("a.b = 'c\\ d'", 'a.b = "c\\\\d"'),
        ("a.b =", None),
        ("a.b", None),
        ("a.b ~ c", None),
        ("a.b contains", None),
        ("a.b > text", None),
        ("a.b in", None),
        ("a.b in (x", None),
        ("a.b in (x y)", None),
        ("a and", None),
        ("andx", "andx"),
        ("a andb", None),
        ("a b", None),
        ("(a", None),
        ("a)", None),
        ("tolower() = x", None),
        ("tolower(a.b = x", None),
        ("concat((a.b c.d)) = x", None),
        ("concat((a.b, )) = x", None),
        ("a.b[] = x", None),
        ("a.b[x = y", None),
        ("a.b = val(c)", None),
        ("a.b = val(c.d", None),
        ("a.b = 'open", None),
        ("", None),
    ],
)
def test_texts_are_taken_as_falco_takes_them(text: str, same: str | None) -> None:
    if same is None:
        with pytest.raises(ConditionError):
            parse(text)
    else:
        assert write(parse(text)) == same


def test_depth_and_length_are_bounded() -> None:
    deep = MAX_DEPTH // 5 - 1
    parse("(" * deep + "a" + ")" * deep)
    with pytest.raises(ConditionError, match="into one another"):
        parse("(" * 100_000 + "a")
    with pytest.raises(ConditionError, match="longer"):
        parse("a" * (MAX_LENGTH + 1))


def test_everything_that_a_condition_names_is_found() -> None:
    condition = parse(
        "m and not (a.b = val(c.d) or concat((e.f, 'x'), g.h) in (y, 'z')) and (n or i.j exists)"
    )
    assert [one.name for one in fields(condition)] == ["a.b", "c.d", "e.f", "g.h", "i.j"]
    assert [one.name for one in macros(condition)] == ["m", "n"]
    assert [value.text for value in values(parse("a.b in (y, 'z')"))] == ["y", "z"]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "names", "inverted"),
    [
        ("evt.type = open", {"open"}, False),
        ("evt.type in (open, close) and evt.type != close", {"open"}, False),
        ("evt.type = open or evt.type = close", {"open", "close"}, False),
        ("not evt.type = open", {"open"}, True),
        ("not (evt.type != open or a.b exists)", {"open"}, False),
        ("not (evt.type = open and a.b exists)", set(), True),
        ("evt.type = open or a.b exists", set(), True),
        ("evt.type exists", set(), True),
        ("evt.type startswith o", set(), True),
        ("not evt.type in (open, close) and not evt.type = dup", {"open", "close", "dup"}, True),
        ("evt.type = open and not evt.type = open", set(), False),
    ],
)  # fmt: skip
def test_event_types_follow_from_the_condition(text: str, names: set[str], inverted: bool) -> None:
    assert event_types(parse(text)) == EventTypes(frozenset(names), inverted)


type_sets = st.builds(EventTypes, st.frozensets(st.sampled_from("abc")), st.booleans())


@given(type_sets, type_sets, st.sampled_from("abcd"))
def test_sets_of_event_types_are_sets(one: EventTypes, other: EventTypes, name: str) -> None:
    def has(types: EventTypes) -> bool:
        return (name in types.names) != types.inverted

    assert has(one & other) == (has(one) and has(other))
    assert has(one | other) == (has(one) or has(other))
    assert has(~one) != has(one)


@pytest.mark.parametrize(
    ("expression", "refused"),
    [
        (r"^/(usr/)?bin/[a-z[:digit:]\]]+\.d{2,3}$", None),
        (r"[\./\n]\t\x41", None),
        (r"(?i)a", "begins by"),
        (r"a(?:b|c)", "begins by"),
        (r"(?P<n>d)", "begins by"),
        (r"\d+", "has \\d"),
        (r"[\w.]", "has \\w"),
        (r"(?=a)", "looks ahead"),
        (r"(?<!a)", "looks back"),
        (r"(a)\1", "refers back"),
        (r"a++", "possessive"),
        (r"(a", "without `)`"),
        (r"a)", "without `(`"),
        (r"[a", "without `]`"),
        (r"*a", "repeats nothing"),
        ("a\\", "lone backslash"),
        (r"\Za", "does not know"),
        (r"a{1001}", "more than 1000"),
        (r"(a{40}){40}", "more than 1000"),
        (r"(?>a)", "atomic"),
    ],
)
def test_expressions_that_re2_refuses(expression: str, refused: str | None) -> None:
    found = refusal(expression)
    assert (found is None) if refused is None else (found is not None and refused in found)


@pytest.mark.parametrize(
    ("expression", "part"),
    [
        ("(a+)+b", "(a+)+"),
        ("x(a*b*)*", "(a*b*)*"),
        ("((ab){2,})*", "((ab){2,})*"),
        ("(a+b)?c+", None),
        ("a+b+", None),
        ("(a{2,5})+", None),
        ("[(a+)+]+", None),
    ],
)
def test_expressions_that_explode_elsewhere(expression: str, part: str | None) -> None:
    assert backtracks(expression) == part
