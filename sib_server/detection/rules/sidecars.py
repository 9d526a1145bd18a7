"""What stands beside a rules file: ids, known false positives, drills and quiet cases.

Here only what the compiler and the lints ask: which rule has which id, and whether a drill and
quiet cases are there. What they do is read where they are run. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_server.detection.rules.documents import (
    DocumentError,
    Mapping,
    Node,
    Scalar,
    Sequence,
    read_documents,
)
from sib_server.detection.rules.findings import Finding, LintName, Place

if TYPE_CHECKING:
    from collections.abc import Iterable

SIDECAR: Final = LintName("sidecar")
SUFFIX: Final = ".drills.yaml"


@dataclass(frozen=True, slots=True)
class Sidecar:
    """What belongs to one rule beside Falco's keys.

    Attributes:
        rule: its name.
        id: never changes, whatever becomes of the name; empty where none is given.
        place: the entry's line.
        drill: there is something to run that must fire the rule.
        quiet_cases: how many everyday commands are told that must not.
        content: drill and quiet cases as text, for telling whether they changed.
    """

    rule: str
    id: str
    place: Place
    drill: bool
    quiet_cases: int
    content: str


def read_sidecars(file: str, content: bytes) -> tuple[list[Sidecar], list[Finding]]:
    """Read a drills file: a list of entries with ``rule`` and ``id``."""
    try:
        documents = read_documents(content)
    except DocumentError as error:
        return [], [Finding(Place(file, error.line), "", SIDECAR, error.reason)]
    found: list[Sidecar] = []
    findings: list[Finding] = []
    for node in _entries(documents):
        place = Place(file, node.line)
        if not isinstance(node, Mapping):
            findings.append(Finding(place, "", SIDECAR, "an entry is a mapping with a rule"))
            continue
        rule = _text(node.entries.get("rule"))
        if not rule:
            findings.append(Finding(place, "", SIDECAR, "the entry names no rule"))
            continue
        drill, quiet = node.entries.get("drill"), node.entries.get("quiet")
        found.append(
            Sidecar(
                rule,
                _text(node.entries.get("id")),
                place,
                _has_run(drill),
                sum(map(_has_run, quiet.items)) if isinstance(quiet, Sequence) else 0,
                f"{_plain(drill)}\n{_plain(quiet)}",
            )
        )
    return found, findings


def by_rule(sidecars: Iterable[Sidecar], findings: list[Finding]) -> dict[str, Sidecar]:
    """Entries by their rules' names; a second one for a rule is reported and left out."""
    found: dict[str, Sidecar] = {}
    for sidecar in sidecars:
        before = found.setdefault(sidecar.rule, sidecar)
        if before is not sidecar:
            reason = f"the rule has an entry already, at {before.place}"
            findings.append(Finding(sidecar.place, sidecar.rule, SIDECAR, reason))
    return found


def _entries(documents: list[Node]) -> list[Node]:
    found: list[Node] = []
    for document in documents:
        found += document.items if isinstance(document, Sequence) else [document]
    return found


def _text(node: Node | None) -> str:
    return node.text if isinstance(node, Scalar) and not node.is_null else ""


def _has_run(node: Node | None) -> bool:
    return isinstance(node, Mapping) and bool(_text(node.entries.get("run")).strip())


def _plain(node: Node | None) -> object:
    """The content without lines, so that moving an entry changes nothing."""
    if isinstance(node, Mapping):
        return {key: _plain(value) for key, value in sorted(node.entries.items())}
    if isinstance(node, Sequence):
        return [_plain(item) for item in node.items]
    return node.text if node is not None else None
