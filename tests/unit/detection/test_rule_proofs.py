"""A rule is proven by a drill that fired and quiet cases that stayed quiet, for one content."""

from __future__ import annotations

from pathlib import Path

import pytest

from sib_protocol.drills.model import Kind
from sib_protocol.drills.verdicts import Result, Verdict
from sib_protocol.errors import FileAccessError
from sib_server.detection.rules.proofs import (
    DamagedProofsError,
    Proof,
    Proofs,
    load_proofs,
    merged,
    proven,
    save_proofs,
)


def verdict(identity: str, result: Result, *proves: str, kind: Kind | None = None) -> Verdict:
    drill = result in (Result.FIRED, Result.SILENT)
    kind = kind or (Kind.DRILL if drill else Kind.QUIET)
    return Verdict(identity, identity.upper(), kind, "", result, {}, proves=proves)


RUN = [
    verdict("a", Result.FIRED),
    verdict("a", Result.QUIET),
    verdict("a", Result.QUIET),
    verdict("b", Result.SILENT),
    verdict("b", Result.QUIET),
    verdict("c", Result.FIRED),
    verdict("c", Result.NOISY),
    verdict("d", Result.FIRED),
    verdict("d", Result.NOT_RUN),
    verdict("e", Result.FIRED),
]
CONTENTS = {name: f"content of {name}" for name in "abcd"}


def test_what_is_proven_and_what_is_not() -> None:
    found = proven(RUN, CONTENTS, engine="0.44.1", kernel="6.1", time="2026-11-25T12:00:00+00:00")
    proof = Proof("a", "content of a", "0.44.1", "6.1", "2026-11-25T12:00:00+00:00", 2)
    assert found == {"a": proof}
    old = Proofs(dict.fromkeys(("a", "b", "z"), proof))
    # b was tested and failed, z was not tested.
    assert list(merged(old, found, "abcd").proofs) == ["a", "z"]


def test_each_technique_is_proven_by_its_own_drill() -> None:
    run = [
        verdict("a", Result.FIRED, "T1003", "T1552"),
        verdict("a", Result.NOT_RUN, "T1555", kind=Kind.DRILL),
        verdict("a", Result.QUIET),
        verdict("b", Result.FIRED, "T1003"),
        verdict("b", Result.SILENT, "T1552"),
        verdict("c", Result.NOT_RUN, "T1003", kind=Kind.DRILL),
    ]
    found = proven(run, CONTENTS, engine="0.44.1", kernel="6.1", time="2026-11-25T12:00:00+00:00")
    assert {name: proof.techniques for name, proof in found.items()} == {"a": ("T1003", "T1552")}
    proof = found["a"]
    assert [proof.proves(name) for name in ("T1003", "T1552", "T1555")] == [True, True, False]


def test_proofs_are_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "made" / "proofs.json"
    assert load_proofs(path) == Proofs()
    proofs = Proofs({"a": Proof("a", "c", "0.44.1", "6.1", "2026-11-25T12:00:00+00:00", 2)})
    save_proofs(path, proofs)
    assert load_proofs(path) == proofs
    before = path.read_bytes()
    save_proofs(path, load_proofs(path))
    assert path.read_bytes() == before
    path.write_text("{")
    with pytest.raises(DamagedProofsError, match="not a file of proofs"):
        load_proofs(path)
    with pytest.raises(FileAccessError):
        load_proofs(tmp_path)
    with pytest.raises(FileAccessError):
        save_proofs(tmp_path, proofs)
