from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import MalformedMessageError
from sib_protocol.ids import (
    EventId,
    LineNumber,
    new_host_id,
    new_stream_id,
    parse_host_id,
    parse_host_name,
    parse_stream_id,
)


@given(st.uuids(), st.integers(0, 10**18))
def test_event_ids_there_and_back(stream: uuid.UUID, number: int) -> None:
    made = EventId(parse_stream_id(str(stream)), LineNumber(number))
    assert EventId.parse(str(made)) == made


def test_one_id_has_one_spelling() -> None:
    one = str(uuid.uuid4())
    assert parse_host_id(one) == one
    for odd in (one.upper() + "A", "{" + one + "}", "urn:uuid:" + one, one.replace("-", ""), ""):
        for parse in (parse_host_id, parse_stream_id):
            with pytest.raises(MalformedMessageError):
                parse(odd)
    assert new_host_id() != new_host_id()
    assert parse_stream_id(new_stream_id())


@pytest.mark.parametrize(
    "text", ["", "x", "{}/-1", "{}/1.5", "{}/²", "{}", "{}/", "{}/" + "9" * 20]
)
def test_what_is_no_event_id(text: str) -> None:
    with pytest.raises(MalformedMessageError):
        EventId.parse(text.replace("{}", new_stream_id()))


@pytest.mark.parametrize("good", ["a", "web-1", "a.b_c", "A" * 253, "0"])
def test_host_names(good: str) -> None:
    assert parse_host_name(good) == good


@pytest.mark.parametrize("bad", ["", "-a", "a-", "a b", "a/b", "é", "a\n", "A" * 254, "..", "a\0"])
def test_what_is_no_host_name(bad: str) -> None:
    with pytest.raises(MalformedMessageError, match="cannot name a host"):
        parse_host_name(bad)
