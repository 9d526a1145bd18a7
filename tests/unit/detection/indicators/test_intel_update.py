from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sib_protocol.errors import FileAccessError
from sib_server.detection.indicators import update as module
from sib_server.detection.indicators.admission import Trouble
from sib_server.detection.indicators.catalogue import FeedDefinition
from sib_server.detection.indicators.curation import forget_feed, purge_excluded, read_anew
from sib_server.detection.indicators.index import Index
from sib_server.detection.indicators.merge import DAY
from sib_server.detection.indicators.settings import DownloadLimits, IntelSettings
from sib_server.detection.indicators.state import (
    STATE_NAME,
    DamagedStateError,
    load_states,
)
from sib_server.detection.indicators.store import FILE_NAME
from sib_server.detection.indicators.update import (
    Hooks,
    Outcome,
    UpdateReport,
    update,
)

NOW = 1_795_000_000


class Desk:
    """A server's intel directory, one feed, and a clock that the test moves."""

    def __init__(self, directory: Path, url: str) -> None:
        self.settings = IntelSettings(
            directory=directory,
            download=DownloadLimits(seconds=3, idle_seconds=1, wire_bytes=1_000_000),
        )
        self.feed = FeedDefinition(name="test", url=url, licence="ours", interval=600)
        self.now = NOW
        self.alarms: list[dict[str, Any]] = []
        self.told: list[str] = []

    def update(self, **more: Any) -> UpdateReport:
        hooks = Hooks(
            lambda line: self.alarms.append(json.loads(line)),
            begin=self.told.append,
            end=lambda report: self.told.append(report.outcome.value),
        )
        return update(
            self.settings,
            more.pop("feeds", [self.feed]),
            now=self.now,
            hooks=hooks,
            draw=random.Random(1),
            **more,
        )

    def values(self) -> set[str]:
        index = Index.open(self.settings.directory, lambda: self.now)
        try:
            return {indicator.observable.value for indicator in index.indicators()}
        finally:
            index.close()


@pytest.fixture
def desk(tmp_path: Path, feed_server: Any) -> Desk:
    return Desk(tmp_path / "intel", feed_server.url + "/list.txt")


