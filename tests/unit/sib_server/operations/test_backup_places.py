"""Collecting and putting in place: whose files, which files, and cut off in the middle."""

from __future__ import annotations

import io
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

import pytest

from sib_protocol.settings import parse_settings
from sib_server.events.failures import JournalInUseError, JournalTooNewError
from sib_server.events.journal import Journal
from sib_server.events.meta import write_meta
from sib_server.fleet.adoption import FILE, read_window
from sib_server.operations.accounts import Account, acting_as, own_account, server_account
from sib_server.operations.backup import restore as restore_module
from sib_server.operations.backup import run
from sib_server.operations.backup.collect import collect
from sib_server.operations.backup.errors import (
    ArchiveRefusedError,
    NoRoomError,
    OutsideStateError,
    StateThereError,
)
from sib_server.operations.backup.manifest import Section
from sib_server.operations.backup.places import find_places, sqlite_path
from sib_server.operations.backup.sealing import Identity, make_identity, parse_identities, seal
from sib_server.operations.backup.sealing import parse_recipient as recipient
from sib_server.pki.authority import Authority
from sib_server.settings import ServerSettings
from sib_server.state.database import StateDatabase, StateTooNewError

SECRET, PUBLIC = make_identity()
KEY: Sequence[Identity] = parse_identities(SECRET, "test")


def make(home: Path, *, authority: bool = True) -> tuple[ServerSettings, Path]:
    """A server's files below a directory; its settings in ``etc``."""
    (home / "etc").mkdir(parents=True)
    (home / "state").mkdir()
    tree = {
        "state": {"url": f"sqlite:///{home / 'state' / 'state.db'}"},
        "pki": {"directory": str(home / "state" / "pki")},
        "journal": {"path": str(home / "state" / "journal" / "journal.db")},
        "sigma": {"directory": str(home / "state" / "sigma")},
        "intel": {"directory": str(home / "state" / "intel")},
        "detection": {"directory": str(home / "state" / "rules")},
        "bundles": {"directory": str(home / "state" / "bundles")},
    }
    file = home / "etc" / "server.yaml"
    file.write_text(json.dumps(tree))
    settings = parse_settings(file.read_text(), ServerSettings, file)
    if authority:
        Authority.create(settings.pki.directory, "test").server_certificate(["localhost"])
        state = StateDatabase(settings.state.url)
        state.migrate()
        state.close()
        Journal.open(settings.journal.path).close()
    return settings, file


def backed_up(settings: ServerSettings, file: Path, *, journal: bool = False) -> bytes:
    target = io.BytesIO()

    def put(chunks: Iterator[bytes], _size: int) -> None:
        seal(chunks, target, [recipient(PUBLIC)])

    run.back_up(settings, file, put, journal=journal)
    return target.getvalue()


def restored(
    content: bytes, file: Path, own: ServerSettings | None, *, replace: bool = True
) -> run.RestoreReport:
    source: BinaryIO = io.BytesIO(content)
    with run.opened(source, KEY, file, own) as staged:
        return run.restore(staged, replace=replace)


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not path.is_symlink() and ".before-restore-" not in str(path)
    }


def test_everything_comes_back_with_its_rights(tmp_path: Path) -> None:
    settings, file = make(tmp_path / "a")
    (tmp_path / "a/etc/rules.d").mkdir()
    (tmp_path / "a/etc/rules.d/own.yaml").write_text("x")
    (tmp_path / "a/etc/agent.yaml").write_text("an agent's")
    (tmp_path / "a/state/sigma/deep").mkdir(parents=True)
    (tmp_path / "a/state/sigma/deep/rule.yml").write_text("y")
    (tmp_path / "a/state/bundles/3").mkdir(parents=True)
    (tmp_path / "a/state/bundles/3/rules").write_text("r")
    (tmp_path / "a/state/bundles/current").symlink_to("3")
    content = backed_up(settings, file, journal=True)

    other, other_file = make(tmp_path / "b", authority=False)
    report = restored(content, other_file, other, replace=False)
    assert report.set_aside == []
    assert other.pki.directory.joinpath("ca/current/ca.key").stat().st_mode & 0o777 == 0o600
    before, after = tree(settings.pki.directory), tree(other.pki.directory)
    window = read_window(other.pki.directory)
    assert window is not None
    assert window.taken_ns < window.restored_ns
    after.pop(FILE)
    assert after == before
    assert tree(tmp_path / "b/state/sigma") == {"deep/rule.yml": b"y"}
    # With the configuration kept, none of the backup's is there.
    assert not (tmp_path / "b/etc/rules.d").exists()
    Authority.load(other.pki.directory)
    Journal.open(other.journal.path).close()

    # And with it: where the backup's settings say, here the places of the lost server.
    restored(content, file, None)
    assert (tmp_path / "a/etc/rules.d/own.yaml").read_text() == "x"
    assert (tmp_path / "a/state/bundles/current/rules").read_text() == "r"


def test_what_does_not_belong_to_it_is_left_out_and_named(tmp_path: Path) -> None:
    settings, file = make(tmp_path / "a")
    intel = settings.intel.directory
    intel.mkdir()
    (intel / "stolen").symlink_to("/etc/shadow")
    (intel / "beside").symlink_to("kept")
    (intel / "kept").write_text("z")
    (intel / ("long" * 30)).write_text("z")
    (intel / ".partial").write_text("z")
    os.mkfifo(intel / "fifo")
    (tmp_path / "a/etc/agent.yaml").write_text("an agent's")
    places = find_places(settings, file)
    with collect(places, journal=False, state=True, work=None) as found:
        stored = {entry.path for entry in found.entries}
        assert {path for path in stored if path.startswith("intel/")} == {"intel/kept"}
        assert {link.path for link in found.links if link.path.startswith("intel")} == {
            "intel/beside"
        }
        assert {path for path in stored if path.startswith("config/")} == {"config/server.yaml"}
        assert "/etc/shadow" in " ".join(found.left_out)
        assert "too long" in " ".join(found.left_out)
        copies = next(iter(found.copies.values())).parent
        assert copies.exists()
    assert not list((tmp_path / "a/state").glob(".sib-backup-*"))


