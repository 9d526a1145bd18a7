"""How SIB is removed from a machine: the steps, which both sides plan alike."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from collections.abc import Sequence

_STOP_SECONDS: Final = 120
_ASK_SECONDS: Final = 30
_MANAGERS: Final = (
    ("/usr/bin/apt-get", ("--yes", "remove"), ("--yes", "purge")),
    ("/usr/bin/dnf", ("--assumeyes", "remove"), ("--assumeyes", "remove")),
    ("/usr/bin/zypper", ("--non-interactive", "remove"), ("--non-interactive", "remove")),
)


class NotStoppedError(SibError):
    """The daemons go on."""

    exit_code = ExitCode.CONFLICT

    def __init__(self, reason: str) -> None:
        super().__init__(f"the daemons could not be stopped: {reason}", "systemctl status 'sib-*'")


@dataclass(frozen=True, slots=True)
class Removal:
    """What is to be done, in this order.

    Attributes:
        stop: the command that stops everything, or ``None``.
        remove: files and directories.
        packages: the command that removes the packages, or ``None``.
    """

    stop: tuple[str, ...] | None
    remove: tuple[Path, ...]
    packages: tuple[str, ...] | None

    def lines(self) -> list[str]:
        """For people: one line a step."""
        removed = [f"rm -r {path}" for path in self.remove]
        return [
            *([" ".join(self.stop)] if self.stop else []),
            *removed,
            *([" ".join(self.packages)] if self.packages else []),
        ]


def package_command(manager: Path, installed: Sequence[str], *, purge: bool) -> tuple[str, ...]:
    """What removes packages; nothing where the manager is not known. Pure."""
    for program, remove, all_ in _MANAGERS:
        if str(manager) == program and installed:
            return (program, *(all_ if purge else remove), *installed)
    return ()


def find_manager() -> Path | None:
    """This machine's package manager."""
    return next((Path(item[0]) for item in _MANAGERS if Path(item[0]).exists()), None)


def find_installed(packages: Sequence[str]) -> list[str]:
    """Which of some packages are installed, by dpkg or rpm."""
    return [
        name
        for name in packages
        if _ask("dpkg-query", "-W", "-f=${db:Status-Status}", name) == "installed"
        or _ask("rpm", "-q", name) is not None
    ]


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ASK_SECONDS,
            check=False,
            text=True,
            errors="replace",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def plan_removal(
    paths: Sequence[Path],
    *,
    target: str,
    purge: bool,
    booted: bool,
    manager: Path | None,
    installed: Sequence[str],
) -> Removal:
    """What to do. Pure.

    Args:
        paths: everything of SIB's that is there.
        target: the unit that stops all of them, without waiting for any.
        purge: remove those, too.
        booted: systemd runs.
        manager: this machine's package manager.
        installed: of SIB's packages, those that are; each has a service of its name.
    """
    command = package_command(manager, installed, purge=purge) if manager else ()
    # A directory goes with all that is in it.
    whole = [path for path in paths if not any(other in path.parents for other in paths)]
    # The target is gone before its services are, and would have them write to what is removed: each
    # package's own is waited for.
    services = (f"{package}.service" for package in installed)
    return Removal(
        stop=("systemctl", "stop", target, *services) if booted else None,
        remove=tuple(whole) if purge else (),
        packages=command or None,
    )


def remove_paths(paths: Sequence[Path]) -> None:
    """Remove files and directories; what is gone already is fine.

    Raises:
        OSError: one cannot be removed.
    """
    for path in paths:
        with suppress(FileNotFoundError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def carry_out(removal: Removal) -> None:
    """Do it. Where there are packages to remove this does not return: the manager takes over.

    Raises:
        NotStoppedError: nothing was removed.
        OSError: something cannot be removed.
    """
    if removal.stop is not None:
        try:
            subprocess.run(
                removal.stop, check=True, timeout=_STOP_SECONDS, capture_output=True, text=True
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise NotStoppedError(str(error)) from error
    remove_paths(removal.remove)
    if removal.packages is not None:
        # In place of this program, whose files the package manager is about to remove.
        os.execv(removal.packages[0], removal.packages)  # noqa: S606  (a whole path, no shell)
