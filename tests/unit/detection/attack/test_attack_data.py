"""From a STIX bundle to the shipped file and back."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from sib_server.detection.attack.distill import BundleError, distill, encoded
from sib_server.detection.attack.matrix import Matrix, Tactic, Technique
from tests.support.components import ROOT

if TYPE_CHECKING:
    from pathlib import Path


def reference(identity: str) -> list[dict[str, str]]:
    return [
        {"source_name": "other", "external_id": "X-1"},
        {"source_name": "mitre-attack", "external_id": identity},
    ]


def pattern(identity: str, name: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "attack-pattern",
        "name": name,
        "external_references": reference(identity),
        "kill_chain_phases": [
            {"kill_chain_name": "mitre-attack", "phase_name": "credential-access"},
            {"kill_chain_name": "else", "phase_name": "x"},
        ],
        "x_mitre_platforms": ["Linux"],
        **more,
    }


BUNDLE: dict[str, Any] = {
    "objects": [
        {"type": "x-mitre-collection", "x_mitre_version": "19.0"},
        {"type": "x-mitre-matrix", "tactic_refs": ["t2", "t1", "gone"]},
        {
            "type": "x-mitre-tactic", "id": "t1", "name": "Impact", "x_mitre_shortname": "impact",
            "external_references": reference("TA0040"),
        },
        {
            "type": "x-mitre-tactic", "id": "t2", "name": "Credential Access",
            "x_mitre_shortname": "credential-access", "external_references": reference("TA0006"),
        },
        pattern("T1003.008", "Shadow"),
        pattern("T1003", "Dumping", x_mitre_platforms=["Windows"]),
        pattern("T1100", "Old", revoked=True),
        pattern("T1101", "Older", x_mitre_deprecated=True),
        {"type": "relationship"},
        "no object",
    ]
}  # fmt: skip


def test_a_bundle_becomes_a_matrix_that_is_read_back() -> None:
    matrix = distill(BUNDLE, "notice")
    assert matrix == Matrix(
        "19.0",
        "notice",
        (
            Tactic("TA0006", "Credential Access", "credential_access"),
            Tactic("TA0040", "Impact", "impact"),
        ),
        (
            Technique("T1003", "Dumping", ("credential_access",), linux=False),
            Technique("T1003.008", "Shadow", ("credential_access",)),
            Technique("T1100", "Old", ("credential_access",), gone="revoked"),
            Technique("T1101", "Older", ("credential_access",), gone="deprecated"),
        ),
    )
    assert msgspec.json.decode(encoded(matrix), type=Matrix) == matrix
    assert matrix.title(matrix.techniques[1]) == "Dumping: Shadow"


@pytest.mark.parametrize("kind", ["x-mitre-collection", "x-mitre-tactic", "attack-pattern"])
def test_a_bundle_without_a_kind_of_object_is_refused(kind: str) -> None:
    kept = [one for one in BUNDLE["objects"] if not isinstance(one, dict) or one["type"] != kind]
    with pytest.raises(BundleError):
        distill({"objects": kept}, "")
    with pytest.raises(BundleError):
        distill({}, "")


def test_the_script_says_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    file = tmp_path / "bundle.json"
    script = ROOT / "scripts" / "update-attack"
    for text in ("{", "[]", json.dumps({"objects": []})):
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, script, file], capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 1
        assert b"error: " in done.stderr
        assert b"Traceback" not in done.stderr
