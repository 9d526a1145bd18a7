from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import MalformedMessageError, TooLargeError
from sib_protocol.messages import (
    EnrollRequest,
    GapReason,
    GapReport,
    HealthReport,
    Refusal,
    StreamAnswer,
    decode_message,
    encode_message,
    proof_text,
)


@given(st.integers(0, 2**62), st.integers(0, 2**62), st.sampled_from(GapReason))
def test_there_and_back(first: int, last: int, reason: GapReason) -> None:
    gap = GapReport(first, last, reason)
    assert decode_message(encode_message(gap), GapReport) == gap


def test_keys_of_a_newer_side_are_passed_over_and_types_are_strict() -> None:
    assert decode_message(b'{"next": 5, "later": {}}', StreamAnswer) == StreamAnswer(5)
    assert decode_message(b'{"error": "a", "problem": "b"}', Refusal).remedy is None
    for wrong in (
        b'{"next": "5"}',
        b'{"next": 5.5}',
        b'{"next": true}',
        b"{}",
        b"[]",
        b"",
        b"\xff",
    ):
        with pytest.raises(MalformedMessageError, match="StreamAnswer"):
            decode_message(wrong, StreamAnswer)


def test_size_and_depth_are_bounded() -> None:
    with pytest.raises(TooLargeError):
        decode_message(b" " * 11, StreamAnswer, max_bytes=10)
    deep = b'{"next": 1, "x": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    with pytest.raises(MalformedMessageError):
        decode_message(deep, StreamAnswer)


@given(st.binary(max_size=100))
def test_only_the_documented_error(body: bytes) -> None:
    for wanted in (EnrollRequest, HealthReport, GapReport):
        with pytest.raises(MalformedMessageError):
            decode_message(body, wanted)


def test_an_error_says_where() -> None:
    with pytest.raises(MalformedMessageError, match=r"\$\.first"):
        decode_message(json.dumps({"first": "x", "last": 1, "reason": "quota"}).encode(), GapReport)


def test_a_proof_is_for_one_request_and_one_purpose() -> None:
    assert proof_text("a") != proof_text("b")
    assert proof_text("a").startswith(b"sib renew-expired v1\n")
