"""Which of ATT&CK's techniques have rules, which of those a drill has proven, which have fired.

A technique is proven only by a drill for it on a real engine that fired one of its rules as that
rule is now. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sib_server.detection.rules.catalogue import TACTIC_TAG

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from sib_server.detection.attack.matrix import Matrix, Tactic, Technique
    from sib_server.detection.rules.catalogue import Entry
    from sib_server.detection.rules.proofs import Proof, Proofs


@dataclass(frozen=True, slots=True)
class CoveredTechnique:
    """A technique in one tactic.

    Attributes:
        technique: which.
        title: with the name of the technique above it.
        rules: those that are on, by id.
        off: those that are switched off, by id.
        proof: the newest that holds for one of the rules as it is now.
        outdated: there are proofs, but of rules as they were.
        fired: when one of the rules last fired, ISO 8601 UTC.
    """

    technique: Technique
    title: str
    rules: tuple[str, ...]
    off: tuple[str, ...]
    proof: Proof | None
    outdated: bool
    fired: str | None


@dataclass(frozen=True, slots=True)
class CoveredTactic:
    """A tactic.

    Attributes:
        tactic: which.
        techniques: those with a rule, on or off, and all others that are in force on Linux.
    """

    tactic: Tactic
    techniques: tuple[CoveredTechnique, ...]

    def counts(self) -> Counts:
        """How many of its techniques are covered."""
        return counted(self.techniques)


@dataclass(frozen=True, slots=True)
class Counts:
    """Techniques and sub-techniques, each once.

    Attributes:
        known: in force on Linux, or with a rule.
        with_rule: with a rule that is on.
        proven: by a drill.
        fired: in the journal.
    """

    known: int
    with_rule: int
    proven: int
    fired: int

    def row(self) -> dict[str, int]:
        """As a program reads it."""
        return {
            "techniques": self.known,
            "with_rule": self.with_rule,
            "proven": self.proven,
            "fired": self.fired,
        }


@dataclass(frozen=True, slots=True)
class Coverage:
    """All tactics, in the matrix's order.

    Attributes:
        version: of ATT&CK.
        notice: MITRE's.
        tactics: each with its techniques.
        strangers: ids of techniques that rules name and this version of ATT&CK does not have.
    """

    version: str
    notice: str
    tactics: tuple[CoveredTactic, ...]
    strangers: tuple[str, ...]

    def counts(self) -> Counts:
        """How many techniques are covered, those of several tactics counted once."""
        return counted(one for tactic in self.tactics for one in tactic.techniques)


def counted(techniques: Iterable[CoveredTechnique]) -> Counts:
    """How many of some techniques are covered."""
    found = list(techniques)

    def distinct(wanted: Iterable[CoveredTechnique]) -> int:
        return len({one.technique.id for one in wanted})

    return Counts(
        distinct(found),
        distinct(one for one in found if one.rules),
        distinct(one for one in found if one.proof is not None),
        distinct(one for one in found if one.fired is not None),
    )


def valid_proofs(entries: Iterable[Entry], files: Sequence[Proofs]) -> dict[str, Proof]:
    """The newest proof of each rule, among those that hold for it as it is now, by rule id."""
    found: dict[str, Proof] = {}
    for entry in entries:
        proofs = [file.proofs[entry.id] for file in files if entry.id in file.proofs]
        holding = [proof for proof in proofs if proof.content == entry.content]
        if holding:
            found[entry.id] = max(holding, key=lambda proof: proof.time)
    return found


def coverage(
    matrix: Matrix,
    entries: Sequence[Entry],
    files: Sequence[Proofs],
    fired: Mapping[str, str],
) -> Coverage:
    """Put rules, proofs and what fired to techniques.

    Args:
        matrix: ATT&CK.
        entries: all rules.
        files: of proofs, from the package and of this server.
        fired: rule name -> when it last fired, ISO 8601 UTC.
    """
    techniques = matrix.by_id()
    proofs = valid_proofs(entries, files)
    proven_once = {identity for file in files for identity in file.proofs}
    places: dict[tuple[str, str], list[Entry]] = {}
    strangers = set()
    for entry in entries:
        for name in entry.techniques:
            technique = techniques.get(name)
            if technique is None:
                strangers.add(name)
                continue
            for tag in _tactics_of(entry, technique):
                places.setdefault((tag, name), []).append(entry)

    def covered(tactic: Tactic, technique: Technique) -> CoveredTechnique:
        rules = places.get((tactic.tag, technique.id), [])
        on = [entry for entry in rules if entry.rule.enabled]
        valid = [proofs[entry.id] for entry in on if entry.id in proofs]
        holding = [proof for proof in valid if proof.proves(technique.id)]
        times = [fired[entry.rule.name] for entry in rules if entry.rule.name in fired]
        return CoveredTechnique(
            technique,
            matrix.title(technique),
            tuple(entry.id for entry in on),
            tuple(entry.id for entry in rules if not entry.rule.enabled),
            max(holding, key=lambda proof: proof.time, default=None),
            not valid and any(entry.id in proven_once for entry in on),
            max(times, default=None),
        )

    tactics = []
    for tactic in matrix.tactics:
        shown = [
            technique
            for technique in matrix.techniques
            if (tactic.tag, technique.id) in places
            or (tactic.tag in technique.tactics and technique.linux and not technique.gone)
        ]
        tactics.append(CoveredTactic(tactic, tuple(covered(tactic, one) for one in shown)))
    return Coverage(matrix.version, matrix.notice, tuple(tactics), tuple(sorted(strangers)))


def _tactics_of(entry: Entry, technique: Technique) -> list[str]:
    """Where a rule counts: in the tactics that it names, or in all of one that it names none of."""
    named = [tactic for tactic in technique.tactics if tactic in entry.tactics]
    return named or list(technique.tactics)


def view(found: Coverage) -> dict[str, Any]:
    """As a program reads it."""
    return {
        "attack": found.version,
        "notice": found.notice,
        "totals": found.counts().row(),
        "unknown_techniques": found.strangers,
        "tactics": [
            {
                "id": one.tactic.id,
                "name": one.tactic.name,
                "tag": f"{TACTIC_TAG}{one.tactic.tag}",
                "totals": one.counts().row(),
                "techniques": [_technique_view(technique) for technique in one.techniques],
            }
            for one in found.tactics
        ],
    }


def _technique_view(one: CoveredTechnique) -> dict[str, Any]:
    proof = one.proof
    proven = None
    if proof is not None:
        proven = {"rule": proof.id, "engine": proof.engine, "time": proof.time}
    return {
        "id": one.technique.id,
        "name": one.title,
        "rules": one.rules,
        "disabled": one.off,
        "proven": proven,
        "outdated": one.outdated,
        "fired": one.fired,
    }
