"""What can go wrong with a trial."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from pathlib import Path


class TrialDirectoryError(SibError):
    """A directory that a trial must not use."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, directory: Path) -> None:
        super().__init__(f"{directory} is not an empty directory", "name another one")
        self.directory = directory
