"""What ``sib-agent uninstall`` does, step by step."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_agent.setup.falco_config import probe_path
from sib_agent.setup.units import TARGET

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_agent.settings import AgentSettings

PACKAGES: Final = ("sib-falco", "sib-alloy", "sib-agent")
_STATE: Final = ("/var/lib/sib-alloy", "/var/lib/sib-falco", "/var/lib/sib-agent", "/run/sib-falco")
_MANAGERS: Final = (
    ("/usr/bin/apt-get", ("--yes", "remove"), ("--yes", "purge")),
    ("/usr/bin/dnf", ("--assumeyes", "remove"), ("--assumeyes", "remove")),
    ("/usr/bin/zypper", ("--non-interactive", "remove"), ("--non-interactive", "remove")),
)


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
    """This host's package manager."""
    return next((Path(item[0]) for item in _MANAGERS if Path(item[0]).exists()), None)


def own_paths(settings: AgentSettings) -> tuple[Path, ...]:
    """Everything that SIB wrote on this host. Pure.

    Of directories that the settings name, only those that are SIB's alone: the folder of the
    events file may be somebody else's.
    """
    generated = (settings.falco.config, probe_path(settings.falco), settings.alloy.config)
    beside = (
        path.with_name(path.name + suffix) for path in generated for suffix in ("", ".new", ".old")
    )
    own = (settings.identity.directory, settings.spool.directory, settings.falco.bundles)
    return (*beside, *own, *map(Path, _STATE))


def plan_removal(
    paths: Sequence[Path],
    *,
    purge: bool,
    booted: bool,
    manager: Path | None,
    installed: Sequence[str],
) -> Removal:
    """What to do. Pure.

    Args:
        paths: of :func:`own_paths`, those that are there.
        purge: remove settings, identity and spool, too.
        booted: systemd runs.
        manager: this host's package manager.
        installed: of SIB's packages, those that are.
    """
    command = package_command(manager, installed, purge=purge) if manager else ()
    # A directory goes with all that is in it.
    whole = [path for path in paths if not any(other in path.parents for other in paths)]
    return Removal(
        stop=("systemctl", "stop", TARGET) if booted else None,
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
