"""The file of decisions: whole or not at all, one writer at a time."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.errors import UNDECODABLE, ExitCode, FileAccessError, SibError
from sib_protocol.files import write_atomic
from sib_server.detection.rules.decisions import Decisions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

FILE_NAME: Final = "decisions.json"
_FORMAT: Final = 1


class DamagedDecisionsError(SibError):
    """A file of decisions that cannot be read; nothing is decided anew over it."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}", "put it back from a backup, or move it away")
        self.path = path
        self.reason = reason


def load_decisions(directory: Path) -> Decisions:
    """What was decided; nothing where there is no file yet.

    Raises:
        FileAccessError: it cannot be read.
        DamagedDecisionsError: it is not a file of decisions.
    """
    path = directory / FILE_NAME
    try:
        decisions = msgspec.json.decode(path.read_bytes(), type=Decisions)
    except FileNotFoundError:
        return Decisions()
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
    except UNDECODABLE as error:
        raise DamagedDecisionsError(path, str(error)) from error
    if decisions.format != _FORMAT:
        raise DamagedDecisionsError(path, f"its format is {decisions.format}, not {_FORMAT}")
    return decisions


def change_decisions(directory: Path, change: Callable[[Decisions], Decisions]) -> Decisions:
    """Apply a change to what is decided now, durably; two at a time wait for each other.

    Raises:
        FileAccessError: the directory cannot be written.
        DamagedDecisionsError: the file there cannot be read.
    """
    with _locked(directory):
        after = change(load_decisions(directory))
        content = msgspec.json.format(msgspec.json.encode(after), indent=1)
        try:
            write_atomic(directory / FILE_NAME, content)
        except OSError as error:
            raise FileAccessError(directory, error.strerror or str(error)) from error
    return after


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise FileAccessError(directory, error.strerror or str(error)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
