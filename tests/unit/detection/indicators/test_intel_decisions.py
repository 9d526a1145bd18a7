from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.settings import parse_settings
from sib_server.detection.indicators.admission import (
    Replaced,
    Trouble,
    judge_bytes,
    judge_reading,
    remember,
    smallest,
)
from sib_server.detection.indicators.catalogue import (
    FeedChange,
    UnknownFeedError,
    built_in,
    changed,
    find_feed,
)
from sib_server.detection.indicators.exclusions import Exclusion, Exclusions, WidthLimits
from sib_server.detection.indicators.formats.records import Reading, Record
from sib_server.detection.indicators.kinds import Kind, Observable, parse_as, recognise
from sib_server.detection.indicators.merge import DAY, Sighting, fold, join, renewed
from sib_server.detection.indicators.own import local_addresses4, local_addresses6, own_values
from sib_server.detection.indicators.settings import AdmissionLimits, IntelSettings, all_feeds
from sib_server.detection.indicators.state import after_failure

NOW = 1_795_000_000


def why(text: str, exclusions: Exclusions) -> Exclusion | None:
    observable = recognise(text)
    assert observable is not None, text
    return exclusions.why(observable)


@pytest.mark.parametrize(
    "text",
    [
        "10.1.2.3", "127.0.0.1", "192.168.1.0/24", "172.31.255.255", "100.64.0.1", "169.254.1.1",
        "224.0.0.251", "255.255.255.255", "0.0.0.1", "192.0.2.1", "198.51.100.0/24", "::1",
        "fe80::1", "fc00::1", "ff02::1", "2001:db8::1", "64:ff9b::1", "11.0.0.0/7",
        "http://192.168.1.1/x", "host.local", "printer.lan", "www.example.com", "http://a.test/",
    ],
)  # fmt: skip
def test_reserved(text: str) -> None:
    assert why(text, Exclusions(widths=WidthLimits(1, 1))) is Exclusion.RESERVED


def test_own_allowed_wide_and_shared() -> None:
    exclusions = Exclusions(
        own=["45.66.77.88", "2a0e:1234::/48", "siem.badhost.net", "unusable!"],
        allowed=["91.0.0.0/24", "partner.net", "http://badhost.org/ok", "0" * 40],
        shared=["github.io", "bit.ly"],
    )
    expected = {
        "45.66.77.88": Exclusion.OWN,
        "45.66.64.0/20": Exclusion.OWN,
        "2a0e:1234:0:5::1": Exclusion.OWN,
        "siem.badhost.net": Exclusion.OWN,
        "a.siem.badhost.net": Exclusion.OWN,
        "badhost.net": Exclusion.OWN,
        "91.0.0.77": Exclusion.ALLOWED,
        "http://91.0.0.77/": Exclusion.ALLOWED,
        "www.partner.net": Exclusion.ALLOWED,
        "http://badhost.org/ok": Exclusion.ALLOWED,
        "0" * 40: Exclusion.ALLOWED,
        "91.0.0.0/8": Exclusion.ALLOWED,
        "46.0.0.0/8": Exclusion.TOO_WIDE,
        "2a00::/16": Exclusion.TOO_WIDE,
        "co.uk": Exclusion.TOO_WIDE,
        "github.io": Exclusion.TOO_WIDE,
        "evil.github.io": None,
        "http://bit.ly/x": None,
        "http://partner.net/x": Exclusion.ALLOWED,
        "evil.co.uk": None,
        "46.0.0.0/11": None,
        "8.8.8.8": None,
        "a" * 64: None,
    }
    assert {text: why(text, exclusions) for text in expected} == expected
    certificate = parse_as(Kind.CERTIFICATE, "0" * 40)
    assert certificate is not None
    assert exclusions.why(certificate) is Exclusion.ALLOWED
    assert exclusions.why(Observable(Kind.URL, "http://x/")) is Exclusion.RESERVED


def test_a_name_above_an_allowed_one_is_not_an_indicator() -> None:
    exclusions = Exclusions(allowed=["good.badhost.net"])
    assert why("badhost.net", exclusions) is Exclusion.ALLOWED
    assert why("other.badhost.net", exclusions) is None


def reading(records: int, rejected: int = 0, declared: int | None = None) -> Reading:
    record = Record(Observable(Kind.ADDRESS, "45.66.77.88"))
    return Reading([record] * records, rejected, ["<b>"] if rejected else [], declared)


