"""Recognising hosts without waiting: as good as the longer way, or not at all."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from sib_server.fleet.refusals import RemovedHostError, RevokedCertificateError
from sib_server.pki import ledger
from sib_server.pki.authority import Authority
from sib_server.state.database import StateDatabase
from tests.support.fleet import World

REVOKE = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1], timeout=15) as connection:
    connection.execute("UPDATE certificates SET revoked_ns = 1 WHERE serial = ?", (sys.argv[2],))
connection.close()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.db"


@pytest.fixture
def here(file: Path, authority: Authority) -> World:
    database = StateDatabase(f"sqlite:///{file}")
    database.migrate()
    return World(database, authority)


def test_a_revocation_by_another_process_holds_at_the_next_look(here: World, file: Path) -> None:
    member, other = here.join("web-1"), here.join("web-2")
    for one in (member, other):
        # Not before its first use was noted.
        assert here.fleet.recognise_at_once(one.der) is None
        known = here.fleet.authenticate(one.der)
        assert here.fleet.recognise_at_once(one.der) == known
    subprocess.run([sys.executable, "-c", REVOKE, str(file), member.serial], check=True, timeout=30)
    assert here.fleet.recognise_at_once(member.der) is None
    with pytest.raises(RevokedCertificateError):
        here.fleet.authenticate(member.der)
    assert here.fleet.recognise_at_once(other.der) is not None
    here.state.close()


def test_a_removal_by_another_server_holds_at_the_next_look(
    state_url: str, authority: Authority
) -> None:
    ours, theirs = StateDatabase(state_url), StateDatabase(state_url)
    ours.migrate()
    one, two = World(ours, authority), World(theirs, authority)
    member = one.join("web-1")
    known = two.fleet.authenticate(member.der)
    assert two.fleet.recognise_at_once(member.der) in {None, known}
    one.fleet.remove_host("web-1")
    assert two.fleet.recognise_at_once(member.der) is None
    with pytest.raises(RemovedHostError):
        two.fleet.authenticate(member.der)
    ours.close()
    theirs.close()


def test_it_waits_for_no_writer_and_leaves_what_fails_to_the_longer_way(
    here: World, file: Path
) -> None:
    member = here.join("web-1", here.token(tags=("web", "dmz")))
    known = here.fleet.authenticate(member.der)
    with here.state.begin() as connection:
        # Not committed yet, so not so yet; and the open transaction is not waited for.
        ledger.revoke_serial(connection, member.serial, 1)
        assert here.fleet.recognise_at_once(member.der) == known
    assert here.fleet.recognise_at_once(member.der) is None
    assert known.tags == ("web", "dmz")
    here.state.close()

    alone = sqlite3.connect(file, isolation_level=None)
    alone.execute("PRAGMA locking_mode = EXCLUSIVE")
    alone.execute("UPDATE certificates SET revoked_ns = NULL")
    assert here.fleet.recognise_at_once(member.der) is None, "the database is locked"
    alone.close()
    assert here.fleet.recognise_at_once(member.der) == known
    here.state.close()
    file.unlink()
    assert here.fleet.recognise_at_once(member.der) is None, "the database is gone"
    assert not file.exists()
