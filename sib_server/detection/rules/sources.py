"""Rules files from disk: SIB's, the administrator's, Sigma's, the indicators', the Falco project's.

All reading of the compiler is here; what is read is bounded and hostile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sib_protocol.documents import MAX_BYTES
from sib_protocol.errors import ExitCode, FileAccessError, SibError
from sib_server.detection.rules.collect import Origin, SourceFile, softened
from sib_server.detection.rules.findings import Finding, LintName, Place, ordered
from sib_server.detection.rules.indicators import indicator_rules
from sib_server.detection.rules.reading import read_items
from sib_server.detection.rules.sidecars import SUFFIX, Sidecar, read_sidecars
from sib_server.detection.sigma.layout import falco_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sib_server.settings import ServerSettings

FILE_NAME: Final = LintName("file-name")
_STEM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_MACROS: Final = "macros.yaml"
MAX_FILES: Final = 1_000
INDICATORS: Final = "indicators"
SIGMA: Final = "sigma"


class NoRulesError(SibError):
    """A place where rules ought to be and are not."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path}: no rules files (*.yaml) there")
        self.path = path


@dataclass(frozen=True, slots=True)
class Sources:
    """Everything that was read.

    Attributes:
        files: in the order in which hosts load them; the Falco project's first.
        drill_files: name in a bundle -> bytes.
        sidecars: entries of all drill files.
        findings: what could not be read.
        falco_known: a copy of the Falco project's rules was found.
    """

    files: tuple[SourceFile, ...]
    drill_files: dict[str, bytes]
    sidecars: tuple[Sidecar, ...]
    findings: tuple[Finding, ...]
    falco_known: bool


def read_sources(settings: ServerSettings) -> Sources:
    """Read all sources that the settings name; those that do not exist are no error.

    Raises:
        FileAccessError: one that exists cannot be read.
        NoRulesError: SIB's own rules are missing.
        DamagedStoreError: the indicators' store is damaged.
    """
    detection = settings.detection
    falco = _read(_loaded_by_falco(detection.falco()), Origin.FALCO)
    falco = replace(falco, findings=tuple(softened(falco.findings)))
    shipped_folder = detection.shipped()
    shipped_paths = rules_paths(shipped_folder)
    if not shipped_paths:
        raise NoRulesError(shipped_folder)
    shipped = _read(shipped_paths, Origin.SIB)
    sigma_file = falco_file(settings.sigma.directory)
    sigma = _read([sigma_file] if sigma_file.is_file() else [], Origin.SIGMA)
    own = _read(rules_paths(detection.own_rules), Origin.OWN)
    indicators = _indicators(settings)
    parts = (falco, shipped, sigma, indicators, own)
    return Sources(
        tuple(file for part in parts for file in part.files),
        shipped.drill_files | {f"own-{name}": body for name, body in own.drill_files.items()},
        (*shipped.sidecars, *own.sidecars),
        ordered([finding for part in parts for finding in part.findings]),
        bool(falco.files),
    )


def read_paths(paths: Iterable[Path], origin: Origin = Origin.OWN) -> Sources:
    """Read files and folders that somebody names, with the drill files beside them.

    Raises:
        FileAccessError: one cannot be read.
        NoRulesError: there are no rules in one.
    """
    found: list[Path] = []
    for path in paths:
        some = rules_paths(path)
        if not some and path.is_dir():
            some = [one for folder in _folders(path) for one in rules_paths(folder)]
        if not some:
            raise NoRulesError(path)
        found += some
    return _read(found, origin)


def rules_paths(path: Path) -> list[Path]:
    """The rules files at a path, in the order in which they are loaded: macros first, then by name.

    At a drill file it is the rules file beside it.

    Raises:
        FileAccessError: the folder cannot be read, or has too many files.
    """
    if path.is_file() and path.name.endswith(SUFFIX):
        # Whoever names a drill file means it with the rules that it belongs to.
        beside = path.with_name(f"{path.name.removesuffix(SUFFIX)}.yaml")
        return [beside] if beside.is_file() else []
    if path.is_file():
        return [path]
    try:
        names = sorted(
            entry.name
            for entry in path.iterdir()
            if entry.suffix in (".yaml", ".yml")
            and not entry.name.startswith(".")
            and not entry.name.endswith((SUFFIX, ".drills.yml"))
            and entry.is_file()
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
    if len(names) > MAX_FILES:
        raise FileAccessError(path, f"more than {MAX_FILES} rules files")
    return [path / name for name in sorted(names, key=lambda name: (name != _MACROS, name))]


def _folders(path: Path) -> list[Path]:
    return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())


def _loaded_by_falco(path: Path) -> list[Path]:
    """Of a folder of the project's rules only the file that hosts load."""
    loaded = path / "falco_rules.yaml"
    return [loaded] if loaded.is_file() else rules_paths(path)


def _read(paths: Iterable[Path], origin: Origin) -> Sources:
    files: list[SourceFile] = []
    drills: dict[str, bytes] = {}
    sidecars: list[Sidecar] = []
    findings: list[Finding] = []
    for path in paths:
        if not _STEM.fullmatch(path.stem):
            reason = "the file's name is made of letters, digits, `.`, `_` and `-`"
            findings.append(Finding(Place(str(path), 1), "", FILE_NAME, reason))
            continue
        items, wrong = read_items(str(path), _bytes(path))
        files.append(SourceFile(str(path), origin, path.stem, tuple(items)))
        findings += wrong
        beside = path.with_name(path.stem + SUFFIX)
        if beside.is_file():
            drills[beside.name] = _bytes(beside)
            entries, wrong = read_sidecars(str(beside), drills[beside.name])
            sidecars += entries
            findings += wrong
    return Sources(tuple(files), drills, tuple(sidecars), ordered(findings), origin is Origin.FALCO)


def _indicators(settings: ServerSettings) -> Sources:
    items, findings = read_items(INDICATORS, indicator_rules(settings))
    files = (SourceFile(INDICATORS, Origin.INTEL, INDICATORS, tuple(items)),) if items else ()
    return replace(_NOTHING, files=files, findings=tuple(findings))


_NOTHING: Final = Sources((), {}, (), (), falco_known=False)


def _bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            # One byte more, so that what is too large is refused by the reader and not cut.
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
