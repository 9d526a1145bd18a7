"""What the doctor makes of Loki's ruler; the real one's answer is in the stack's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sib_protocol.checks import Verdict
from sib_server.operations.doctor.ruler import judge_ruler

FILE = Path("/var/lib/sib-server/sigma/ruler/sigma.yaml")


def rule(sigma_id: str, health: str = "ok") -> dict[str, Any]:
    error = "too many outstanding requests" if health == "err" else ""
    labels = {"source": "sigma", "sigma_id": sigma_id}
    return {"name": f"rule {sigma_id}", "labels": labels, "health": health, "lastError": error}


def answer(*rules: dict[str, Any]) -> bytes:
    return json.dumps({"status": "success", "data": {"groups": [{"rules": rules}]}}).encode()


@pytest.mark.parametrize(
    ("content", "verdict", "word"),
    [
        (answer(rule("a"), rule("b", "unknown"), rule("other", "err")), Verdict.WELL, "all 2"),
        (answer(rule("a")), Verdict.FAILED, "1 of 2"),
        (answer(), Verdict.FAILED, "2 of 2"),
        (answer(rule("a"), rule("b", "err")), Verdict.FAILED, "outstanding"),
        (b"<html>", Verdict.FAILED, "cannot be read"),
        (
            b'{"data": {"groups": [{"rules": [{"name": "\xff"}]}]}}',
            Verdict.FAILED,
            "cannot be read",
        ),
        (b"[" * 5000, Verdict.FAILED, "cannot be read"),
    ],
)
def test_imported_rules_are_evaluated_or_it_is_said(
    content: bytes, verdict: Verdict, word: str
) -> None:
    found = judge_ruler({"a", "b"}, content, FILE)
    assert found.verdict is verdict
    assert word in found.problem
    assert (found.remedy is None) is (verdict is Verdict.WELL)
