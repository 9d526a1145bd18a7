from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import FileAccessError
from sib_protocol.generated import (
    Action,
    GeneratedFile,
    decide,
    group_owner,
    is_untouched,
    plan_files,
    with_header,
    write_files,
)


def made(body: str, comment: str = "#") -> bytes:
    return with_header(body, comment=comment, by="sib-agent setup", source="/etc/sib/agent.yaml")


@given(st.text(), st.sampled_from(["#", "//", ";"]), st.data())
def test_every_edit_of_the_body_is_seen(body: str, comment: str, data: st.DataObject) -> None:
    content = made(body, comment)
    assert is_untouched(content)
    head = len(content) - len(body.encode())
    at = data.draw(st.integers(head, len(content)))
    more = data.draw(st.binary(min_size=1, max_size=5))
    assert not is_untouched(content[:at] + more + content[at:])
    if body:
        assert not is_untouched(content[:-1])


@pytest.mark.parametrize(
    ("found", "force", "action"),
    [
        (None, False, Action.CREATED),
        (made("new"), False, Action.UNCHANGED),
        (made("old"), False, Action.UPDATED),
        (made("old") + b"mine", False, Action.KEPT),
        (b"written by hand", False, Action.KEPT),
        (b"written by hand", True, Action.REPLACED),
        (made("new"), True, Action.UNCHANGED),
    ],
)
def test_only_what_nobody_edited_is_replaced(
    found: bytes | None, force: bool, action: Action
) -> None:
    assert decide(found, made("new"), force=force) is action


def test_an_edit_stays_through_any_number_of_setups(tmp_path: Path) -> None:
    path, beside = tmp_path / "falco.yaml", tmp_path / "falco.yaml.new"

    def setup(body: str, *, force: bool = False) -> Action:
        file = GeneratedFile(path, made(body), 0o600)
        planned = plan_files([file], force=force)
        before = {item: item.read_bytes() for item in tmp_path.iterdir()}
        assert before == {item: item.read_bytes() for item in tmp_path.iterdir()}
        assert write_files([file], force=force) == planned
        return planned[0].action

    assert setup("one") is Action.CREATED
    assert path.stat().st_mode & 0o777 == 0o600
    assert setup("one") is Action.UNCHANGED
    assert setup("two") is Action.UPDATED
    edited = path.read_bytes() + b"mine\n"
    path.write_bytes(edited)
    assert [setup("three"), setup("four"), setup("four")] == [Action.KEPT] * 3
    assert path.read_bytes() == edited
    assert beside.read_bytes() == made("four")
    # What people do with such a file: take it.
    beside.rename(path)
    assert setup("five") is Action.UPDATED
    path.write_bytes(edited)
    assert setup("six") is Action.KEPT
    assert setup("six", force=True) is Action.REPLACED
    assert path.read_bytes() == made("six")
    assert (tmp_path / "falco.yaml.old").read_bytes() == edited
    assert not beside.exists()


def test_what_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(FileAccessError, match="directory"):
        plan_files([GeneratedFile(tmp_path / "directory", b"")])
    with pytest.raises(FileAccessError, match="missing"):
        write_files([GeneratedFile(tmp_path / "missing" / "file", b"")])
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(20 * 1024 * 1024)
    with pytest.raises(FileAccessError, match="over"):
        plan_files([GeneratedFile(large, b"")])


def test_owner_is_root_and_the_group_where_root_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert group_owner("no-such-group") is None
    if os.geteuid() == 0:
        owner = group_owner("adm")
        assert owner is not None
        write_files([GeneratedFile(tmp_path / "file", b"x", owner=owner)])
        found = (tmp_path / "file").stat()
        assert (found.st_uid, found.st_gid) == owner
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert group_owner("adm") is None
