"""`rules lint`: all findings, or those of what somebody names, seen among all other rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sib_server.detection.rules.collect import Origin
from sib_server.detection.rules.compile import compile_rules, compiled, put_together
from sib_server.detection.rules.decisions import Decisions
from sib_server.detection.rules.sources import read_paths, read_sources

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_server.detection.rules.findings import Finding
    from sib_server.detection.rules.sources import Sources
    from sib_server.settings import ServerSettings


def lint_all(settings: ServerSettings) -> tuple[Finding, ...]:
    """All findings about what the next bundle is made of.

    Raises:
        SibError: as for ``compile_rules``.
    """
    return compile_rules(settings).findings


def lint_paths(settings: ServerSettings, paths: Sequence[Path]) -> tuple[Finding, ...]:
    """Findings about files and folders, whether they are among the sources or not.

    They are judged after the Falco project's and SIB's rules, so that they can use and change what
    is defined there.

    Raises:
        SibError: as for ``compile_rules``, and where there are no rules at a path.
    """
    shipped = settings.detection.shipped().resolve()
    sources = read_sources(settings)
    named: set[str] = set()
    for path in paths:
        resolved = path.resolve()
        ours = shipped in {resolved, *resolved.parents} or shipped.parent == resolved
        given = read_paths([path], Origin.SIB if ours else Origin.OWN)
        sources = _with(sources, given)
        named |= {one.file for one in given.files} | {one.place.file for one in given.sidecars}
        named |= {one.place.file for one in given.findings}
    found = compiled(put_together(sources, Decisions())).findings
    return tuple(finding for finding in found if finding.place.file in named)


def _with(sources: Sources, given: Sources) -> Sources:
    """Sources with files in place of the same ones under other names, others behind them."""
    new = {_real(one.file): one for one in given.files}
    files = [new.pop(_real(one.file), one) for one in sources.files]
    known = {_real(one.place.file) for one in given.sidecars}
    kept = [one for one in sources.sidecars if _real(one.place.file) not in known]
    return replace(
        sources,
        files=(*files, *new.values()),
        sidecars=(*kept, *given.sidecars),
        findings=(*sources.findings, *given.findings),
    )


def _real(file: str) -> Path:
    return Path(file).resolve()
