"""`rules test`: the rules as hosts get them, with their drills, on a Falco of this machine."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_protocol.drills.engine import Falco, falco_version
from sib_protocol.drills.parsing import DrillFilesError, parse_drills
from sib_protocol.drills.trial import try_rules
from sib_protocol.drills.verdicts import plan
from sib_protocol.errors import ExitCode, SibError
from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.compile import RuleErrorsError, compiled, put_together
from sib_server.detection.rules.proofs import proven
from sib_server.detection.rules.selecting import find_rule
from sib_server.detection.rules.sources import read_paths, read_sources
from sib_server.detection.rules.store import load_decisions

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from sib_protocol.drills.model import DrillProblem, RuleDrill
    from sib_protocol.drills.verdicts import Planned, Verdict
    from sib_server.detection.rules.catalogue import Entry
    from sib_server.detection.rules.proofs import Proof
    from sib_server.detection.rules.sources import Sources
    from sib_server.settings import ServerSettings

PACKAGED_FALCO: Final = Path("/usr/lib/sib-falco/bin/falco")
_PLUGIN_FOLDERS: Final = ("plugins", "../plugins", "../share/falco/plugins", "../lib/falco/plugins")


class NoFalcoError(SibError):
    """There is no Falco here."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, looked: str) -> None:
        super().__init__(
            f"no Falco found: {looked}",
            "install the package sib-falco, or name the program by --falco",
        )


class NothingToTestError(SibError):
    """No rule that was asked for has a drill."""

    exit_code = ExitCode.NOT_FOUND


@dataclass(frozen=True, slots=True)
class Trial:
    """What is tested.

    Attributes:
        files: name -> bytes, as hosts get them.
        drills: of the rules under test.
        contents: rule id -> content.
        ours: names of all rules but the Falco project's.
        without: names of rules under test that have no drill.
    """

    files: Mapping[str, bytes]
    drills: tuple[RuleDrill, ...]
    contents: Mapping[str, str]
    ours: frozenset[str]
    without: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a trial.

    Attributes:
        engine: Falco's version.
        kernel: of this machine.
        time: ISO 8601 in UTC.
        verdicts: in the order of the acts.
        proofs: by rule id.
        lost: events of the whole machine that Falco could not take meanwhile, by its own count.
    """

    engine: str
    kernel: str
    time: str
    verdicts: tuple[Verdict, ...]
    proofs: Mapping[str, Proof]
    lost: int = 0


def find_falco(given: Path | None) -> Path:
    """The engine to use.

    Raises:
        NoFalcoError: there is none.
    """
    if given is not None:
        if given.is_file() and os.access(given, os.X_OK):
            return given
        raise NoFalcoError(f"{given} is not a program")
    if PACKAGED_FALCO.is_file():
        return PACKAGED_FALCO
    found = shutil.which("falco")
    if found is None:
        raise NoFalcoError(f"neither {PACKAGED_FALCO} nor a falco on the PATH")
    return Path(found)


def find_plugins(program: Path) -> Path | None:
    """Where a Falco's container plugin is, looked for beside the program."""
    for name in _PLUGIN_FOLDERS:
        folder = (program.resolve().parent / name).resolve()
        if (folder / "libcontainer.so").is_file():
            return folder
    packaged = Path("/usr/share/falco/plugins")
    return packaged if (packaged / "libcontainer.so").is_file() else None


