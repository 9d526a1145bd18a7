from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import MalformedMessageError
from sib_server.stack.push.labels import format_labels, parse_labels

_names = st.from_regex(re.compile(r"[a-zA-Z_][a-zA-Z0-9_]{0,9}", re.ASCII), fullmatch=True)
_values = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.dictionaries(_names, _values, max_size=6))
def test_labels_come_back_as_they_were_written(labels: dict[str, str]) -> None:
    assert parse_labels(format_labels(labels)) == labels


def test_go_s_way_of_quoting_is_read() -> None:
    text = rb'{ a = "\a\b\f\n\r\t\v\\\"" , b="\x7f\u00e9\U0001f600",c=""}'
    assert parse_labels(text) == {"a": '\a\b\f\n\r\t\v\\"', "b": "\x7fé😀", "c": ""}
    assert parse_labels(b"{}") == {}
    assert format_labels({"b": "1", "a": '"\\'}) == b'{a="\\"\\\\", b="1"}'


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"a",
        b"{",
        b"{a}",
        b'{a="1"',
        b'{a="1",}x',
        b'{a="1"} {b="2"}',
        b'{a="1", a="2"}',
        b"{a=`raw`}",
        b"{a='x'}",
        b'{a=~"x"}',
        b'{a!="x"}',
        b'{a="\\q"}',
        b'{a="\\xff"}',
        b'{a="\\ud800"}',
        b'{a="\\U00110000"}',
        b'{a="\n"}',
        b'{a="\xff"}',
        '{é="x"}'.encode(),
        b'{1a="x"}',
        b'{a="' + b"x" * 3000 + b'"}',
        b'{a="' + b"x" * 20000 + b'"}',
        b"{" + b",".join(b'l%d="x"' % n for n in range(40)) + b"}",
    ],
)
def test_anything_else_is_refused(text: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        parse_labels(text)


@given(st.binary(max_size=40).map(lambda raw: b"{" + raw + b"}") | st.binary(max_size=40))
def test_no_text_breaks_the_reader(text: bytes) -> None:
    try:
        labels = parse_labels(text)
    except MalformedMessageError:
        return
    assert parse_labels(format_labels(labels)) == labels
