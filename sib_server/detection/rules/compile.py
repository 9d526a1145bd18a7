"""From all sources to the files that hosts are given.

Hosts load the Falco project's own rules of their package before these files, and may have other
versions of them than this server. Where the server knows a copy, it is part of the set: its
definitions take the place of a host's, so that all hosts judge by the same rules.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import ExitCode, SibError
from sib_server.detection.rules.catalogue import Entry, catalogue
from sib_server.detection.rules.collect import Origin, collect
from sib_server.detection.rules.emit import decided_documents, rules_file, source_documents
from sib_server.detection.rules.findings import Severity, ordered
from sib_server.detection.rules.lints import lint
from sib_server.detection.rules.ordering import Orderer
from sib_server.detection.rules.sidecars import by_rule
from sib_server.detection.rules.sources import read_sources
from sib_server.detection.rules.store import load_decisions
from sib_server.detection.rules.tuned import tuned

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from sib_server.detection.rules.collect import RuleSet
    from sib_server.detection.rules.decisions import Decisions
    from sib_server.detection.rules.findings import Finding
    from sib_server.detection.rules.sidecars import Sidecar
    from sib_server.detection.rules.sources import Sources
    from sib_server.settings import ServerSettings

_FIRST: Final = {
    Origin.FALCO: 1,
    Origin.SIB: 10,
    Origin.SIGMA: 50,
    Origin.INTEL: 55,
    Origin.OWN: 60,
}
"""Where each origin's files begin to be numbered; hosts load files by name."""
_FILE_BYTES: Final = 4 * 1024 * 1024
"""Falco compiles all rules anew with each file that it loads, and judges slower by what then lies
scattered in its memory: so an origin's sources are one file, as far as this."""
_DECIDED: Final = "rules/99-decisions.yaml"


class RuleErrorsError(SibError):
    """Rules that hosts would refuse, or that do not do what they say.

    Attributes:
        findings: all errors.
        paths: files and folders that were judged; none for all sources.
    """

    exit_code = ExitCode.DAMAGED

    def __init__(self, findings: tuple[Finding, ...], paths: Iterable[Path] = ()) -> None:
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        command = " ".join(["sib-server rules lint", *map(str, paths)])
        super().__init__(f"{findings[0]}{more}", f"`{command}` shows all")
        self.findings = findings


def _name(origin: Origin, numbers: Mapping[Origin, int]) -> str:
    return f"rules/{numbers[origin]:02}-{origin.value}.yaml"


@dataclass(frozen=True, slots=True)
class CompiledRules:
    """One rule set.

    Attributes:
        files: name in a bundle -> bytes: ``rules/NN-ORIGIN.yaml``, loaded by Falco in the order of
            their names, and ``drills/NAME.drills.yaml``. The same sources give the same bytes.
        findings: of all lints, errors and warnings, ordered by file and line.
        entries: all rules, those of the Falco project included where they are known.
    """

    files: Mapping[str, bytes]
    findings: tuple[Finding, ...]
    entries: tuple[Entry, ...]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """The findings that forbid a bundle."""
        return tuple(one for one in self.findings if one.severity is Severity.ERROR)

    def checked(self) -> CompiledRules:
        """Itself.

        Raises:
            RuleErrorsError: there are errors; ``files`` must not go to hosts.
        """
        if errors := self.errors:
            raise RuleErrorsError(errors)
        return self


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything that was read and decided, put together.

    Attributes:
        sources: what was read.
        before: the rules as all files say them.
        rules: the same after decisions.
        sidecars: by rules' names.
        decisions: what the administrator decided.
        entries: all rules.
        findings: of reading and putting together.
    """

    sources: Sources
    before: RuleSet
    rules: RuleSet
    sidecars: Mapping[str, Sidecar]
    decisions: Decisions
    entries: tuple[Entry, ...]
    findings: tuple[Finding, ...]


def compile_rules(settings: ServerSettings) -> CompiledRules:
    """Read all sources and make the files of a bundle.

    Raises:
        FileAccessError: a source that exists cannot be read.
        NoRulesError: SIB's own rules are missing.
        DamagedDecisionsError: the file of decisions cannot be read.
        DamagedStoreError: the indicators' store is damaged.
    """
    return compiled(load(settings))


def load(settings: ServerSettings) -> Loaded:
    """Read all sources and decisions.

    Raises:
        SibError: as for :func:`compile_rules`.
    """
    return put_together(read_sources(settings), load_decisions(settings.detection.directory))


def put_together(sources: Sources, decisions: Decisions) -> Loaded:
    """What was read, as one set of rules."""
    findings = list(sources.findings)
    collected, found = collect(sources.files)
    findings += found
    sidecars = by_rule(sources.sidecars, findings)
    rules, found = tuned(collected, decisions.tunings)
    findings += found
    entries = catalogue(rules, sidecars, decisions)
    switched = replace(rules, rules={entry.rule.name: entry.rule for entry in entries})
    return Loaded(sources, collected, switched, sidecars, decisions, entries, ordered(findings))


def compiled(loaded: Loaded) -> CompiledRules:
    """The files of a bundle, and all findings."""
    files: dict[str, bytes] = {}
    numbers = dict(_FIRST)
    orderer = Orderer(loaded.rules)
    for file in loaded.sources.files:
        documents = source_documents(file.items, file.origin, loaded.rules, orderer)
        if not documents:
            continue
        body = rules_file(f"{file.origin.value}, {file.stem}", documents)
        name = _name(file.origin, numbers)
        if len(files.get(name, b"")) + len(body) > _FILE_BYTES and name in files:
            numbers[file.origin] += 1
            name = _name(file.origin, numbers)
        files[name] = files.get(name, b"") + body
    decided, findings = decided_documents(loaded.before, loaded.rules, orderer)
    if decided:
        files[_DECIDED] = rules_file("what was decided about rules", decided)
    files |= {f"drills/{name}": body for name, body in loaded.sources.drill_files.items()}
    sources = loaded.sources
    found = lint(sources.files, loaded.rules, sources.sidecars, falco_known=sources.falco_known)
    return CompiledRules(
        dict(sorted(files.items())),
        ordered([*loaded.findings, *findings, *found]),
        loaded.entries,
    )
