from __future__ import annotations

import gzip
import io
import socket
import ssl
import time
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_server.detection.indicators.admission import Trouble
from sib_server.detection.indicators.catalogue import FeedDefinition, KeyPlace, KeyUse
from sib_server.detection.indicators.fetch import (
    USER_AGENT,
    Download,
    Validators,
    fetch,
    retry_after,
)
from sib_server.detection.indicators.places import is_loopback, shown
from sib_server.detection.indicators.settings import DownloadLimits
from sib_server.detection.indicators.unpack import RefusedDownloadError, unpack

LIMITS = DownloadLimits(
    wire_bytes=100_000, bytes=200_000, seconds=1.0, idle_seconds=0.4, redirects=3
)
TRUST = ssl.create_default_context()
BODY = b"45.66.77.88\n45.66.77.89\n"


def feed(url: str, **more: Any) -> FeedDefinition:
    return FeedDefinition(name="test", url=url, licence="ours", **more)


def get(url: str, **more: Any) -> Download:
    return fetch(feed(url, **more), LIMITS, TRUST)


def trouble(url: str, **more: Any) -> RefusedDownloadError:
    started = time.monotonic()
    with pytest.raises(RefusedDownloadError) as caught:
        get(url, **more)
    # Whatever the far end does, a download ends in time.
    assert time.monotonic() - started < LIMITS.seconds + 3
    return caught.value


def test_a_whole_answer_and_polite_requests(feed_server: Any) -> None:
    feed_server.say(BODY, ETag='"v1"', Last_Modified="Fri, 20 Nov 2026 10:00:00 GMT")
    seen: list[tuple[int, int | None]] = []
    download = fetch(
        feed(feed_server.url + "/list"),
        LIMITS,
        TRUST,
        progress=lambda taken, total: seen.append((taken, total)),
    )
    assert download == Download(BODY, Validators('"v1"', "Fri, 20 Nov 2026 10:00:00 GMT"))
    assert seen[-1] == (len(BODY), len(BODY))
    assert feed_server.requests[0]["User-Agent"] == USER_AGENT
    assert "If-None-Match" not in feed_server.requests[0]
    feed_server.say(status=304, ETag='"v1"')
    again = fetch(feed(feed_server.url), LIMITS, TRUST, validators=download.validators)
    assert again.content is None
    assert feed_server.requests[1]["If-None-Match"] == '"v1"'
    assert feed_server.requests[1]["If-Modified-Since"].startswith("Fri, 20 Nov")


@given(st.one_of(st.text(max_size=60), st.from_regex(r"[A-Z][a-z]{2}, [0-9 :+A-Za-z-]{0,30}")))
def test_any_retry_after_is_a_time(text: str) -> None:
    assert 0 <= retry_after(text, 1_700_000_000.0) <= 7 * 86_400


def zipped(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, BODY)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (gzip.compress(BODY), {"Content_Encoding": "gzip"}),
        (gzip.compress(BODY), {}),
        (gzip.compress(BODY[:12]) + gzip.compress(BODY[12:]) + b"\0\0", {}),
        (zipped("full.csv"), {}),
        (BODY, {"Content_Encoding": "identity"}),
    ],
    ids=["gzip-told", "gzip-untold", "two-members", "zip", "plain"],
)
def test_compressed(feed_server: Any, body: bytes, headers: dict[str, str]) -> None:
    feed_server.say(body, **headers)
    assert get(feed_server.url).content == BODY


@pytest.mark.parametrize(
    ("body", "status", "headers", "expected"),
    [
        (b"", 500, {}, Trouble.STATUS),
        (b"", 404, {}, Trouble.STATUS),
        (b"", 403, {}, Trouble.KEY),
        (b"", 302, {}, Trouble.REDIRECT),
        (b"", 302, {"Location": "http://45.66.77.88/"}, Trouble.REDIRECT),
        (b"", 302, {"Location": "https://127.0.0.2:1/"}, Trouble.UNREACHABLE),
        (b"", 302, {"Location": "https://user:pw@45.66.77.88/"}, Trouble.REDIRECT),
        (b"", 302, {"Location": "https://h:99999/"}, Trouble.REDIRECT),
        (b"", 302, {"Location": "file:///etc/passwd"}, Trouble.REDIRECT),
        (gzip.compress(BODY)[:-9], 200, {"Content_Encoding": "gzip"}, Trouble.DAMAGED),
        (b"\x1f\x8bnonsense", 200, {}, Trouble.DAMAGED),
        (BODY, 200, {"Content_Encoding": "gzip"}, Trouble.DAMAGED),
        (BODY, 200, {"Content_Encoding": "br"}, Trouble.DAMAGED),
        (gzip.compress(b"0" * 300_000), 200, {}, Trouble.TOO_LARGE),
        (zipped("a", "b"), 200, {}, Trouble.DAMAGED),
        (zipped("a")[:40], 200, {}, Trouble.DAMAGED),
        (BODY, 200, {"Content_Length": "999"}, Trouble.DAMAGED),
        (BODY, 200, {"Content_Length": "9999999"}, Trouble.TOO_LARGE),
    ],
)
def test_answers_that_are_not_taken(
    feed_server: Any, body: bytes, status: int, headers: dict[str, str], expected: Trouble
) -> None:
    feed_server.say(body, status, **headers)
    assert trouble(feed_server.url).refusal.trouble is expected


