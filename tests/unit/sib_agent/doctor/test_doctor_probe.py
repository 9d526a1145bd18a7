from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from sib_agent.doctor.look import find_unreadable
from sib_agent.doctor.metrics import fetch
from sib_agent.doctor.probe import Probe, find_number, probe_line
from sib_agent.settings import AgentSettings, EventsSettings, SpoolSettings
from sib_agent.spool.records import SourcePosition
from sib_agent.spool.spool import Spool
from sib_protocol.errors import SibError
from sib_protocol.events import summarize

HERE = SourcePosition(1, 1, 0, b"")


class World:
    """A spool and an events file; what happens next happens while the probe sleeps."""

    def __init__(self, root: Path) -> None:
        (root / "events").mkdir()
        self.events = root / "events/events.json"
        self.settings = AgentSettings(
            events=EventsSettings(file=self.events),
            spool=SpoolSettings(directory=root / "spool"),
        )
        self.spool = Spool.open(root / "spool")
        self.spool.append([b"before"], HERE)
        self.now = 0.0
        self.server_has: int | SibError = 0
        self.takes = True

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.takes and self.events.exists():
            self.spool.append([b"x", *self.events.read_bytes().splitlines()], HERE)
            self.events.unlink()

    def next_wanted(self) -> int:
        if isinstance(self.server_has, SibError):
            raise self.server_has
        return self.server_has

    def probe(self, *, by_falco: bool = False) -> Probe:
        return Probe(
            self.settings,
            by_falco=by_falco,
            next_wanted=self.next_wanted,
            clock=lambda: self.now,
            sleep=self.sleep,
        )


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_the_whole_way(world: World) -> None:
    world.server_has = 3
    outcome = world.probe().run(5)
    assert (outcome.number, outcome.problem) == (2, None)
    assert outcome.written == 0.0
    assert outcome.spooled is not None
    assert outcome.acknowledged is not None
    assert 0 < outcome.spooled <= outcome.acknowledged < 1


@pytest.mark.usefixtures("_no_sync")
def test_where_it_ends_is_told(world: World) -> None:
    world.server_has = 2
    outcome = world.probe().run(1)
    assert (outcome.number, outcome.acknowledged) == (2, None)
    world.server_has = SibError("no way there")
    outcome = world.probe().run(1)
    assert outcome.problem == "no way there"
    world.takes = False
    outcome = world.probe().run(1)
    assert (outcome.written, outcome.spooled) == (0.0, None)
    # Falco does not run here, so its event never comes.
    world.events.unlink()
    outcome = world.probe(by_falco=True).run(1)
    assert (outcome.by_falco, outcome.written, outcome.problem) == (True, None, None)
    world.events.parent.rmdir()
    assert "No such file" in (world.probe().run(1).problem or "")


def test_a_line_is_found_behind_damage_and_among_others(world: World) -> None:
    world.spool.append([b"many", b"with sib-probe-1 in it", b"more"], HERE)
    (path,) = (world.settings.spool.directory).glob("*.seg")
    data = path.read_bytes()
    assert find_number(data, b"sib-probe-1") == 2
    assert find_number(b"broken" + data[8:], b"sib-probe-1") == 2
    assert find_number(data, b"sib-probe-2") is None
    assert find_number(b"sib-probe-1 outside of any frame", b"sib-probe-1") is None


def test_the_line_is_an_event_that_wakes_nobody() -> None:
    line = probe_line("sib-probe-7", 1_700_000_000_000_000_007)
    summary = summarize(line)
    assert (summary.rule, summary.time_ns) == ("SIB probe", 1_700_000_000_000_000_007)
    assert "sib_demo" in json.loads(line)["tags"]


def test_files_are_tried_by_who_is_to_read_them(tmp_path: Path) -> None:
    open_, odd = tmp_path / "open", tmp_path / "odd\nname"
    for path in (open_, odd):
        path.touch()
    assert find_unreadable([]) == []
    missing = tmp_path / "missing"
    assert find_unreadable([open_, odd, missing]) == [missing]
    if os.geteuid() != 0:
        odd.chmod(0)
        assert find_unreadable([open_, odd]) == [odd]


def test_a_page_that_is_not_there_is_none() -> None:
    assert fetch("http://127.0.0.1:1/metrics") is None
