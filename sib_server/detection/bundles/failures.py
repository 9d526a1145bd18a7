"""What can go wrong with the repository of bundles."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from pathlib import Path


class RepositoryMissingError(SibError):
    """There is no repository yet."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"there is no repository of bundles in {directory}",
            "make it with 'sib-server bundle init'",
        )
        self.directory = directory


class RepositoryDamagedError(SibError):
    """A file of the repository that is not what it should be."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}", "put the repository back from a backup")
        self.path = path
        self.reason = reason


class RepositoryBusyError(SibError):
    """Another process is changing the repository for too long."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, directory: Path) -> None:
        super().__init__(
            f"another process is changing {directory}", "wait until it is done and try again"
        )
        self.directory = directory


class UnknownReleaseError(SibError):
    """A version that cannot be rolled back to."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, version: int | None, known: list[int]) -> None:
        what = "earlier bundle" if version is None else f"bundle {version}"
        kept = ", ".join(map(str, known)) or "none"
        super().__init__(
            f"there is no {what} to go back to; kept are: {kept}", "see 'sib-server bundle status'"
        )
        self.version = version


class NoRolloutError(SibError):
    """There are no canaries whose bundle could go to all hosts."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self) -> None:
        super().__init__("no bundle is with canaries now", "see 'sib-server bundle status'")


class BundleContentError(SibError):
    """Rule files that cannot be published."""

    exit_code = ExitCode.USAGE


class NotReadyError(SibError):
    """Indicators cannot be renewed now; they will be with the next try."""

    exit_code = ExitCode.CONFLICT