def test_come_back_later(feed_server: Any) -> None:
    feed_server.say(status=429, Retry_After="7200")
    error = trouble(feed_server.url)
    assert (error.refusal.trouble, error.retry_after) == (Trouble.LATER, 7200)
    now = 1_795_000_000
    assert retry_after("Wed, 18 Nov 2026 12:26:40 GMT", now) == 4800 + 86400 - 86400
    for value, seconds in [(None, 0), ("", 0), ("soon", 0), ("9" * 9, 7 * 86400), ("-5", 0),
                           ("Wed, 18 Nov 1026 12:26:40 GMT", 0)]:  # fmt: skip
        assert retry_after(value, now) == seconds


@pytest.mark.parametrize(
    "place",
    [
        "https://[bad", "https://a:99999/", "https://a:0/", "https://exa mple/", "/a b", "/\x00",
        "https://h\x7f/", "https://" + "a" * 300 + ".com/", "https://user@h/", "\\\\x", "gopher://h/",
    ],
)  # fmt: skip
def test_a_redirect_to_no_place_that_can_be_asked_is_a_refusal(
    feed_server: Any, place: str
) -> None:
    """Whatever a server answers, it costs its own feed, not the update of all of them."""
    feed_server.say(status=302, Location=place)
    assert trouble(feed_server.url + "/list").refusal.trouble is not Trouble.LATER


def test_redirects_at_home_are_followed_and_loops_end(feed_server: Any) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        if handler.path == "/new":
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(BODY)
        else:
            handler.send_response(301)
            handler.send_header("Location", "/new" if handler.path == "/old" else handler.path)
            handler.end_headers()

    feed_server.answer = answer
    assert get(feed_server.url + "/old").content == BODY
    assert trouble(feed_server.url + "/loop").refusal.trouble is Trouble.REDIRECT
    assert len([r for r in feed_server.requests if r["path"] == "/loop"]) == 4


