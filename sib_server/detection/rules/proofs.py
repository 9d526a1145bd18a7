"""What drills have proven: per rule, which content, when, on which engine. Pure but for the file.

A proof holds for one content of a rule (its condition with everything that it is made of, its
exceptions and its drill): a rule that was changed since is no longer proven.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from sib_protocol.drills.model import Kind
from sib_protocol.drills.verdicts import Result, Verdict
from sib_protocol.errors import UNDECODABLE, ExitCode, FileAccessError, SibError
from sib_protocol.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHIPPED_NAME: Final = "proof.json"
OWN_NAME: Final = "proofs.json"
_MAX_BYTES: Final = 8 * 1024 * 1024


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That drills fired a rule.

    Attributes:
        id: the rule's.
        content: of the rule, as the catalogue computes it.
        engine: Falco's version.
        kernel: of the machine.
        time: when, ISO 8601 in UTC.
        quiet_cases: how many quiet cases stayed quiet in the same run.
        techniques: those that a drill which fired proves; empty for all of the rule.
    """

    id: str
    content: str
    engine: str
    kernel: str
    time: str
    quiet_cases: int
    techniques: tuple[str, ...] = ()

    def proves(self, technique: str) -> bool:
        """Whether a drill for this technique of the rule has fired."""
        return not self.techniques or technique in self.techniques


class Proofs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All proofs of one file, by the rules' ids."""

    proofs: dict[str, Proof] = {}


class DamagedProofsError(SibError):
    """A file of proofs that cannot be read."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is not a file of proofs: {reason}", "remove it and test again")
        self.path = path


def load_proofs(path: Path) -> Proofs:
    """Read a file of proofs; none where there is none.

    Raises:
        FileAccessError: it cannot be read.
        DamagedProofsError: it holds something else.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES)
    except FileNotFoundError:
        return Proofs()
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
    try:
        return msgspec.json.decode(content, type=Proofs)
    except UNDECODABLE as error:
        raise DamagedProofsError(path, str(error)) from error


def save_proofs(path: Path, proofs: Proofs) -> None:
    """Write a file of proofs, the same bytes for the same proofs.

    Raises:
        FileAccessError: it cannot be written.
    """
    content = msgspec.json.format(msgspec.json.encode(proofs, order="sorted"), indent=1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content + b"\n", 0o644)
        if os.geteuid() == 0:
            # Drills need root; what they prove belongs to whoever owns the folder.
            owner = path.parent.stat()
            os.chown(path, owner.st_uid, owner.st_gid)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error


def proven(
    verdicts: Iterable[Verdict],
    contents: Mapping[str, str],
    *,
    engine: str,
    kernel: str,
    time: str,
) -> dict[str, Proof]:
    """The proofs of one run: rules whose drills fired and whose quiet cases all stayed quiet.

    A drill that could not be run here proves nothing of its techniques; those of the others stay
    proven. One that did not fire takes the rule's whole proof away.

    Args:
        verdicts: of the run.
        contents: rule id -> its content.
        engine: Falco's version.
        kernel: of the machine.
        time: ISO 8601.
    """
    by_rule: dict[str, list[Verdict]] = {}
    for verdict in verdicts:
        by_rule.setdefault(verdict.id, []).append(verdict)
    found = {}
    for identity, mine in by_rule.items():
        fired = [one for one in mine if one.result is Result.FIRED]
        if identity in contents and fired and all(_leaves_proven(one) for one in mine):
            quiet = sum(one.kind is Kind.QUIET for one in mine)
            techniques = tuple(sorted({name for one in fired for name in one.proves}))
            proof = Proof(identity, contents[identity], engine, kernel, time, quiet, techniques)
            found[identity] = proof
    return found


def _leaves_proven(one: Verdict) -> bool:
    not_done = one.kind is Kind.DRILL and one.result is Result.NOT_RUN
    return one.result.is_well or not_done


def merged(before: Proofs, run: Mapping[str, Proof], tested: Iterable[str]) -> Proofs:
    """Proofs after a run: those of tested rules are replaced, and taken away where one failed."""
    kept = {name: proof for name, proof in before.proofs.items() if name not in set(tested)}
    return Proofs(dict(sorted({**kept, **run}.items())))