def addresses(count: int, block: int = 66) -> bytes:
    return b"".join(b"45.%d.%d.%d\n" % (block, n // 250, n % 250) for n in range(count))


def test_a_feed_through_its_life(desk: Desk, feed_server: Any) -> None:
    feed_server.say(addresses(3) + b"10.0.0.1\n", ETag='"1"')
    (report,) = desk.update().feeds
    assert (report.outcome, report.indicators, report.new) == (Outcome.TAKEN, 3, 3)
    assert report.excluded == {"reserved": 1}
    assert desk.told == ["test", "taken"]

    # The owner's interval is kept.
    desk.now += 599
    (report,) = desk.update().feeds
    assert (report.outcome, report.not_before) == (Outcome.NOT_DUE, NOW + 600)
    assert len(feed_server.requests) == 1

    # Unchanged: what it says lives on without being sent again.
    desk.now = NOW + 29 * DAY
    feed_server.say(status=304)
    assert desk.update().feeds[0].outcome is Outcome.UNCHANGED
    assert feed_server.requests[-1]["If-None-Match"] == '"1"'
    desk.now = NOW + 58 * DAY
    assert len(desk.values()) == 3

    # Named no more: it expires in its own time.
    feed_server.say(addresses(2))
    assert desk.update().feeds[0].new == 0
    assert len(desk.values()) == 3
    desk.now = NOW + 59 * DAY + 1
    feed_server.say(addresses(2))
    assert desk.update().expired == 1
    assert desk.values() == {"45.66.0.0", "45.66.0.1"}
    assert not desk.alarms


def say_once(feed_server: Any, body: bytes) -> None:
    """Whoever has this version is told that it is unchanged."""

    def answer(handler: Any) -> None:
        known = handler.headers.get("If-None-Match") == '"1"'
        handler.send_response(304 if known else 200)
        handler.send_header("ETag", '"1"')
        handler.send_header("Content-Length", "0" if known else str(len(body)))
        handler.end_headers()
        handler.wfile.write(b"" if known else body)

    feed_server.answer = answer


def test_indicators_whose_file_was_removed_come_back_although_the_feed_is_unchanged(
    desk: Desk, feed_server: Any
) -> None:
    say_once(feed_server, addresses(3))
    desk.update()
    (desk.settings.directory / FILE_NAME).unlink()
    # As the message about a damaged file says; at once, and only once.
    assert desk.update().feeds[0].outcome is Outcome.TAKEN
    assert len(desk.values()) == 3
    assert desk.update().feeds[0].outcome is Outcome.NOT_DUE
    # Where its server does not answer, its owner's interval holds again.
    (desk.settings.directory / FILE_NAME).unlink()
    feed_server.say(status=500)
    assert desk.update().feeds[0].outcome is Outcome.REFUSED
    assert desk.update().feeds[0].outcome is Outcome.NOT_DUE


def test_a_crash_between_indicators_and_state_shortens_no_life(
    desk: Desk, feed_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    say_once(feed_server, addresses(3))
    desk.update()

    class PowerCutError(Exception):
        pass

    def crash(*_: object) -> None:
        raise PowerCutError

    for days in (20, 40):
        desk.now = NOW + days * DAY
        with monkeypatch.context() as crashing:
            crashing.setattr(module, "save_states", crash)
            with pytest.raises(PowerCutError):
                desk.update()
        desk.now += DAY
        desk.update()
        assert len(desk.values()) == 3
    desk.now += 29 * DAY
    assert len(desk.values()) == 3


def test_another_life_holds_for_what_an_unchanged_feed_said_before(
    desk: Desk, feed_server: Any
) -> None:
    say_once(feed_server, addresses(3))
    desk.update()
    desk.feed = msgspec.structs.replace(desk.feed, expires_days=90)
    desk.now += 29 * DAY
    assert desk.update().feeds[0].outcome is Outcome.UNCHANGED
    desk.now += 89 * DAY
    assert len(desk.values()) == 3


@pytest.mark.parametrize(
    ("body", "status", "trouble"),
    [
        (b"<html>maintenance</html>", 200, Trouble.MARKUP),
        (b"", 200, Trouble.EMPTY),
        (b"# nothing today\n", 200, Trouble.EMPTY),
        (b"no line is an indicator\n" * 9, 200, Trouble.WRONG_CONTENT),
        (addresses(30), 200, Trouble.SHRUNK),
        (addresses(501), 200, Trouble.GROWN),
        (b"", 500, Trouble.STATUS),
        (b"10.0.0.1\n" * 99, 200, Trouble.WRONG_CONTENT),
        (b"\x1f\x8b cut", 200, Trouble.DAMAGED),
        (b"x" * 1_000_001, 200, Trouble.TOO_LARGE),
    ],
)
def test_the_last_good_version_stays_and_one_alarm_is_raised(
    desk: Desk,
    feed_server: Any,
    body: bytes,
    status: int,
    trouble: Trouble,
) -> None:
    feed_server.say(addresses(100), ETag='"good"')
    desk.update()
    before = desk.values()
    desk.now += 10_000
    feed_server.say(body, status)
    report = desk.update()
    assert [r.feed for r in report.refused] == ["test"]
    assert report.feeds[0].refusal is not None
    assert report.feeds[0].refusal.trouble is trouble
    assert desk.values() == before
    (alarm,) = desk.alarms
    assert alarm["rule"] == "SIB intel feed refused"
    assert alarm["output_fields"]["sib.trouble"] == trouble.value
    assert alarm["output_fields"]["sib.kept"] == 100

    # The same trouble again is no news, and it is waited for longer.
    first_wait = load_states(desk.settings.directory).feeds["test"].not_before - desk.now
    assert first_wait >= 600
    desk.now += first_wait
    desk.update()
    assert len(desk.alarms) == 1
    state = load_states(desk.settings.directory).feeds["test"]
    assert (state.failures, state.indicators, state.etag) == (2, 100, '"good"')

    # And good again.
    desk.now = state.not_before
    feed_server.say(addresses(101))
    assert desk.update().feeds[0].outcome is Outcome.TAKEN
    assert desk.alarms[-1]["rule"] == "SIB intel feed recovered"
    assert load_states(desk.settings.directory).feeds["test"].trouble is None


def test_come_back_later_is_no_alarm(desk: Desk, feed_server: Any) -> None:
    feed_server.say(status=429, Retry_After="50000")
    (report,) = desk.update().feeds
    assert report.not_before >= NOW + 50_000
    assert not desk.alarms
    desk.now += 40_000
    assert desk.update().feeds[0].refusal is not None
    assert len(feed_server.requests) == 1


def test_one_bad_feed_does_not_keep_the_others(
    desk: Desk, feed_server: Any, tmp_path: Path
) -> None:
    def answer(handler: Any) -> None:
        body = addresses(3) if handler.path == "/list.txt" else b"<html>"
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    feed_server.answer = answer
    bad = msgspec.structs.replace(desk.feed, name="bad", url=feed_server.url + "/bad")
    report = desk.update(feeds=[bad, desk.feed])
    assert [r.outcome for r in report.feeds] == [Outcome.REFUSED, Outcome.TAKEN]
    assert len(desk.values()) == 3


def test_a_file_by_hand(desk: Desk, feed_server: Any, tmp_path: Path) -> None:
    file = tmp_path / "list"
    file.write_bytes(addresses(100))
    assert desk.update(source=file).feeds[0].indicators == 100
    file.write_bytes(addresses(10))
    (report,) = desk.update(source=file).feeds
    assert report.refusal is not None
    assert report.refusal.trouble is Trouble.SHRUNK
    assert desk.update(source=file, accept=True).feeds[0].outcome is Outcome.TAKEN
    file.write_bytes(b"x" * 1_000_001)
    (report,) = desk.update(source=file).feeds
    assert report.refusal is not None
    assert report.refusal.trouble is Trouble.TOO_LARGE
    with pytest.raises(FileAccessError):
        desk.update(source=tmp_path / "none")
    # A file does not use up what the owner allows.
    assert not feed_server.requests
    feed_server.say(addresses(10))
    assert desk.update().feeds[0].outcome is Outcome.TAKEN


def test_another_place_may_be_asked_at_once(desk: Desk, feed_server: Any) -> None:
    feed_server.say(addresses(10))
    desk.update(elsewhere=True)
    assert desk.update(elsewhere=True).feeds[0].outcome is Outcome.TAKEN


def test_own_and_allowed_go_when_they_become_so(desk: Desk, feed_server: Any) -> None:
    feed_server.say(addresses(3))
    desk.update(own=["45.66.0.0"])
    assert desk.values() == {"45.66.0.1", "45.66.0.2"}
    assert purge_excluded(desk.settings, now=desk.now, own=["45.66.0.1"]) == 1
    assert desk.values() == {"45.66.0.2"}
    assert forget_feed(desk.settings, "test", now=desk.now) == 1
    assert desk.values() == set()
    assert "test" not in load_states(desk.settings.directory).feeds


def test_what_is_allowed_no_more_comes_back_from_an_unchanged_feed(
    desk: Desk, feed_server: Any
) -> None:
    say_once(feed_server, addresses(3))
    desk.update(own=["45.66.0.0"])
    read_anew(desk.settings)
    assert desk.update().feeds[0].outcome is Outcome.NOT_DUE
    desk.now += 600
    assert desk.update().feeds[0].outcome is Outcome.TAKEN
    assert len(desk.values()) == 3
    desk.now += 600
    assert desk.update().feeds[0].outcome is Outcome.UNCHANGED


def test_trust_and_state_that_cannot_be_read(desk: Desk, tmp_path: Path, feed_server: Any) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    feed_server.say(addresses(3))
    good = desk.settings
    for trust in (tmp_path / "ca.pem", tmp_path / "none.pem"):
        desk.settings = msgspec.structs.replace(good, trust=trust)
        with pytest.raises(FileAccessError):
            desk.update()
    desk.settings = good
    (good.directory / STATE_NAME).write_text("{broken")
    with pytest.raises(DamagedStateError):
        desk.update()
    (good.directory / STATE_NAME).unlink()
    (good.directory / STATE_NAME).mkdir()
    with pytest.raises(FileAccessError):
        desk.update()


def test_small_steps_of_growth_are_counted_together_until_a_person_accepts(
    desk: Desk, feed_server: Any
) -> None:
    """Each is below five times the one before; what a person accepted begins the count anew."""
    steps = [
        (60, False, Outcome.TAKEN), (290, False, Outcome.TAKEN), (1_200, False, Outcome.REFUSED),
        (1_200, True, Outcome.TAKEN), (5_000, False, Outcome.TAKEN),
    ]  # fmt: skip
    for size, accept, outcome in steps:
        desk.now += DAY
        feed_server.say(addresses(size))
        assert desk.update(accept=accept).feeds[0].outcome is outcome, size
    (alarm, _) = desk.alarms
    assert "it grew from 60 to 1200 indicators within 7 days" in alarm["output"]
