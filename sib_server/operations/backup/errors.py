"""What can go wrong with a backup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class ArchiveRefusedError(SibError):
    """A file that is no whole backup of SIB; nothing was taken from it."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"the backup cannot be used: {reason}", "take another copy of it, or an older backup"
        )
        self.reason = reason


class WrongKeyError(SibError):
    """The key or passphrase does not open the backup."""

    exit_code = ExitCode.REFUSED

    def __init__(self, remedy: str) -> None:
        super().__init__("the backup cannot be opened with this key", remedy)


class KeyFormError(SibError):
    """A text that should be a key and is not; never repeated, because it may be secret."""

    exit_code = ExitCode.USAGE

    def __init__(self, where: str, reason: str, remedy: str) -> None:
        super().__init__(f"{where}: {reason}", remedy)


class TooLargeForPassphraseError(SibError):
    """A backup that a passphrase cannot protect, because age does that in memory."""

    exit_code = ExitCode.REFUSED

    def __init__(self, size: int, limit: int) -> None:
        super().__init__(
            f"a backup of {size} bytes is too large for a passphrase ({limit} at most)",
            "use a key instead: 'sib-server backup-key FILE', then --recipient",
        )


class OutsideStateError(SibError):
    """The state is in PostgreSQL, which SIB does not copy."""

    exit_code = ExitCode.REFUSED

    def __init__(self, shown_url: str) -> None:
        super().__init__(
            f"the state is in {shown_url}, which PostgreSQL's own tools copy",
            "run 'pg_dump --format=custom' for it, and this command with --without-state",
        )


class NoRoomError(SibError):
    """Not enough disk for the copies."""

    exit_code = ExitCode.FILE_ACCESS

    def __init__(self, directory: Path, needed: int, free: int) -> None:
        super().__init__(
            f"{directory} has {free} bytes free, and {needed} are needed",
            "make room, or name another place with --work-directory",
        )


class ChangedMeanwhileError(SibError):
    """A file that could not be copied whole, because it kept changing."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} changed while it was copied, three times", "try again")


class StateThereError(SibError):
    """There is something where the backup would go."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, found: Sequence[Path]) -> None:
        super().__init__(
            f"there is something already: {', '.join(map(str, found))}",
            "with --replace it is set aside, renamed, and the backup put in its place",
        )
        self.found = tuple(found)


class ServerRunningError(SibError):
    """A server that runs would write over what is restored."""

    exit_code = ExitCode.CONFLICT

    def __init__(self) -> None:
        super().__init__("the server runs", "stop it: systemctl stop sib-server.target")
