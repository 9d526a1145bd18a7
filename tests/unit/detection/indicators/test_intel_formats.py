from __future__ import annotations

import json
import re
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_server.detection.indicators.catalogue import built_in, find_feed
from sib_server.detection.indicators.formats.lines import entry_of, text_lines
from sib_server.detection.indicators.formats.reader import read_feed
from sib_server.detection.indicators.formats.records import parse_confidence, parse_time
from sib_server.detection.indicators.formats.shape import Fields, Format, Shape
from sib_server.detection.indicators.formats.stix import parse_pattern
from sib_server.detection.indicators.formats.tables import MAX_VALUES, decode_json
from sib_server.detection.indicators.kinds import Kind, Observable

FEEDS = Path(__file__).parent / "feeds"


def values(name: str, file: str) -> dict[str, tuple[Kind, object]]:
    shape = find_feed(built_in().feeds, name).shape
    reading = read_feed((FEEDS / file).read_bytes(), shape, max_records=100)
    assert reading.rejected == 0
    return {r.observable.value: (r.observable.kind, r) for r in reading.records}


def test_feodo() -> None:
    found = values("feodo", "feodo.csv")
    assert set(found) == {"45.66.77.88", "91.92.93.94", "10.1.2.3"}
    record = found["91.92.93.94"][1]
    assert (record.note, record.first_seen, record.last_seen) == (  # type: ignore[attr-defined]
        "QakBot",
        parse_time("2026-02-03T21:24:53Z"),
        parse_time("2026-11-20T00:00:00Z"),
    )


@pytest.mark.parametrize(
    ("name", "file", "expected"),
    [
        (
            "sslbl",
            "sslbl.csv",
            {
                "0123456789abcdef0123456789abcdef01234567": Kind.CERTIFICATE,
                "89abcdef0123456789abcdef0123456789abcdef": Kind.CERTIFICATE,
            },
        ),
        (
            "et-compromised",
            "et-compromised.txt",
            dict.fromkeys(["45.66.77.89", "45.66.77.90", "203.119.28.1"], Kind.ADDRESS),
        ),
        (
            "spamhaus-drop",
            "spamhaus-drop.jsonl",
            dict.fromkeys(["45.66.64.0/20", "91.200.0.0/14"], Kind.NETWORK),
        ),
        ("spamhaus-dropv6", "spamhaus-dropv6.jsonl", {"2a0e:1234::/32": Kind.NETWORK}),
        (
            "blocklist-de",
            "blocklist-de.txt",
            dict.fromkeys(["1.0.171.2", "1.1.187.48", "2001:41d0:2:1234::1"], Kind.ADDRESS),
        ),
        (
            "cins-score",
            "cins-score.txt",
            dict.fromkeys(["1.12.60.30", "1.13.79.144"], Kind.ADDRESS),
        ),
        (
            "urlhaus",
            "urlhaus.csv",
            {
                "http://182.126.120.150:58801/i": Kind.URL,
                "182.126.120.150": Kind.ADDRESS,
                "https://files.badhost.net/a,b/run.sh?x=1": Kind.URL,
            },
        ),
        (
            "threatfox",
            "threatfox.csv",
            {
                "gate.badhost.org": Kind.DOMAIN,
                "64.227.143.36": Kind.ADDRESS,
                "https://badhost.org/path?q=a,b": Kind.URL,
                "aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999": Kind.SHA256,
            },
        ),
        (
            "tor-exits",
            "tor-exits.txt",
            dict.fromkeys(["171.25.193.25", "80.67.167.81", "185.220.101.1"], Kind.ADDRESS),
        ),
    ],
)
def test_every_feed_in_its_real_format(name: str, file: str, expected: dict[str, Kind]) -> None:
    assert {value: kind for value, (kind, _) in values(name, file).items()} == expected


def test_feeds_own_words_are_kept() -> None:
    record = values("threatfox", "threatfox.csv")["64.227.143.36"][1]
    assert record.confidence == 75  # type: ignore[attr-defined]
    assert record.note == "Cobalt Strike"  # type: ignore[attr-defined]
    shape = find_feed(built_in().feeds, "spamhaus-drop").shape
    content = (FEEDS / "spamhaus-drop.jsonl").read_bytes()
    assert read_feed(content, shape, max_records=9).declared == 2