@pytest.mark.parametrize(
    ("found", "usable", "previous", "trouble"),
    [
        (reading(100), 100, None, None),
        (reading(100), 100, 100, None),
        (reading(0), 0, 100, Trouble.EMPTY),
        (reading(0, 5), 0, None, Trouble.WRONG_CONTENT),
        (reading(4, 5), 4, None, Trouble.WRONG_CONTENT),
        (reading(5, 4), 5, None, None),
        (reading(100, 0, 101), 100, None, Trouble.INCOMPLETE),
        (reading(100, 0, 100), 100, None, None),
        (reading(100), 0, None, Trouble.WRONG_CONTENT),
        (reading(33), 33, 100, Trouble.SHRUNK),
        (reading(34), 34, 100, None),
        (reading(500), 500, 100, None),
        (reading(501), 501, 100, Trouble.GROWN),
        (reading(3), 3, 49, None),
        (reading(250), 250, 1, None),
        (reading(251), 251, 1, Trouble.GROWN),
    ],
)
def test_what_may_take_the_place_of_the_last_good_version(
    found: Reading, usable: int, previous: int | None, trouble: Trouble | None
) -> None:
    refusal = judge_reading(found, usable, previous, AdmissionLimits())
    assert (refusal.trouble if refusal else None) is trouble


