"""Doing a part of root's work as another user, in a process of its own.

What belongs to the server's user is made by it: root that writes into a directory which another
user can write to follows whatever that user puts there.
"""

from __future__ import annotations

import os
import pwd
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from sib_protocol.errors import UNDECODABLE, ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")

_LOST: Final = 70


@dataclass(frozen=True, slots=True)
class User:
    """A user of this system, by numbers."""

    uid: int
    gid: int


class _Failure(msgspec.Struct, frozen=True):
    problem: str
    remedy: str | None
    exit_code: int


class UnprivilegedError(SibError):
    """What went wrong in the other process."""

    def __init__(self, problem: str, remedy: str | None, exit_code: int) -> None:
        super().__init__(problem, remedy)
        # Shadows the class': the other process' error has its own.
        self.exit_code = ExitCode(exit_code)  # type: ignore[misc]


def find_user(name: str) -> User | None:
    """A user by name, or ``None``."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return User(entry.pw_uid, entry.pw_gid)


def run_as(user: User | None, work: Callable[[], Result], wanted: type[Result]) -> Result:
    """Do something as a user, and bring its result back.

    Args:
        user: ``None``: as who we are, here.
        work: its result can be written as JSON.
        wanted: the result's type.

    Raises:
        SibError: what the work raised.
    """
    if user is None:
        return work()
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _be(user, work, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return msgspec.json.decode(answer, type=wanted)
    try:
        failure = msgspec.json.decode(answer, type=_Failure)
    except UNDECODABLE:
        raise UnprivilegedError(
            f"work as user {user.uid} ended with {code}",
            "look above for what it said",
            ExitCode.FAILURE,
        ) from None
    raise UnprivilegedError(failure.problem, failure.remedy, failure.exit_code)


def _be(user: User, work: Callable[[], object], writing: int) -> None:
    """The other process; never returns."""
    code = _LOST
    try:
        os.setgroups([])
        os.setgid(user.gid)
        os.setuid(user.uid)
        os.umask(0o027)
        os.chdir("/")
        try:
            answer, code = msgspec.json.encode(work()), 0
        except SibError as error:
            answer = msgspec.json.encode(
                _Failure(error.problem, error.remedy, int(error.exit_code))
            )
            code = 1
        view = memoryview(answer)
        while view:
            view = view[os.write(writing, view) :]
    except BaseException:  # noqa: BLE001  (a child that returned would go on as its parent)
        sys.excepthook(*sys.exc_info())
        code = _LOST
    finally:
        sys.stderr.flush()
        os._exit(code)
