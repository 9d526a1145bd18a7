from __future__ import annotations

import ipaddress
import sqlite3
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sib_protocol.errors import FileAccessError
from sib_server.detection.indicators.index import Index, Relation
from sib_server.detection.indicators.kinds import Kind, Observable, recognise
from sib_server.detection.indicators.merge import Sighting, join
from sib_server.detection.indicators.store import (
    FILE_NAME,
    BusyStoreError,
    DamagedStoreError,
    update_lock,
    writing,
)

NOW = 1_000_000


def sighting(feed: str, *, confidence: int = 50, expires: int = NOW + 100) -> Sighting:
    return Sighting(feed, NOW, NOW, NOW, expires, confidence, "")


def put(directory: Path, feed: str, *texts: str, confidence: int = 50) -> None:
    observables = [recognise(text) for text in texts]
    with update_lock(directory), writing(directory, NOW) as writer:
        writer.merge(
            feed, {o: sighting(feed, confidence=confidence) for o in observables if o is not None}
        )


def open_index(directory: Path, now: int = NOW) -> Index:
    return Index.open(directory, lambda: now)


def test_every_relation(tmp_path: Path) -> None:
    put(tmp_path, "a", "45.66.64.0/20", "45.66.0.0/16", "45.66.77.88", "bad.net", "2a0e::/32")
    put(tmp_path, "b", "bad.net", "http://x.bad.net/y", confidence=90)
    index = open_index(tmp_path)

    def meets(text: str) -> list[tuple[str, str]]:
        return [(m.relation.value, m.indicator.observable.value) for m in index.lookup(text) or ()]

    assert meets("45.66.77.88") == [
        ("exact", "45.66.77.88"),
        ("inside", "45.66.64.0/20"),
        ("inside", "45.66.0.0/16"),
    ]
    assert meets("45.66.70.0/24") == [("inside", "45.66.64.0/20"), ("inside", "45.66.0.0/16")]
    assert meets("2a0e::7") == [("inside", "2a0e::/32")]
    assert meets("45.67.0.1") == []
    assert meets("deep.www.bad.net") == [("below", "bad.net")]
    assert meets("notbad.net") == []
    assert meets("http://x.bad.net/y") == [("exact", "http://x.bad.net/y"), ("host", "bad.net")]
    assert meets("https://45.66.1.1/") == [("host", "45.66.0.0/16")]
    assert index.lookup("!!") is None
    match = (index.lookup("bad.net") or [])[0]
    assert (match.indicator.feeds, match.indicator.confidence) == (("b", "a"), 95)
    assert match.relation is Relation.EXACT
    assert len(index) == 6
    assert index.counts() == {Kind.ADDRESS: 1, Kind.NETWORK: 3, Kind.DOMAIN: 1, Kind.URL: 1}
    assert len(list(index.indicators())) == 6
    index.close()


def test_how_many_there_are_of_each_confidence(tmp_path: Path) -> None:
    assert open_index(tmp_path).confidences([Kind.ADDRESS], bool) == {}
    put(tmp_path, "a", "45.66.77.88", "45.66.77.89", "bad.net", "hidden.net", "2a0e::/32")
    put(tmp_path, "b", "45.66.77.88", confidence=98)
    index = open_index(tmp_path)
    told = index.confidences([Kind.ADDRESS, Kind.DOMAIN], lambda name: name != "hidden.net")
    counted: dict[Kind, dict[int, int]] = {}
    for one in index.indicators():
        if one.observable.kind is not Kind.NETWORK and one.observable.value != "hidden.net":
            of_kind = counted.setdefault(one.observable.kind, {})
            of_kind[one.confidence] = of_kind.get(one.confidence, 0) + 1
    assert told == counted == {Kind.ADDRESS: {50: 1, 100: 1}, Kind.DOMAIN: {50: 1}}
    assert open_index(tmp_path, NOW + 101).confidences([Kind.ADDRESS], bool) == {}


def test_a_fingerprint_of_a_certificate_is_found_by_its_hex(tmp_path: Path) -> None:
    certificate = Observable(Kind.CERTIFICATE, "ab" * 20)
    with update_lock(tmp_path), writing(tmp_path, NOW) as writer:
        writer.merge("sslbl", {certificate: sighting("sslbl")})
    index = open_index(tmp_path)
    match = (index.lookup("AB" * 20) or [])[0]
    assert match.indicator.observable == certificate
    index.close()


def test_no_store_yet(tmp_path: Path) -> None:
    index = open_index(tmp_path)
    assert index.lookup("45.66.77.88") == []
    assert index.counts() == {}
    assert list(index.indicators()) == []
    assert index.is_current(tmp_path)
    put(tmp_path, "a", "45.66.77.88")
    assert not index.is_current(tmp_path)
    index.close()


def test_a_reader_keeps_its_generation_and_sees_that_there_is_a_newer_one(tmp_path: Path) -> None:
    put(tmp_path, "a", "45.66.77.88")
    index = open_index(tmp_path)
    assert index.is_current(tmp_path)
    assert index.updated == NOW
    put(tmp_path, "a", "45.66.77.89")
    assert not index.is_current(tmp_path)
    assert index.lookup("45.66.77.89") == []
    assert index.lookup("45.66.77.88")
    (tmp_path / FILE_NAME).unlink()
    assert not index.is_current(tmp_path)
    index.close()