def prepare(settings: ServerSettings, paths: Sequence[Path], only: Collection[str] = ()) -> Trial:
    """Read what is to be tested.

    Args:
        settings: where rules come from.
        paths: files or folders with rules and drills; empty for all that hosts get.
        only: rule ids or names; empty for all.

    Raises:
        DrillFilesError: a drill file has problems.
        NothingToTestError: no drill is left.
        RuleErrorsError: the rules have errors.
        NoSuchRuleError: nothing is called as one of ``only``.
        FileAccessError: something cannot be read.
        NoRulesError: there are no rules at a path.
    """
    sources = read_sources(settings)
    given: Sources | None = None
    if paths:
        given = read_paths(paths)
        named = {Path(file.file).resolve() for file in given.files}
        others = tuple(file for file in sources.files if Path(file.file).resolve() not in named)
        sidecars = tuple(one for one in sources.sidecars if not _beside(one.place.file, named))
        sources = replace(
            sources,
            files=(*others, *given.files),
            sidecars=(*sidecars, *given.sidecars),
            findings=(*sources.findings, *given.findings),
        )
    loaded = put_together(sources, load_decisions(settings.detection.directory))
    made = compiled(loaded)
    if made.errors:
        raise RuleErrorsError(made.errors, paths)
    for text in only:
        find_rule(text, loaded.entries, falco_known=sources.falco_known)
    drills, problems = _drills(given.drill_files if given is not None else sources.drill_files)
    if problems:
        raise DrillFilesError(tuple(problems))
    entries = {entry.rule.name: entry for entry in loaded.entries if entry.rule.enabled}
    asked = set(only)
    drills = [
        drill
        for drill in drills
        if drill.rule in entries and (not asked or {drill.id, drill.rule} & asked)
    ]
    if not drills:
        raise NothingToTestError(
            "no rule to test has a drill", "write one beside the rule: see docs/drills.md"
        )
    tested = {drill.rule for drill in drills}
    return Trial(
        {name: body for name, body in made.files.items() if name.startswith("rules/")},
        tuple(drills),
        {entry.id: entry.content for entry in entries.values()},
        frozenset(n for n, e in entries.items() if e.rule.origin is not Origin.FALCO),
        tuple(sorted(_undrilled(entries, given, tested))) if not asked else (),
    )


def _beside(drill_file: str, named: Collection[Path]) -> bool:
    path = Path(drill_file).resolve()
    return any(
        path.name.partition(".")[0] == one.stem and path.parent == one.parent for one in named
    )


def _undrilled(
    entries: Mapping[str, Entry], given: Sources | None, tested: Collection[str]
) -> Iterator[str]:
    files = {file.file for file in given.files} if given is not None else None
    for name, entry in entries.items():
        mine = (
            entry.rule.place.file in files
            if files is not None
            else (entry.rule.origin in {Origin.SIB, Origin.OWN})
        )
        if mine and name not in tested:
            yield name


def _drills(files: Mapping[str, bytes]) -> tuple[list[RuleDrill], list[DrillProblem]]:
    drills: list[RuleDrill] = []
    problems: list[DrillProblem] = []
    for name, body in files.items():
        found, wrong = parse_drills(body.decode(errors="replace"), Path(name))
        drills += found
        problems += wrong
    return drills, problems


@contextmanager
def running(
    trial: Trial, program: Path, falco_rules: Path | None, plugins: Path | None
) -> Iterator[Falco]:
    """A Falco with a trial's rules.

    Args:
        trial: whose rules.
        program: the engine.
        falco_rules: the Falco project's own rules file, loaded first where it is given.
        plugins: where the engine's plugins are.
    """
    with tempfile.TemporaryDirectory(prefix="sib-rules-") as name:
        folder = Path(name)
        files = [falco_rules] if falco_rules is not None else []
        for file, body in trial.files.items():
            path = folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(body)
            files.append(path)
        with Falco(program, files, folder, plugins) as falco:
            yield falco


def run_trial(
    trial: Trial,
    program: Path,
    *,
    falco_rules: Path | None = None,
    quiet: bool = True,
    done: Callable[[Planned], None] = lambda _: None,
) -> Report:
    """Run all drills and quiet cases of a trial.

    Raises:
        IsolationError: drills cannot be isolated here.
        FalcoError: Falco does not start, or ends.
    """
    engine = falco_version(program)
    plugins = find_plugins(program)
    with running(trial, program, falco_rules if plugins else None, plugins) as falco:
        verdicts = try_rules(falco, plan(trial.drills, quiet=quiet), trial.ours, done=done)
        lost = falco.lost()
    kernel, time = platform.release(), datetime.now(timezone.utc).isoformat(timespec="seconds")
    proofs = proven(verdicts, trial.contents, engine=engine, kernel=kernel, time=time)
    return Report(engine, kernel, time, tuple(verdicts), proofs if quiet else {}, lost)
