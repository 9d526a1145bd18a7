"""A tuning silences what it was made for on the real engine, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from sib_protocol.drills.trial import try_rules
from sib_protocol.drills.verdicts import Result, plan
from sib_protocol.ids import HostId, HostName, LineNumber, StreamId
from sib_server.detection.rules.testing import prepare, running
from sib_server.events.incoming import IncomingBatch
from sib_server.events.journal import Journal
from tests.support.components import ROOT
from tests.support.engine import live_falco
from tests.support.rules import Place

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(240)
STREAM = StreamId("00000000-0000-4000-8000-000000000001")
HOST = HostId("00000000-0000-4000-9000-000000000001")
# Each with one drill, so that one tuning is for all that it fires.
TUNED, OTHER = "sib-ca-023", "sib-ca-022"


def run(place: Place, falco: Path) -> tuple[dict[str, Result], list[bytes]]:
    """How two rules' drills ended, and the lines that Falco wrote for the first."""
    trial = prepare(place.settings, (), (TUNED, OTHER))
    with running(trial, falco, None, None) as engine:
        verdicts = try_rules(engine, plan(trial.drills, quiet=False), trial.ours)
        lines = engine.alerts_file.read_bytes().splitlines()
    name = next(drill.rule for drill in trial.drills if drill.id == TUNED)
    mine = [line for line in lines if f'"rule":"{name}"'.encode() in line]
    return {verdict.id: verdict.result for verdict in verdicts}, mine


def test_a_tuned_event_stays_away_and_others_do_not(tmp_path: Path) -> None:
    falco = live_falco()
    place = Place(tmp_path)
    shipped = ROOT / "rules" / "falco"
    detection = msgspec.structs.replace(place.settings.detection, shipped_rules=shipped)
    place.settings = msgspec.structs.replace(place.settings, detection=detection)
    place.config.write_text(place.config.read_text().replace(f"{place.root}/sib", str(shipped)))

    results, lines = run(place, falco)
    assert results == {TUNED: Result.FIRED, OTHER: Result.FIRED}

    journal = Journal.open(place.root / "journal.db")
    journal.append([IncomingBatch(STREAM, HOST, HostName("web-1"), LineNumber(0), lines)])
    journal.close()
    told = place.run("tune", f"{STREAM}/0", "--yes").stdout
    assert "written as t" in told

    results, lines = run(place, falco)
    assert lines == []
    assert results[TUNED] is not Result.FIRED
    assert results[OTHER] is Result.FIRED