def test_what_expired_is_not_found_even_without_an_update(tmp_path: Path) -> None:
    put(tmp_path, "a", "45.66.77.88")
    index = open_index(tmp_path, NOW + 100)
    assert index.lookup("45.66.77.88") == []
    assert list(index.indicators()) == []
    index.close()


def test_an_update_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    put(tmp_path, "a", "45.66.77.88")
    before = (tmp_path / FILE_NAME).read_bytes()

    def fail() -> None:
        with update_lock(tmp_path), writing(tmp_path, NOW) as writer:
            writer.merge("a", {Observable(Kind.ADDRESS, "45.66.77.89"): sighting("a")})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [FILE_NAME, "update.lock"]


def test_what_a_killed_update_left_goes(tmp_path: Path) -> None:
    left = tmp_path / f".{FILE_NAME}.abc"
    left.write_bytes(b"half")
    with update_lock(tmp_path):
        assert not left.exists()


def test_one_update_at_a_time(tmp_path: Path) -> None:
    with update_lock(tmp_path), pytest.raises(BusyStoreError), update_lock(tmp_path):
        pass


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(FileAccessError), update_lock(blocker / "intel"):
        pass
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(FileAccessError), writing(tmp_path, NOW):
        pass


def test_damage(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(b"not a database at all, but long enough to look at" * 30)
    with pytest.raises(DamagedStoreError), update_lock(tmp_path), writing(tmp_path, NOW):
        pass
    with pytest.raises(DamagedStoreError):
        open_index(tmp_path)
    path.unlink()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(DamagedStoreError, match="format is 99"):
        open_index(tmp_path)


def test_several_threads(tmp_path: Path) -> None:
    put(tmp_path, "a", *[f"45.66.{n}.1" for n in range(200)])
    index = open_index(tmp_path)
    missing: list[str] = []

    def ask() -> None:
        missing.extend(str(n) for n in range(200) if not index.lookup(f"45.66.{n}.1"))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not missing
    index.close()


VALUES = st.sampled_from(
    ["45.66.77.88", "45.66.77.89", "45.66.77.0/24", "45.66.0.0/16", "45.66.77.88/30", "2a0e::/32",
     "2a0e::1", "bad.net", "www.bad.net", "a.www.bad.net", "0" * 32, "http://www.bad.net/"]
)  # fmt: skip
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("merge"),
            st.sampled_from("abc"),
            st.dictionaries(VALUES, st.tuples(st.integers(1, 9), st.integers(0, 99)), max_size=5),
        ),
        st.tuples(st.just("pass"), st.integers(1, 4)),
        st.tuples(st.just("forget"), st.sampled_from("abc")),
        st.tuples(st.just("purge"), VALUES),
    ),
    min_size=1,
    max_size=8,
)


def covers(indicator: Observable, asked: Observable) -> bool:
    if indicator == asked:
        return True
    if indicator.kind is Kind.NETWORK and asked.kind in (Kind.ADDRESS, Kind.NETWORK):
        wide, narrow = ipaddress.ip_network(indicator.value), ipaddress.ip_network(asked.value)
        return wide.version == narrow.version and narrow.subnet_of(wide)  # type: ignore[arg-type]
    if indicator.kind is Kind.DOMAIN and asked.kind is Kind.DOMAIN:
        return asked.value.endswith("." + indicator.value)
    return False


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_the_store_beside_a_model(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    model: dict[tuple[Observable, str], Sighting] = {}
    now = NOW
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        for step in steps:
            with update_lock(directory), writing(directory, now) as writer:
                if step[0] == "merge":
                    _, feed, told = step
                    fresh = {}
                    for text, (life, confidence) in told.items():
                        observable = recognise(text)
                        assert observable is not None
                        fresh[observable] = Sighting(
                            feed, now, now, now, now + life, confidence, ""
                        )
                    expected_new = sum((o, feed) not in model for o in fresh)
                    assert writer.merge(feed, fresh) == expected_new
                    for observable, s in fresh.items():
                        old = model.get((observable, feed), s)
                        model[observable, feed] = Sighting(
                            feed, old.first_seen, s.last_seen, old.added, s.expires,
                            s.confidence, "",
                        )  # fmt: skip
                elif step[0] == "pass":
                    now += step[1]
                elif step[0] == "forget":
                    writer.forget(step[1])
                    model = {key: s for key, s in model.items() if key[1] != step[1]}
                else:
                    unwanted = recognise(step[1])
                    writer.purge({unwanted}.__contains__)
                    model = {key: s for key, s in model.items() if key[0] != unwanted}
                gone = {key for key, s in model.items() if s.expires <= now}
                assert writer.expire(now) == len(gone)
                model = {key: s for key, s in model.items() if key not in gone}
            index = open_index(directory, now)
            try:
                grouped: dict[Observable, list[Sighting]] = {}
                for (observable, _), s in model.items():
                    grouped.setdefault(observable, []).append(s)
                expected = {o: join(o, s) for o, s in grouped.items()}
                assert {i.observable: i for i in index.indicators()} == expected
                for text in ["45.66.77.88", "45.66.77.90", "45.66.77.88/30", "2a0e::1", "2a0f::1",
                             "a.www.bad.net", "bad.net", "0" * 32]:  # fmt: skip
                    asked = recognise(text)
                    assert asked is not None
                    found = {m.indicator.observable for m in index.matches(asked)}
                    assert found == {o for o in expected if covers(o, asked)}
            finally:
                index.close()
