from __future__ import annotations

import io
import logging
import sys
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.logs import LineFormatter, one_line, redact, set_up_logging


def record(message: str, level: int = logging.INFO, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("sib.x", level, __file__, 1, message, (), None)
    made.fields = fields
    return made


@pytest.mark.parametrize(
    "text",
    [
        "token sib1.SECRETabc-_9 used",
        "Authorization: Basic SECRET",
        "authorization: SECRET more SECRET",
        "bearer SECRET",
        "-----BEGIN PRIVATE KEY-----\nSECRET\n-----END PRIVATE KEY-----",
        "-----BEGIN EC PRIVATE KEY-----\nSECRET and cut",
    ],
)
def test_secrets_are_taken_out_by_their_form(text: str) -> None:
    assert "SECRET" not in redact(text)
    assert "[redacted]" in redact(text)
    assert "SECRET" not in LineFormatter(priorities=True).format(record("x", field=text))


@given(st.text(max_size=60), st.text(max_size=60))
def test_whatever_is_logged_is_one_line_that_steers_nothing(message: str, value: str) -> None:
    for priorities in (True, False):
        made = record("%s", key=value)
        made.args = (message,)
        line = LineFormatter(priorities=priorities).format(made)
        assert line.isprintable()


def test_the_form_of_a_line() -> None:
    formatter = LineFormatter(priorities=True)
    line = formatter.format(record("hello", logging.ERROR, a=1, b='two "words"', c="", d="x=y"))
    assert line == '<3>sib.x: hello a=1 b="two \\"words\\"" c="" d="x=y"'
    assert formatter.format(record("x", 25)).startswith("<6>")
    assert " warning sib.x: x" in LineFormatter(priorities=False).format(
        record("x", logging.WARNING)
    )
    assert one_line("a\x1b[31m\nb") == "a\\x1b[31m\\nb"


def test_a_traceback_stays_in_its_line() -> None:
    try:
        int("sib1.secret")
    except ValueError:
        made = record("failed")
        made.exc_info = sys.exc_info()
    line = LineFormatter(priorities=True).format(made)
    assert "ValueError: " in line
    assert "sib1.secret" not in line
    assert "\n" not in line


def test_the_root_logger_is_set_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    chatty = logging.getLogger("urllib3")
    chatty_level = chatty.level
    try:
        for stream in ("8:1", None):
            if stream is None:
                monkeypatch.delenv("JOURNAL_STREAM")
            else:
                monkeypatch.setenv("JOURNAL_STREAM", stream)
            with mock.patch("sys.stderr", io.StringIO()) as error:
                set_up_logging("info")
                logging.getLogger("x").info("hello")
                chatty.info("unwanted")
                logging.getLogger("x").debug("unwanted")
            text = error.getvalue()
            assert text.startswith("<6>x: hello") is (stream is not None)
            assert text.count("\n") == 1
            assert len(root.handlers) == 1
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        for name in ("uvicorn", "urllib3", "aiohttp", "asyncio", "alembic"):
            logging.getLogger(name).setLevel(chatty_level)
