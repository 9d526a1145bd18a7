"""A short form of scripts/chaos: the whole way, broken at random instants; see tests/chaos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.harness import Options, Run
from tests.support.components import component

SEED = int(os.environ.get("SIB_CHAOS_SEED", "20261125"))


def broken_run(directory: Path, *, real: bool) -> dict[str, Any]:
    options = Options(
        directory,
        faults=25,
        seed=SEED,
        pace=0.8,
        rate=80.0,
        real=real,
        settle=60.0,
        volumes=(64, 256),
    )
    return Run(options).run()


def assert_kept(result: dict[str, Any]) -> None:
    assert result["verdict"] == "kept", result
    assert result["events_in_journal"] == result["events_written"] > 500
    assert result["own_events_in_journal"] == {}, "nothing was lost, so no gap is told"
    assert result["refused_by_sinks"]["count"] == 0, result["refused_by_sinks"]
    assert result["tracebacks"] == {"server": 0, "agent": 0}, result["directory"]
    passed_over = sum(result["faults_passed_over"].values())
    assert result["faults"] + passed_over == 25
    # Those that need root, libfaketime or an instant that did not come.
    assert passed_over < 12, result["faults_passed_over"]


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_25_faults_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    assert_kept(broken_run(tmp_path, real=False))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_25_faults_with_a_real_loki_and_falcosidekick(tmp_path: Path) -> None:
    component("loki", "loki")
    component("falcosidekick", "falcosidekick")
    assert_kept(broken_run(tmp_path, real=True))