@given(
    st.lists(
        st.tuples(st.sampled_from([1, 3_600, DAY // 2, 3 * DAY, 8 * DAY]), st.integers(0, 4_000)),
        max_size=30,
    ),
    st.sampled_from([0, 1, 7]),
)
def test_no_feed_grows_without_bound_by_small_steps(
    versions: list[tuple[int, int]], days: int
) -> None:
    """Held against a list of all sizes that the feed ever had, and from when to when."""
    limits = AdmissionLimits(days=days)
    now, size = 1_700_000_000, 60
    kept: tuple[Replaced, ...] = ()
    ended: list[tuple[int, int]] = []
    for wait, wanted in versions:
        now += wait
        lowest = smallest(size, kept, now=now, days=days)
        refusal = judge_reading(reading(wanted), wanted, size, limits, lowest=lowest)
        in_force = [size, *(before for end, before in ended if end > now - days * DAY)]
        if refusal is None:
            assert wanted <= limits.grow * max(limits.small, min(in_force))
            kept = remember(kept, size, now=now, days=days)
            ended.append((now, size))
            size = wanted
            assert len(kept) <= days + 1
        elif days == 0 and refusal.trouble is Trouble.GROWN:
            assert wanted > limits.grow * max(limits.small, size)


def test_a_feed_that_grows_just_under_the_factor_each_hour_is_stopped() -> None:
    limits = AdmissionLimits()
    now, size = 1_700_000_000, 100
    kept: tuple[Replaced, ...] = ()
    taken = []
    for _ in range(24 * 6):
        now += 3_600
        wanted = int(size * 4.9)
        lowest = smallest(size, kept, now=now, days=limits.days)
        if judge_reading(reading(5), wanted, size, limits, lowest=lowest) is None:
            kept = remember(kept, size, now=now, days=limits.days)
            size = wanted
            taken.append(wanted)
    assert taken == [490]
    refusal = judge_reading(reading(5), 2_401, 490, limits, lowest=100)
    assert refusal is not None
    assert refusal.reason == "it grew from 100 to 2401 indicators within 7 days"


def test_an_empty_feed_where_it_may_be() -> None:
    limits = AdmissionLimits()
    assert judge_reading(reading(0), 0, 20, limits, may_be_empty=True) is None
    refusal = judge_reading(reading(0), 0, 60, limits, may_be_empty=True)
    assert refusal is not None
    assert refusal.trouble is Trouble.SHRUNK


def test_web_pages() -> None:
    for page in (b"<!DOCTYPE html>", b"\xef\xbb\xbf \n<html>", b"<?xml ?>", b"<HEAD>"):
        assert judge_bytes(page) is not None
    assert judge_bytes(b"# <html> in a comment") is None


def record(first: int | None, last: int | None, confidence: int | None = None) -> Record:
    return Record(Observable(Kind.DOMAIN, "a.net"), first, last, None, confidence)


def test_one_feed_naming_one_thing_twice() -> None:
    observable = Observable(Kind.DOMAIN, "a.net")
    folded = fold(
        "f",
        [record(NOW - 9, NOW - 5, 20), record(NOW - 7, NOW + 99), record(None, None, 90)],
        now=NOW,
        confidence=50,
        expires_days=2,
    )
    assert folded == {observable: Sighting("f", NOW - 9, NOW, NOW, NOW + 2 * DAY, 90, "")}
    ended = Record(observable, valid_until=NOW)
    ending = Record(observable, valid_until=NOW + 5)
    assert fold("f", [ended], now=NOW, confidence=1, expires_days=1) == {}
    assert fold("f", [ending], now=NOW, confidence=1, expires_days=1)[observable].expires == NOW + 5


def test_a_later_word_of_a_feed_counts() -> None:
    before = Sighting("f", 10, 20, 5, 100, 90, "old")
    after = Sighting("f", 15, 30, 50, 60, 40, "")
    assert renewed(before, after) == Sighting("f", 10, 30, 5, 60, 40, "old")


def test_several_feeds() -> None:
    observable = Observable(Kind.DOMAIN, "a.net")
    sightings = [
        Sighting("b", 10, 20, 5, 100, 60, ""),
        Sighting("a", 15, 30, 4, 90, 98, ""),
        Sighting("c", 15, 30, 4, 90, 60, ""),
    ]
    merged = join(observable, sightings)
    assert merged == join(observable, sightings[::-1])
    assert merged.feeds == ("a", "b", "c")
    assert (merged.confidence, merged.first_seen, merged.last_seen) == (100, 10, 30)
    assert (merged.added, merged.expires) == (4, 100)
    assert join(observable, sightings[:1]).confidence == 60


def test_the_catalogue_is_whole() -> None:
    feeds = built_in().feeds
    assert {feed.name for feed in feeds} >= {
        "feodo", "sslbl", "et-compromised", "spamhaus-drop", "spamhaus-dropv6", "blocklist-de",
        "cins-score", "urlhaus", "threatfox", "tor-exits",
    }  # fmt: skip
    for feed in feeds:
        assert feed.url.startswith("https://"), feed.name
        assert feed.licence, feed.name
        assert feed.licence_url.startswith("https://"), feed.name
        # What wants a key or has no licence for everybody is off until somebody decides.
        assert not (feed.enabled and (feed.key or "no licence" in feed.licence)), feed.name


def test_settings_change_and_add_feeds() -> None:
    text = """
feeds:
  feodo: {enabled: false, interval: 60, confidence: 75}
  urlhaus: {enabled: true, key_file: /etc/sib/urlhaus.key, interval: 7200}
more_feeds:
  - name: ours
    url: https://misp.corp.example/feed.json
    licence: ours
    internal: true
    shape: {format: misp}
"""
    settings = parse_settings(text, IntelSettings, Path("server.yaml"))
    feeds = all_feeds(settings)
    feodo = find_feed(feeds, "feodo")
    assert (feodo.enabled, feodo.interval, feodo.confidence) == (False, 900, 75)
    urlhaus = find_feed(feeds, "urlhaus")
    assert (urlhaus.interval, urlhaus.key_file) == (7200, Path("/etc/sib/urlhaus.key"))
    assert find_feed(feeds, "ours").internal
    with pytest.raises(UnknownFeedError, match="there is no feed 'fedo'"):
        all_feeds(IntelSettings(feeds={"fedo": FeedChange()}))
    with pytest.raises(UnknownFeedError):
        find_feed(feeds, "nothing")
    assert changed(feodo, FeedChange()) == feodo
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"name": "Bad Name", "url": "", "licence": ""}, type(feodo))


def test_failures_back_off_and_retry_after_is_kept() -> None:
    draw = random.Random(1)
    waits = []
    failures = 0
    for _ in range(12):
        retry = after_failure(failures, NOW, draw=draw, interval=60)
        failures = retry.failures
        waits.append(retry.not_before - NOW)
    assert waits[0] <= 300
    assert waits == sorted(waits[:8]) + waits[8:]
    assert max(waits) <= 86_400
    assert after_failure(0, NOW, draw=draw, interval=60, retry_after=9000).not_before >= NOW + 9000
    assert after_failure(0, NOW, draw=draw, interval=7200).not_before >= NOW + 7200


def test_own_addresses(tmp_path: Path) -> None:
    trie = """Local:
  +-- 0.0.0.0/0 3 0 5
     +-- 45.66.77.0/24 2 0 2
        |-- 45.66.77.0
           /24 link UNICAST
        |-- 45.66.77.88
           /32 host LOCAL
"""
    inet6 = "2a0e1234000000000000000000000001 02 40 00 80 eth0\nbroken\n\n"
    assert local_addresses4(trie) == {"45.66.77.88"}
    assert local_addresses6(inet6) == {"2a0e:1234::1"}
    (tmp_path / "fib_trie").write_text(trie)
    assert "45.66.77.88" in own_values(tmp_path)
    assert own_values(tmp_path / "nowhere")