def dripping(handler: BaseHTTPRequestHandler, stop: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    while not stop.wait(0.05):
        handler.wfile.write(b"4")
        handler.wfile.flush()


def test_a_body_that_drips(feed_server: Any) -> None:
    feed_server.answer = lambda handler: dripping(handler, feed_server.stop)
    error = trouble(feed_server.url)
    assert error.refusal.trouble is Trouble.TOO_SLOW
    assert "more than 1 s" in error.refusal.reason


def test_headers_that_drip(feed_server: Any) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not feed_server.stop.wait(0.05):
            handler.wfile.write(b"x")
            handler.wfile.flush()

    feed_server.answer = answer
    assert trouble(feed_server.url).refusal.trouble is Trouble.TOO_SLOW


def test_silence(feed_server: Any) -> None:
    feed_server.answer = lambda _handler: feed_server.stop.wait(5)
    error = trouble(feed_server.url)
    assert error.refusal.trouble is Trouble.TOO_SLOW
    assert "nothing came for 0.4 s" in error.refusal.reason


def test_endless(feed_server: Any) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while not feed_server.stop.is_set():
            handler.wfile.write(b"45.66.77.88\n" * 500)

    feed_server.answer = answer
    assert trouble(feed_server.url).refusal.trouble is Trouble.TOO_LARGE


def test_not_http(feed_server: Any) -> None:
    feed_server.answer = lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH\r\n")
    assert trouble(feed_server.url).refusal.trouble is Trouble.DAMAGED


def test_nobody_there() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        assert trouble(url).refusal.trouble is Trouble.UNREACHABLE


@pytest.mark.parametrize(
    "url", ["http://45.66.77.88/", "ftp://45.66.77.88/", "https:///x", "https://[bad/", "nothing"]
)
def test_places_that_are_never_asked(url: str) -> None:
    assert trouble(url).refusal.trouble is Trouble.REDIRECT


def pretend(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A name server that answers with a private address."""
    real = socket.getaddrinfo

    def resolve(host: str, *args: Any, **more: Any) -> Any:
        if host == "nowhere.badhost.net":
            raise socket.gaierror(-2, "Name or service not known")
        return real("127.0.0.1" if host == name else host, *args, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def test_a_public_name_with_a_private_address(
    tls_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = tls_server
    pretend(monkeypatch, "feeds.badhost.net")
    port = server.url.rsplit(":", 1)[1]
    error = trouble(f"https://feeds.badhost.net:{port}/")
    assert error.refusal.trouble is Trouble.REDIRECT
    assert "127.0.0.1, which is not of the internet" in error.refusal.reason
    assert not server.requests
    error = trouble("https://nowhere.badhost.net/")
    assert "cannot be resolved" in error.refusal.reason


def test_a_redirect_to_a_private_address_gets_no_byte(feed_server: Any, tls_server: Any) -> None:
    inner, _ = tls_server
    feed_server.say(status=302, Location=inner.url + "/admin")
    error = trouble(feed_server.url)
    assert error.refusal.trouble is Trouble.REDIRECT
    assert "not of the internet" in error.refusal.reason
    assert not inner.requests


def test_tls_is_verified(tls_server: Any) -> None:
    server, ca = tls_server
    server.say(BODY)
    error = trouble(server.url)
    assert error.refusal.trouble is Trouble.UNREACHABLE
    assert "certificate is not trusted" in error.refusal.reason
    trust = ssl.create_default_context(cafile=ca)
    assert fetch(feed(server.url, internal=True), LIMITS, trust).content == BODY
    named = server.url.replace("127.0.0.1", "localhost")
    with pytest.raises(RefusedDownloadError, match="not trusted"):
        fetch(feed(named), LIMITS, trust)


def test_a_key_goes_to_its_owner_only_and_is_in_no_message(
    feed_server: Any, tmp_path: Path
) -> None:
    secret = tmp_path / "key"
    secret.write_text("s3cret\n")
    query = {"key": KeyUse(KeyPlace.QUERY, "auth-key"), "key_file": secret}
    header = {"key": KeyUse(KeyPlace.HEADER, "Auth-Key"), "key_file": secret}
    feed_server.say(BODY)
    get(feed_server.url + "/x?a=1", **query)
    get(feed_server.url, **header)
    assert feed_server.requests[0]["path"] == "/x?a=1&auth-key=s3cret"
    assert feed_server.requests[1]["Auth-Key"] == "s3cret"
    feed_server.say(status=302, Location="http://45.66.77.88/?auth-key=s3cret")
    for body in (500, 302):
        feed_server.say(status=body, Location="http://45.66.77.88/?auth-key=s3cret")
        assert "s3cret" not in trouble(feed_server.url, **query).refusal.reason
    for content in ("", "two words", "x" * 600, "é"):
        secret.write_text(content)
        assert trouble(feed_server.url, **query).refusal.trouble is Trouble.KEY
    assert trouble(feed_server.url, key=query["key"]).refusal.trouble is Trouble.KEY
    query["key_file"] = tmp_path / "none"
    assert trouble(feed_server.url, **query).refusal.trouble is Trouble.KEY


def test_a_key_does_not_go_along_where_its_owner_redirects_to(
    feed_server: Any, tls_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "key"
    secret.write_text("s3cret\n")
    other, ca = tls_server
    # Both are on loopback here; the other one stands for a place on the internet.
    monkeypatch.setattr("sib_server.detection.indicators.fetch.is_public", lambda _address: True)
    feed_server.say(status=302, Location=other.url + "/list")
    other.say(BODY)
    keyed = feed(feed_server.url, key=KeyUse(KeyPlace.HEADER, "Auth-Key"), key_file=secret)
    trust = ssl.create_default_context(cafile=ca)
    assert fetch(keyed, LIMITS, trust).content == BODY
    assert feed_server.requests[0]["Auth-Key"] == "s3cret"
    assert "s3cret" not in str(other.requests[0])


def test_urls_for_people() -> None:
    assert shown("https://u:p@[2a0e::1]:8443/a?key=1#f") == "https://[2a0e::1]:8443/a"
    assert is_loopback("http://localhost:1/")
    assert is_loopback("http://[::1]/")
    assert not is_loopback("http://10.0.0.1/")
    assert msgspec.structs.asdict(feed("https://x/"))["interval"] == 3600


def test_plain_content_has_a_limit() -> None:
    assert unpack(b"123", 3) == b"123"
    with pytest.raises(RefusedDownloadError):
        unpack(b"1234", 3)


def test_a_zip_bomb() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("big", b"0" * 5_000_000)
    with pytest.raises(RefusedDownloadError) as caught:
        unpack(buffer.getvalue(), 1000)
    assert caught.value.refusal.trouble is Trouble.TOO_LARGE


@given(st.sampled_from([gzip.compress(BODY), zipped("x")]), st.binary(max_size=60), st.integers())
def test_no_archive_raises_anything_else(good: bytes, noise: bytes, at: int) -> None:
    at %= len(good)
    for content in (good[:at] + noise, good[:at] + noise + good[at + len(noise) :], noise):
        assert unpacked_size(content) <= 10_000


def unpacked_size(content: bytes) -> int:
    try:
        return len(unpack(content, 10_000))
    except RefusedDownloadError:
        return 0
