"""Acting as the user that a directory belongs to.

Root that writes into a directory of the daemon's follows whatever links a taken-over daemon left
there, and leaves files that the daemon may not touch. So root becomes that user for as long.
"""

from __future__ import annotations

import grp
import os
import pwd
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVER_USER: Final = "sib-server"


@dataclass(frozen=True, slots=True)
class Account:
    """Whose files are meant.

    Attributes:
        uid: user.
        gid: group.
    """

    uid: int
    gid: int


def own_account() -> Account:
    """Who runs this."""
    return Account(os.geteuid(), os.getegid())


def server_account(home: Path) -> Account:
    """Who the server's state belongs to: its directory's owner; before there is one, its user."""
    if os.geteuid() != 0:
        return own_account()
    for place in (home, *home.parents[:-2]):
        try:
            found = place.stat()
        except OSError:
            continue
        if found.st_uid or place == home:
            return Account(found.st_uid, found.st_gid)
    try:
        entry = pwd.getpwnam(SERVER_USER)
    except KeyError:
        return own_account()
    return Account(entry.pw_uid, entry.pw_gid)


@contextmanager
def acting_as(account: Account) -> Iterator[None]:
    """For root: access files as this account; for anybody else, nothing.

    It is the whole process that does so, and not for running programs: a way to leave files with
    their owner, not a sandbox.
    """
    if os.geteuid() != 0 or account == own_account():
        yield
        return
    before = own_account()
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(before.uid)
        os.setegid(before.gid)
        os.setgroups(groups)


def user_name(uid: int) -> str:
    """A user's name, or '' for none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""


def group_name(gid: int) -> str:
    """A group's name, or '' for none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def find_account(user: str, group: str, default: Account) -> Account:
    """By names that may not be known here."""
    try:
        uid = pwd.getpwnam(user).pw_uid
    except KeyError:
        uid = default.uid
    try:
        gid = grp.getgrnam(group).gr_gid
    except KeyError:
        gid = default.gid
    return Account(uid, gid)
