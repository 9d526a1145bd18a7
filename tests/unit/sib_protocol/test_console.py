from __future__ import annotations

import errno
import json
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.console import SibGroup, plain_table, print_json, print_table, printable
from sib_protocol.errors import FileAccessError


@click.group(cls=SibGroup)
def program() -> None:
    pass


@program.group()
def noun() -> None:
    pass


@program.group(cls=SibGroup, lazy={"much-later": f"{__name__}:pipe"})
def distant() -> None:
    pass


@noun.command()
def sib() -> None:
    raise FileAccessError(Path("/x\x1b[2J"), "no such file", "make it")


@noun.command()
def os_error() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "/secret")


@noun.command()
def nameless() -> None:
    raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


@noun.command()
def pipe() -> None:
    """Say in one sentence, which is longer than the line that a narrow terminal has, what it does.

    And more.
    """
    raise BrokenPipeError(errno.EPIPE, "Broken pipe")


@noun.command()
def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        ("sib", 4, "error: /x\ufffd[2J: no such file\n  try: make it\n"),
        ("nameless", 1, "error: Connection reset by peer\n"),
        ("pipe", 1, ""),
        ("interrupted", 1, "\nAborted!\n"),
    ],
)
def test_errors_are_two_lines_and_an_exit_code(command: str, code: int, said: str) -> None:
    result = CliRunner().invoke(program, ["noun", command])
    assert (result.exit_code, result.stderr, result.stdout) == (code, said, "")
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize(
    ("user", "remedy"),
    [
        (0, ""),
        (
            1,
            "  try: the user daemon may not do that: use sudo, or a place that is open to daemon\n",
        ),
        (4_000_000, "  try: the user 4000000 may not do that"),
    ],
)
def test_a_missing_permission_names_the_user_who_misses_it(
    user: int, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: user)
    said = CliRunner().invoke(program, ["noun", "os-error"]).stderr
    assert said.startswith(f"error: /secret: Permission denied\n{remedy}")
    assert bool(remedy) == ("try:" in said)


def test_a_mistyped_command_gets_the_one_that_was_meant_even_if_it_was_not_imported_yet() -> None:
    result = CliRunner().invoke(program, ["distant", "much-latr"])
    assert result.exit_code == 2
    assert "No such command 'much-latr'. Did you mean 'much-later'?" in result.stderr


def test_help_lists_commands_with_their_whole_first_sentence() -> None:
    said = " ".join(CliRunner().invoke(program, ["distant", "--help"]).stdout.split())
    assert said.endswith(
        "much-later Say in one sentence, which is longer than the line that a narrow terminal has,"
        " what it does."
    )


def test_a_plain_table_is_aligned_and_steers_no_terminal() -> None:
    table = plain_table(("NAME", "X"), [("web-1", "a\x1b[31m"), ("b", "")])
    assert table == "NAME   X\nweb-1  a\ufffd[31m\nb"
    assert plain_table(("A",), []) == "A"


@given(st.text())
def test_what_is_printable_stays_and_all_else_goes(text: str) -> None:
    assert printable(text).isprintable()
    assert len(printable(text)) == len(text)
    if text.isprintable():
        assert printable(text) == text


def test_piped_output_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "state"), [("web", "late")])
    print_json({"a": [1]})
    out = capsys.readouterr().out
    assert out.startswith("NAME  STATE\nweb   late\n")
    assert json.loads(out.partition("late\n")[2]) == {"a": [1]}


def test_a_terminal_gets_a_drawn_table_and_no_markup(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_table(("name",), [("[red]web[/red]",)])
    assert "[red]web[/red]" in capsys.readouterr().out
