"""Compiled files in a folder, for people to look at and for Falco to validate."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import ExitCode, FileAccessError, SibError
from sib_protocol.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_OURS: Final = frozenset({"rules", "drills"})


class FolderNotEmptyError(SibError):
    """Something is there that a compile would mix with its files."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, path: Path, *, ours: bool) -> None:
        remedy = "--replace deletes them" if ours else "name a new folder"
        what = "files of an earlier compile are" if ours else "other files are"
        super().__init__(f"{path}: {what} there", remedy)
        self.path = path


def write_folder(folder: Path, files: Mapping[str, bytes], *, replace: bool) -> None:
    """Write files below a folder.

    Args:
        folder: made where it is missing.
        files: relative names -> bytes.
        replace: delete the sub-folders of an earlier compile first.

    Raises:
        FolderNotEmptyError: the folder holds something else, or ``replace`` is not given.
        FileAccessError: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        there = {entry.name for entry in folder.iterdir()}
        if there and not (replace and there <= _OURS):
            raise FolderNotEmptyError(folder, ours=there <= _OURS)
        for name in there:
            shutil.rmtree(folder / name)
        for name, body in files.items():
            path = folder / name
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, body, 0o644)
    except OSError as error:
        raise FileAccessError(folder, error.strerror or str(error)) from error