def test_misp_takes_what_is_for_detection_only() -> None:
    reading = read_feed(
        (FEEDS / "misp.json").read_bytes(), Shape(format=Format.MISP), max_records=9
    )
    assert [r.observable for r in reading.records] == [
        Observable(Kind.ADDRESS, "45.66.77.88"),
        Observable(Kind.DOMAIN, "panel.badhost.org"),
        Observable(Kind.SHA256, "0000111122223333444455556666777788889999aaaabbbbccccddddeeeeffff"),
    ]
    assert {r.note for r in reading.records} == {"Campaign of November"}
    assert reading.records[0].first_seen == 1795000000


def test_misp_broken_attributes_are_counted() -> None:
    event = {
        "Event": {
            "Attribute": [
                {"type": "domain|ip", "value": "only-one-part.badhost.org"},
                {"type": "ip-src", "value": 7},
                {"type": "ip-src", "value": "999.1.1.1"},
                {"type": "url", "value": "http://45.66.77.88/x"},
            ],
            "Object": "none",
        }
    }
    shape = Shape(format=Format.MISP, derive_addresses=True)
    reading = read_feed(json.dumps([event, 5]).encode(), shape, max_records=9)
    assert reading.rejected == 3
    assert [r.observable.value for r in reading.records] == ["http://45.66.77.88/x", "45.66.77.88"]
    assert read_feed(json.dumps(event).encode(), shape, max_records=0).cut


def test_stix_bundle() -> None:
    reading = read_feed(
        (FEEDS / "stix.json").read_bytes(), Shape(format=Format.STIX), max_records=9
    )
    assert [r.observable.value for r in reading.records] == [
        "45.66.77.88",
        "45.66.77.89",
        "0000111122223333444455556666777788889999aaaabbbbccccddddeeeeffff",
        "a.badhost.org",
        "b.badhost.org",
        "http://badhost.org/it's",
    ]
    assert reading.rejected == 1
    assert reading.records[0].confidence == 85
    assert reading.records[2].valid_until == parse_time("2227-01-01T00:00:00Z")
    assert read_feed(
        (FEEDS / "stix.json").read_bytes(), Shape(format=Format.STIX), max_records=1
    ).cut


@pytest.mark.parametrize(
    "pattern",
    [
        "[ipv4-addr:value = '45.66.77.88' AND network-traffic:dst_port = 443]",
        "[ipv4-addr:value LIKE '45.%']",
        "[ipv4-addr:value = '45.66.77.88'] FOLLOWEDBY [ipv4-addr:value = '45.66.77.89']",
        "[ipv4-addr:value = '45.66.77.88'] WITHIN 5 SECONDS",
        "[NOT ipv4-addr:value = '45.66.77.88']",
        "[ipv4-addr:value = 'not an address']",
        "[file:name = 'run.sh']",
        "[ipv4-addr:value = ]",
        "[ipv4-addr:value IN ('45.66.77.88'",
        "[(" * 40 + "ipv4-addr:value = '45.66.77.88'" + ")]" * 40,
        "[" + "(" * 50 + "ipv4-addr:value = '45.66.77.88'" + ")" * 50 + "]",
        "[ipv4-addr:value = '45.66.77.88' \x00",
        "",
        "x" * 70_000,
    ],
)
def test_a_stix_pattern_that_says_more_is_refused_not_weakened(pattern: str) -> None:
    assert parse_pattern(pattern) is None


def test_stix_nesting_and_addresses_of_urls() -> None:
    assert parse_pattern(
        "[(x509-certificate:hashes.'SHA-1' = '0123456789abcdef0123456789abcdef01234567') "
        "OR (file:size = 5 AND file:hashes.MD5 = '00112233445566778899aabbccddeeff')]"
    ) == [
        Observable(Kind.CERTIFICATE, "0123456789abcdef0123456789abcdef01234567"),
        Observable(Kind.MD5, "00112233445566778899aabbccddeeff"),
    ]
    bundle = {"objects": [{"type": "indicator", "pattern": "[url:value = 'http://45.66.77.88/']"}]}
    shape = Shape(format=Format.STIX, derive_addresses=True)
    reading = read_feed(json.dumps(bundle).encode(), shape, max_records=9)
    assert [r.observable.kind for r in reading.records] == [Kind.URL, Kind.ADDRESS]


