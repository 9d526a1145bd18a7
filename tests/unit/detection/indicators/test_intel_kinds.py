from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_server.detection.indicators.kinds import (
    Kind,
    Observable,
    parse_as,
    parse_domain,
    parse_hash,
    recognise,
    url_host,
)


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("45.66.77.88", Kind.ADDRESS, "45.66.77.88"),
        ("2A0E:1234:0:0::1", Kind.ADDRESS, "2a0e:1234::1"),
        ("::ffff:45.66.77.88", Kind.ADDRESS, "45.66.77.88"),
        ("45.66.77.88:443", Kind.ADDRESS, "45.66.77.88"),
        ("[2a0e::1]:443", Kind.ADDRESS, "2a0e::1"),
        ("45.66.77.88/32", Kind.ADDRESS, "45.66.77.88"),
        ("45.66.77.88/20", Kind.NETWORK, "45.66.64.0/20"),
        ("::ffff:45.66.64.0/116", Kind.NETWORK, "45.66.64.0/20"),
        ("2a0e:1234::5/32", Kind.NETWORK, "2a0e:1234::/32"),
        ("Bad.Host.NET.", Kind.DOMAIN, "bad.host.net"),
        ("*.bad.host.net", Kind.DOMAIN, "bad.host.net"),
        ("bücher.example.de", Kind.DOMAIN, "xn--bcher-kva.example.de"),
        ("_dmarc.host.net", Kind.DOMAIN, "_dmarc.host.net"),
        ("HTTP://User:Pw@Bad.Host.net:80/A?b=C#d", Kind.URL, "http://bad.host.net/A?b=C"),
        ("https://[2A0E::1]:8443", Kind.URL, "https://[2a0e::1]:8443/"),
        ("hxxps[:]//bad[.]host(.)net/x", Kind.URL, "https://bad.host.net/x"),
        ("00112233445566778899AABBCCDDEEFF", Kind.MD5, "00112233445566778899aabbccddeeff"),
        ("0" * 40, Kind.SHA1, "0" * 40),
        ("A" * 64, Kind.SHA256, "a" * 64),
    ],
)
def test_one_spelling(text: str, kind: Kind, value: str) -> None:
    found = recognise(text)
    assert found == Observable(kind, value)
    assert recognise(value) == found
    assert Kind.from_code(kind.code) is kind


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "1.2.3",
        "045.66.77.88",
        "fe80::1%eth0",
        "fe80::%eth0/64",
        "45.66.77.88/33",
        "host.123",
        "-bad.host.net",
        "a" * 64 + ".net",
        ".".join(["a" * 60] * 5) + ".net",
        "é" * 300 + ".net",
        "http://",
        "http://localhost/",
        "gopher://bad.host.net/",
        "http://bad.host.net:99999/",
        "http://bad host.net/",
        "http://bad.host.net/" + "a" * 3000,
        "http://[bad]/",
        "0" * 39,
        "zz" * 20,
    ],
)
def test_what_is_no_indicator(text: str) -> None:
    assert recognise(text) is None


def test_said_kinds() -> None:
    assert parse_as(Kind.CERTIFICATE, "AA:" * 19 + "AA") == Observable(Kind.CERTIFICATE, "aa" * 20)
    assert parse_as(Kind.NETWORK, "45.66.77.88") == Observable(Kind.ADDRESS, "45.66.77.88")
    assert parse_as(Kind.DOMAIN, "45.66.77.88") is None
    assert parse_as(Kind.URL, "bad.host.net") is None
    assert parse_hash("0" * 40, Kind.SHA256) is None


def test_a_urls_host() -> None:
    for text, host in [
        ("http://bad.host.net:81/", Observable(Kind.DOMAIN, "bad.host.net")),
        ("http://45.66.77.88/", Observable(Kind.ADDRESS, "45.66.77.88")),
        ("http://[2a0e::1]/", Observable(Kind.ADDRESS, "2a0e::1")),
    ]:
        url = recognise(text)
        assert url is not None
        assert url_host(url) == host


@given(st.text(max_size=300))
def test_recognising_never_raises_and_is_stable(text: str) -> None:
    found = recognise(text)
    if found is not None:
        assert recognise(found.value) == found


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128))
def test_every_network_is_read(address: ipaddress.IPv4Address, length: int) -> None:
    length = min(length, address.max_prefixlen)
    found = recognise(f"{address}/{length}")
    assert found is not None
    assert found.kind is (Kind.ADDRESS if length == address.max_prefixlen else Kind.NETWORK) or (
        # IPv4 written as IPv6
        found.value.count(".") == 3
    )


@given(st.text(alphabet="abcXYZ019.-_", max_size=80))
def test_domains_are_lower_case_and_whole(text: str) -> None:
    found = parse_domain(text)
    if found is not None:
        assert found.value == found.value.lower()
        assert found.value.count(".") >= 1
        assert all(found.value.split("."))
