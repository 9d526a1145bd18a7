"""What the compiler makes of conditions fires where the written ones do, on the real Falco."""

from __future__ import annotations

from pathlib import Path

import pytest

from sib_protocol.drills.engine import complaints
from sib_protocol.drills.trial import try_rules
from sib_protocol.drills.verdicts import plan
from sib_server.detection.rules.testing import prepare
from tests.support.components import component
from tests.support.engine import (
    RecordingFalco,
    compiled_files,
    live_falco,
    replayed,
    rule_files,
    shipped_settings,
)

pytestmark = pytest.mark.timeout(300)


def test_compiled_rules_fire_where_the_written_ones_do(tmp_path: Path) -> None:
    program = live_falco()
    stock = component("falco", "rules", "falco_rules.yaml")
    plugins = component("falco", "plugins", "libcontainer.so").parent
    made = compiled_files(tmp_path, stock)
    trial = prepare(shipped_settings(tmp_path / "empty", tmp_path / "empty"), ())
    with RecordingFalco(program, [stock], tmp_path, plugins) as falco:
        try_rules(falco, plan(trial.drills, quiet=True), trial.ours)
    (recorded,) = tmp_path.glob("recorded*.scap")

    written = replayed(program, [stock, *rule_files()], recorded, plugins, tmp_path)
    # On a host its own copy of the project's rules is loaded before the bundle.
    as_hosts = replayed(program, [stock, *made], recorded, plugins, tmp_path)
    assert as_hosts == written
    fired = {rule for rule, _ in written}
    mine = {drill.rule for drill in trial.drills}
    assert len(fired & mine) > 100
    assert len(fired - mine) >= 5


def test_the_projects_rules_are_taken_by_a_host_without_the_plugin(tmp_path: Path) -> None:
    made = compiled_files(tmp_path, component("falco", "rules", "falco_rules.yaml"))
    found = complaints(component("falco", "falco"), made, tmp_path)
    # Rules that name a container's fields are left out there, and told; nothing is refused.
    assert found
    assert all("LOAD_UNKNOWN_FILTER" in one for one in found)