def test_hostfile() -> None:
    shape = Shape(format=Format.HOSTFILE)
    content = (FEEDS / "hostfile.txt").read_bytes()
    reading = read_feed(content, shape, max_records=9)
    assert [r.observable.value for r in reading.records] == [
        "bad.badhost.org",
        "worse.badhost.org",
        "tabs.badhost.org",
    ]
    assert reading.rejected == 1
    assert read_feed(content, shape, max_records=1).cut
    assert read_feed(b"0.0.0.0 not_a_domain", shape, max_records=1).rejected == 1


def test_text_with_comments_and_mixed_kinds() -> None:
    text = b"""\xef\xbb\xbf; DROP style
45.66.64.0/20 ; SBL1
// c++ style
hxxp://bad[.]badhost[.]org/x # defanged
[2a0e:1234::1]:8080
00112233445566778899aabbccddeeff
"45.66.77.88",extra
what is this
"""
    reading = read_feed(text, Shape(), max_records=99)
    assert [r.observable.value for r in reading.records] == [
        "45.66.64.0/20",
        "http://bad.badhost.org/x",
        "2a0e:1234::1",
        "00112233445566778899aabbccddeeff",
    ]
    assert reading.rejected == 2
    assert reading.samples[-1] == "what is this"
    assert read_feed(text, Shape(), max_records=1).cut


def test_csv_by_position_and_header() -> None:
    shape = Shape(
        format=Format.CSV,
        delimiter=";",
        columns=("ip", "score"),
        fields=Fields(value="ip", confidence="score"),
    )
    by_position = read_feed(b"45.66.77.88;30\nbroken\n45.66.77.89;nan\n", shape, max_records=9)
    assert [(r.observable.value, r.confidence) for r in by_position.records] == [
        ("45.66.77.88", 30),
        ("45.66.77.89", None),
    ]
    assert by_position.rejected == 1
    # A header in the file wins over the columns that were expected.
    by_header = read_feed(b"score;ip\n30;45.66.77.88\n", shape, max_records=9)
    assert by_header.records[0].confidence == 30
    assert read_feed(b"45.66.77.88;30\n", Shape(format=Format.CSV), max_records=9).rejected == 1


def test_json_ways() -> None:
    shape = Shape(format=Format.JSON, items="data.*.iocs", fields=Fields(value="v", first_seen="t"))
    tree = {"data": {"a": {"iocs": [{"v": "45.66.77.88", "t": 1795000000}, 5, {"v": 7}]}, "b": {}}}
    reading = read_feed(json.dumps(tree).encode(), shape, max_records=9)
    assert [(r.observable.value, r.first_seen) for r in reading.records] == [
        ("45.66.77.88", 1795000000)
    ]
    assert reading.rejected == 2
    flat = read_feed(b'["45.66.77.88", "45.66.77.89"]', Shape(format=Format.JSON), max_records=1)
    assert flat.cut
    one = Shape(format=Format.JSON, fields=Fields(value="v"))
    assert len(read_feed(b'{"v": "45.66.77.88"}', one, max_records=9).records) == 1
    assert not read_feed(b'{"data": "text"}', shape, max_records=9).records
    assert not read_feed(b'{"data": 5}', shape, max_records=9).records
    assert not read_feed(b"5", Shape(format=Format.JSON), max_records=9).records


def test_json_lines_broken() -> None:
    shape = Shape(format=Format.JSON_LINES, fields=Fields(value="cidr"))
    text = b'{"cidr":"45.66.64.0/20"}\n\nbroken\n{"type":"metadata","records":"two"}\n[1]\n'
    reading = read_feed(text, shape, max_records=9)
    assert (len(reading.records), reading.rejected, reading.declared) == (1, 2, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-19 00:00:00 UTC", 86400 * 20776),
        ("2026-11-19", 86400 * 20776),
        ("2026-11-19T01:00:00+01:00", 86400 * 20776),
        ("1795000000", 1795000000),
        (1795000000.5, 1795000000),
        ("", None),
        ("yesterday", None),
        (True, None),
        (None, None),
        (10**12, None),
        ("9999-12-31T23:59:59-23:59", None),
    ],
)
def test_times(text: object, expected: int | None) -> None:
    assert parse_time(text) == expected


def test_confidences() -> None:
    assert [parse_confidence(v) for v in (75, "50", "101", "high", None, True)] == [
        75, 50, None, None, None, None,
    ]  # fmt: skip