def test_places_that_cannot_hold_or_give_a_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, file = make(tmp_path / "a")
    places = find_places(settings, file)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: _Usage())
    with (
        pytest.raises(NoRoomError),
        collect(places, journal=True, state=True, work=None),
    ):
        pass
    elsewhere = parse_settings("state: {url: 'postgresql://x@y/z'}", ServerSettings, file)
    with (
        pytest.raises(OutsideStateError),
        collect(find_places(elsewhere, file), journal=False, state=True, work=tmp_path),
    ):
        pass
    assert sqlite_path("sqlite:////var/lib/x/state.db") == Path("/var/lib/x/state.db")
    assert sqlite_path("postgresql://x@y/z") is None


class _Usage:
    free = 0


def test_a_restore_that_is_cut_off_is_done_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, file = make(tmp_path / "a")
    content = backed_up(settings, file, journal=True)
    other, other_file = make(tmp_path / "b")
    pin = Authority.load(settings.pki.directory).pin
    with pytest.raises(StateThereError):
        restored(content, other_file, other, replace=False)

    swap = restore_module._swap
    for after in range(4):
        swapped = 0

        def cut(staged: Path, target: Path, stamp: str, last: int = after) -> list[Path]:
            nonlocal swapped
            if swapped == last:
                raise KeyboardInterrupt
            swapped += 1
            return swap(staged, target, stamp)

        monkeypatch.setattr(restore_module, "_swap", cut)
        try:
            restored(content, other_file, other)
        except KeyboardInterrupt:
            assert not list((tmp_path / "b/state").glob(".*restore-*"))
    monkeypatch.setattr(restore_module, "_swap", swap)
    restored(content, other_file, other)
    assert Authority.load(other.pki.directory).pin == pin
    # The CA that was there first lies there still.
    pins = {
        Authority.load(path).pin for path in (tmp_path / "b/state").glob("pki.before-restore-*")
    }
    assert len(pins - {pin}) == 1


def test_nothing_is_put_under_a_server_that_runs(tmp_path: Path) -> None:
    settings, file = make(tmp_path / "a")
    content = backed_up(settings, file)
    running = Journal.open(settings.journal.path)
    try:
        with pytest.raises(JournalInUseError):
            restored(content, file, None)
    finally:
        running.close()


def test_a_backup_that_this_sib_cannot_use_touches_nothing(tmp_path: Path) -> None:
    settings, file = make(tmp_path / "a")
    path = sqlite_path(settings.state.url)
    assert path is not None
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("UPDATE alembic_version SET version_num = '9999'")
        opened.commit()
    newer = backed_up(settings, file)
    other, other_file = make(tmp_path / "b")
    before = tree(tmp_path / "b")
    with pytest.raises(StateTooNewError):
        restored(newer, other_file, other)
    path.write_bytes(b"SQLite format 3\0" + b"x" * 5000)
    with pytest.raises(Exception, match="cannot be copied"):
        backed_up(settings, file)
    assert tree(tmp_path / "b") == before

    elsewhere = parse_settings(
        json.dumps({"state": {"url": "postgresql://x@y/z"}, "pki": {"directory": "/nowhere"}}),
        ServerSettings,
        file,
    )
    with pytest.raises((ArchiveRefusedError, OSError)):
        restored(newer, other_file, elsewhere)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_leaves_files_with_their_owner(tmp_path: Path) -> None:
    settings, file = make(tmp_path / "a")
    someone = Account(54_321, 54_322)
    tmp_path.chmod(0o755)
    for path in [tmp_path / "a/state", *(tmp_path / "a/state").rglob("*")]:
        os.chown(path, someone.uid, someone.gid, follow_symlinks=False)
    for parent in tmp_path.parents[: len(tmp_path.parts) - 2]:
        if parent.stat().st_mode & 0o001 == 0:
            parent.chmod(parent.stat().st_mode | 0o711)
    assert server_account(tmp_path / "a/state") == someone
    content = backed_up(settings, file, journal=True)
    restored(content, file, None)
    owners = {
        (path.lstat().st_uid, path.lstat().st_gid) for path in (tmp_path / "a/state").rglob("*")
    }
    assert owners == {(54_321, 54_322)}
    before = own_account()
    with acting_as(someone):
        assert own_account() == someone
    assert own_account() == before
    assert server_account(tmp_path / "not/there/yet").uid in {0, *_server_uid()}
    assert Section.STATE in find_places(settings, file).of


def _server_uid() -> list[int]:
    import pwd  # noqa: PLC0415

    try:
        return [pwd.getpwnam("sib-server").pw_uid]
    except KeyError:
        return []


def test_a_newer_sibs_journal_is_left_alone_and_says_so(tmp_path: Path) -> None:
    settings, _file = make(tmp_path / "a")
    path = settings.journal.path
    with closing(sqlite3.connect(path)) as opened:
        write_meta(opened, "schema", "2")
        opened.commit()
    with pytest.raises(JournalTooNewError) as caught:
        Journal.open(path)
    assert "upgrade sib-server" in str(caught.value.remedy)
    assert caught.value.version == 2
