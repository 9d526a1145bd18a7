from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import ExitCode
from sib_protocol.tokens import EnrollmentToken, TokenFormatError

GOOD: dict[str, Any] = {
    "servers": ["https://sib.example:8443", "https://[2001:db8::1]:8443"],
    "pin": "0123456789abcdef" * 4,
    "id": "0123456789abcdef",
    "secret": "A-_z" * 10 + "abc",
}


def text_of(tree: object) -> str:
    return "sib1." + base64.urlsafe_b64encode(json.dumps(tree).encode()).decode().rstrip("=")


def test_there_and_back_with_white_space() -> None:
    token = EnrollmentToken.parse(f"\n  {text_of(GOOD)} \n")
    assert token == EnrollmentToken(
        tuple(GOOD["servers"]),
        GOOD["pin"],
        GOOD["id"],
        GOOD["secret"],
    )
    assert EnrollmentToken.parse(token.text()) == token
    assert str(GOOD["secret"]) not in repr(token) + str(token)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"servers": []}, "form"),
        ({"servers": ["http://x"]}, "form"),
        ({"servers": ["https://user@x"]}, "form"),
        ({"servers": ["https://x/path"]}, "form"),
        ({"servers": ["https://x\n"]}, "form"),
        ({"pin": "0" * 63}, "form"),
        ({"pin": "G" * 64}, "form"),
        ({"id": "0" * 17}, "form"),
        ({"secret": "A" * 42}, "form"),
        ({"secret": "A" * 42 + "/"}, "form"),
        ({"more": 1}, "mistyped"),
        ({"pin": 5}, "mistyped"),
    ],
)
def test_each_part_has_a_form(changed: dict[str, object], reason: str) -> None:
    with pytest.raises(TokenFormatError, match=reason):
        EnrollmentToken.parse(text_of({**GOOD, **changed}))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "begin with"),
        ("sib2.x", "begin with"),
        ("sib1.", "mistyped"),
        ("sib1.\xe9", "mistyped"),
        ("sib1.A", "mistyped"),
        ("sib1." + "A" * 5000, "too long"),
        (text_of(GOOD)[:-9], "mistyped"),
        (text_of("x"), "mistyped"),
    ],
)
def test_what_is_no_token(text: str, reason: str) -> None:
    with pytest.raises(TokenFormatError, match=reason) as caught:
        EnrollmentToken.parse(text)
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.remedy is not None


@given(st.integers(5, 300), st.characters(codec="ascii"))
def test_a_mistyped_token_never_tells_its_secret(place: int, sign: str) -> None:
    text = text_of(GOOD)
    place %= len(text)
    told: TokenFormatError | None = None
    try:
        EnrollmentToken.parse(text[:place] + sign + text[place + 1 :])
    except TokenFormatError as error:
        told = error
    if told is not None:
        assert str(GOOD["secret"])[:8] not in told.problem
        assert told.__cause__ is None