TEXTS = st.one_of(
    st.binary(max_size=400),
    st.text(max_size=400).map(str.encode),
    st.lists(
        st.sampled_from(
            ["45.66.77.88", "a.b.c", '"x","y"', '{"cidr":"1.2.3.0/24"}', "#", "//", "::1 a.bad",
             '{"Event":{"Attribute":[{"type":"url","value":"http://a.b/"}]}}', "[", "\x00", "é.fr",
             '{"objects":[{"type":"indicator","pattern":"[url:value = \'x\']"}]}']
        ),
        max_size=12,
    ).map(lambda parts: "\n".join(parts).encode()),
)  # fmt: skip


@given(TEXTS, st.sampled_from(Format), st.booleans(), st.integers(0, 5))
def test_no_content_makes_a_reader_raise_or_exceed(
    content: bytes, form: Format, derive: bool, limit: int
) -> None:
    shape = Shape(format=form, columns=("value", "x"), derive_addresses=derive)
    reading = read_feed(content, shape, max_records=limit)
    # One URL may name one address, and one attribute or pattern a few values.
    assert len(reading.records) <= limit + 2
    assert len(reading.samples) <= 5
    assert all(len(sample) <= 120 and sample.isprintable() for sample in reading.samples)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                    lambda inner: st.lists(inner, max_size=4)
                    | st.dictionaries(st.sampled_from(["Event", "response", "Attribute", "Object",
                                                       "type", "value", "objects", "pattern"]),
                                      inner, max_size=4)))  # fmt: skip
def test_no_json_tree_makes_a_reader_raise(tree: object) -> None:
    content = json.dumps(tree).encode()
    for form in (Format.JSON, Format.MISP, Format.STIX):
        for items in ("", "*", "Event.*"):
            read_feed(content, Shape(format=form, items=items), max_records=9)


def test_deep_json_is_survived() -> None:
    content = b"[" * 200_000
    for form in (Format.JSON, Format.JSON_LINES, Format.MISP, Format.STIX):
        assert read_feed(content, Shape(format=form), max_records=9).rejected == 1


OLD_COMMENT = re.compile(r"^\s*(#|;|//)|\s+(#|;).*$")


@given(st.text(alphabet="a #;/\t\u00a0", max_size=12))
def test_a_line_without_its_comment(line: str) -> None:
    """Held against an expression that says it in one line, and takes for ever on long ones."""
    match = OLD_COMMENT.search(line)
    if match is None:
        assert entry_of(line) == line.strip()
    else:
        assert entry_of(line) == ("" if match[1] else line[: match.start()].strip())


@given(st.text(alphabet="ab \r\n\ufeff\u00e9\0", max_size=30))
def test_lines_are_those_that_stand_there(text: str) -> None:
    wanted = [line.rstrip("\r") for line in text.removeprefix("\ufeff").split("\n")]
    assert list(text_lines(text.encode())) == wanted


@pytest.mark.parametrize("form", list(Format))
@pytest.mark.parametrize(
    "content",
    [
        b"a" + b" " * 300_000 + b"b",
        b"1.2.3.4" + b"," * 300_000,
        b"0.0.0.0 " + b"a " * 300_000,
        b"#" * 300_000,
        b"[" + b"[]," * 200_000 + b"[]]",
        b'{"response":[' + b"{}," * 200_000 + b"{}]}",
        b"\n" * 300_000,
        b'{"value": "45.66.77.88", "c": 1' + b"0" * 400 + b', "t": 1' + b"0" * 400 + b"}",
    ],
)
def test_what_a_feed_sends_to_take_time_or_memory_takes_little(
    content: bytes, form: Format
) -> None:
    fields = Fields(value="value", confidence="c", first_seen="t")
    shape = Shape(format=form, columns=("value", "b"), fields=fields)
    started = time.process_time()
    tracemalloc.start()
    reading = read_feed(content, shape, max_records=1_000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(reading.records) <= 1_000
    assert most < 64 * 2**20
    assert time.process_time() - started < 30


def test_a_document_of_too_many_values_is_not_held() -> None:
    assert decode_json(b"[" + b"[]," * 10 + b"[]]") == [[]] * 11
    assert decode_json(b"[" + b"[]," * (MAX_VALUES // 2) + b"[]]") is None
