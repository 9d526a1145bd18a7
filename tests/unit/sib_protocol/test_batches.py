from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.batches import decode_lines, encode_lines
from sib_protocol.errors import MalformedMessageError, TooLargeError
from sib_protocol.limits import MAX_BATCH_LINES

lines = st.lists(st.binary(max_size=50).map(lambda raw: raw.replace(b"\n", b"")), min_size=1)


@given(lines)
def test_lines_come_back_as_they_were_and_curl_can_read_them(wanted: list[bytes]) -> None:
    body = encode_lines(wanted)
    assert decode_lines(body) == wanted
    assert gzip.decompress(body).split(b"\n") == wanted


@given(lines, st.data())
def test_a_batch_cut_anywhere_is_refused(wanted: list[bytes], data: st.DataObject) -> None:
    body = encode_lines(wanted)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(MalformedMessageError, match=r"ends in the middle|not gzip"):
        decode_lines(body[:cut])


@given(st.binary(max_size=200))
def test_only_the_documented_errors(body: bytes) -> None:
    try:
        found = decode_lines(body, max_bytes=100)
    except MalformedMessageError:
        return
    assert sum(map(len, found)) <= 100


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"plain", "not gzip"),
        (zlib.compress(b"x"), "not gzip"),
        (encode_lines([b"x"]) + b"y", "bytes after its end"),
        (encode_lines([b"x"]) * 2, "bytes after its end"),
        (gzip.compress(b"\n" * MAX_BATCH_LINES), "lines"),
    ],
)
def test_what_is_no_batch(body: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessageError, match=reason):
        decode_lines(body)


def test_size_is_exact_and_a_bomb_takes_no_memory() -> None:
    assert decode_lines(encode_lines([b"x" * 100]), max_bytes=100) == [b"x" * 100]
    with pytest.raises(TooLargeError) as caught:
        decode_lines(encode_lines([b"x" * 101]), max_bytes=100)
    assert caught.value.limit == 100
    assert len(decode_lines(gzip.compress(b"\n" * (MAX_BATCH_LINES - 1)))) == MAX_BATCH_LINES
    bomb = gzip.compress(bytes(64 * 2**20))
    tracemalloc.start()
    with pytest.raises(TooLargeError):
        decode_lines(bomb, max_bytes=2**20)
    _now, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * 2**20
