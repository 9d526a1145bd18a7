from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from sib_protocol.errors import ExitCode, FileAccessError, SettingsError
from sib_protocol.settings import load_settings, parse_settings


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    quota_bytes: Annotated[int, Meta(ge=10)] = 10
    directory: Path = Path("/x")


class Outer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    spool: Inner = Inner()
    many: tuple[Inner, ...] = ()
    odd: complex | None = None


def parse(text: str) -> Outer:
    return parse_settings(text, Outer, Path("/etc/x.yaml"))


# Nine times nine, eight times over, from some lines.
BOMB = "a0: &a0 [1]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 3000))


def test_defaults_and_values() -> None:
    assert parse("") == parse("{}") == Outer()
    assert parse("spool: {quota_bytes: 11, directory: /y}").spool == Inner(11, Path("/y"))


@pytest.mark.parametrize(
    ("text", "problem", "remedy"),
    [
        ("spol: {}", "/etc/x.yaml: spol: unknown setting", "did you mean 'spool'?"),
        ("zzz: 1", "zzz: unknown setting", "known keys: spool, many, odd"),
        ("spool: {quota_byte: 1}", "spool.quota_byte: unknown", "did you mean 'quota_bytes'?"),
        ("spool: {quota_bytes: 1}", "spool.quota_bytes: Expected", None),
        ("spool: {quota_bytes: x}", "spool.quota_bytes: Expected `int`, got `str`", None),
        ("spool: 5", "spool: Expected `object`", None),
        ("- 1", "/etc/x.yaml: Expected `object`", None),
        ("a: [", "line 1: not valid YAML", None),
        ("a: b: c", "line 1: not valid YAML", None),
        ("a: !!python/object/apply:os.system [x]", "not valid YAML", None),
        ("a: 2026-99-99", "not valid YAML: month", None),
        ("odd:\n " + "[" * 990 + "]" * 990, "line 2: nested deeper than 20 levels", None),
        ("&a [*a]", "by its aliases larger or deeper", None),
        (BOMB, "by its aliases larger or deeper", None),
        (CHAIN, "by its aliases larger or deeper", None),
        ("\0", "not valid YAML", None),
        ("many: [{x: 1}]", "unknown setting", None),
        ("odd: [1]", "odd", None),
    ],
)
def test_what_is_wrong_is_named(text: str, problem: str, remedy: str | None) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text)
    assert problem in caught.value.problem
    assert caught.value.exit_code is ExitCode.SETTINGS
    if remedy is not None:
        assert caught.value.remedy == remedy


@given(st.text(alphabet="ab:[]{}-,!&*'\"\n \\0129.e~|>%@", max_size=40))
def test_only_the_documented_error(text: str) -> None:
    with suppress(SettingsError):
        parse(text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with pytest.raises(FileAccessError, match="no such settings file"):
        load_settings(path, Outer)
    path.write_bytes(b"\xff")
    with pytest.raises(SettingsError, match="not UTF-8"):
        load_settings(path, Outer)
    with pytest.raises(FileAccessError, match="directory"):
        load_settings(tmp_path, Outer)
    with (
        mock.patch.object(Path, "read_text", side_effect=PermissionError(13, "Permission denied")),
        pytest.raises(FileAccessError, match="Permission denied"),
    ):
        load_settings(path, Outer)
    path.write_text("spool: {quota_bytes: 12}")
    assert load_settings(path, Outer).spool.quota_bytes == 12
