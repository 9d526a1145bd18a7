"""The short run of ``scripts/fuzz``."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.mutate import Target, fuzz, mutate
from tests.fuzz.targets import make_targets

TARGETS = make_targets()
INPUTS = 2000


@pytest.mark.parametrize("target", TARGETS, ids=[target.name for target in TARGETS])
def test_only_documented_errors_come_out(target: Target) -> None:
    outcome = fuzz(target, INPUTS, seed=7)
    assert not outcome.crashes, "\n".join(outcome.crashes)
    assert outcome.inputs == INPUTS
    # A target that refuses everything, its own corpus included, tests nothing.
    assert outcome.refused < INPUTS


def test_the_fuzzer_finds_what_is_wrong_and_finds_it_again() -> None:
    def fragile(data: bytes) -> object:
        if b"(" in data and data.count(b"x") > 4:
            raise KeyError("planted")
        return data.count(b"x")

    target = Target("planted", fragile, (ValueError,), [b"(x)"])
    first, second = fuzz(target, 20_000, 3), fuzz(target, 20_000, 3)
    assert first.crashes
    assert first.crashes == second.crashes
    assert "planted" in first.crashes[0]
    assert mutate(random.Random(1), [b"abc"]) == mutate(random.Random(1), [b"abc"])
