"""Setting right who a pushed log or metric is from. Pure.

An agent's push is untrusted: whatever it says of its host is replaced by the name in its
certificate, and what it says of its source must not make a log line look like an event that went
through the journal. Everything else goes through as it came.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any, Final

import cramjam
import msgspec
from google.protobuf.message import DecodeError

from sib_protocol.errors import UNDECODABLE, MalformedMessageError, TooLargeError
from sib_server.stack.push.labels import check_labels, format_labels, parse_labels
from sib_server.stack.push.schema import LokiPush, WriteRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from sib_protocol.ids import HostName

HOST_LABEL: Final = "host"
SOURCE_LABEL: Final = "source"

PUSHED_SOURCE: Final = "pushed"
"""The source of a pushed stream that named one of the events' own."""

MAX_STREAMS: Final = 5_000
MAX_SERIES: Final = 50_000
MAX_SERIES_LABELS: Final = 64
MAX_SERIES_LABEL_BYTES: Final = 4096

_HOST: Final = HOST_LABEL.encode()
_GZIP: Final = 16 + zlib.MAX_WBITS


def decompress_snappy(body: bytes, max_bytes: int) -> bytes:
    """Undo snappy's block format.

    Args:
        body: as it came.
        max_bytes: the most that may come out; checked before any of it is made.

    Raises:
        TooLargeError: more would come out.
        MalformedMessageError: it is not snappy.
    """
    if snappy_length(body) > max_bytes:
        raise TooLargeError("a push after decompression", max_bytes)
    try:
        return bytes(cramjam.snappy.decompress_raw(body))
    except (cramjam.DecompressionError, ValueError) as error:
        raise MalformedMessageError("the body is not snappy-compressed") from error


def snappy_length(body: bytes) -> int:
    """How many bytes a snappy block says it holds. Raises MalformedMessageError."""
    try:
        return int(cramjam.snappy.decompress_raw_len(body))
    except (cramjam.DecompressionError, ValueError) as error:
        raise MalformedMessageError("the body is not snappy-compressed") from error


def decompress_gzip(body: bytes, max_bytes: int) -> bytes:
    """Undo one gzip member; the same bounds and errors as :func:`decompress_snappy`."""
    decompressor = zlib.decompressobj(wbits=_GZIP)
    try:
        text = decompressor.decompress(body, max_bytes + 1)
    except zlib.error as error:
        raise MalformedMessageError("the body is not gzip-compressed") from error
    if len(text) > max_bytes:
        raise TooLargeError("a push after decompression", max_bytes)
    if not decompressor.eof or decompressor.unused_data:
        raise MalformedMessageError("the body is not one whole gzip member")
    return text


def rewrite_loki(
    body: bytes, host: HostName, reserved_sources: Collection[str], *, max_bytes: int
) -> bytes:
    """A Loki push in its protobuf form, with the labels set right.

    Args:
        body: protobuf under snappy.
        host: as the certificate says.
        reserved_sources: values of ``source`` that belong to events.
        max_bytes: the most that the push may hold uncompressed.

    Returns:
        The push to hand on, in the same form.

    Raises:
        MalformedMessageError: it is not a push, or a stream's labels cannot be read.
        TooLargeError: it holds too much.
    """
    push = _parse(LokiPush(), decompress_snappy(body, max_bytes))
    if len(push.streams) > MAX_STREAMS:
        raise MalformedMessageError(
            f"a push has {len(push.streams)} streams; {MAX_STREAMS} are allowed"
        )
    for stream in push.streams:
        labels = parse_labels(stream.labels)
        stream.labels = format_labels(_correct(labels, host, reserved_sources))
    return bytes(cramjam.snappy.compress_raw(push.SerializeToString()))


class _JsonStream(msgspec.Struct):
    stream: dict[str, str]
    values: msgspec.Raw


class _JsonPush(msgspec.Struct):
    streams: list[_JsonStream]


_json_decoder: Final = msgspec.json.Decoder(_JsonPush)


def rewrite_loki_json(
    text: bytes, host: HostName, reserved_sources: Collection[str], *, max_bytes: int
) -> bytes:
    """A Loki push in its JSON form, uncompressed, with the labels set right.

    The same as :func:`rewrite_loki`; keys that are not part of a push are left out.
    """
    if len(text) > max_bytes:
        raise TooLargeError("a push", max_bytes)
    try:
        # The values are handed on unread, so nothing else would look at their encoding.
        if not text.isascii():
            text.decode()
        push = _json_decoder.decode(text)
    except UNDECODABLE as error:
        raise MalformedMessageError(f"the body is not a push of Loki's: {error}") from error
    if len(push.streams) > MAX_STREAMS:
        raise MalformedMessageError(
            f"a push has {len(push.streams)} streams; {MAX_STREAMS} are allowed"
        )
    for item in push.streams:
        check_labels(item.stream)
        item.stream = _correct(item.stream, host, reserved_sources)
    return msgspec.json.encode(push)


def _correct(
    labels: dict[str, str], host: HostName, reserved_sources: Collection[str]
) -> dict[str, str]:
    # Names with two underscores are Loki's own; some of them switch its checks off.
    kept = {name: value for name, value in labels.items() if not name.startswith("__")}
    kept[HOST_LABEL] = host
    if kept.get(SOURCE_LABEL) in reserved_sources:
        kept[SOURCE_LABEL] = PUSHED_SOURCE
    return kept


def rewrite_remote_write(body: bytes, host: HostName, *, max_bytes: int) -> bytes:
    """A Prometheus remote write 1.0 request whose series all carry the certificate's host.

    Args:
        body: protobuf under snappy.
        host: as the certificate says.
        max_bytes: the most that the request may hold uncompressed.

    Returns:
        The request to hand on, in the same form; each series' labels sorted by name.

    Raises:
        MalformedMessageError: it is not such a request, or a series has too many labels, too
            large ones, or one twice.
        TooLargeError: it holds too much.
    """
    request = _parse(WriteRequest(), decompress_snappy(body, max_bytes))
    if len(request.timeseries) > MAX_SERIES:
        raise MalformedMessageError(
            f"a request has {len(request.timeseries)} series; {MAX_SERIES} are allowed"
        )
    name = host.encode()
    for series in request.timeseries:
        _correct_series(series.labels, name)
    return bytes(cramjam.snappy.compress_raw(request.SerializeToString()))


def _correct_series(labels: Any, host: bytes) -> None:
    if len(labels) > MAX_SERIES_LABELS:
        raise MalformedMessageError(
            f"a series has {len(labels)} labels; {MAX_SERIES_LABELS} are allowed"
        )
    pairs = [(label.name, label.value) for label in labels]
    values = dict(pairs)
    if len(values) != len(pairs):
        raise MalformedMessageError("a series has a label twice")
    if any(len(name) + len(value) > MAX_SERIES_LABEL_BYTES for name, value in pairs):
        raise MalformedMessageError(f"a label is over {MAX_SERIES_LABEL_BYTES} bytes")
    right = sorted({**values, _HOST: host}.items())
    if right == pairs:
        return
    del labels[:]
    for name, value in right:
        labels.add(name=name, value=value)


def _parse(message: Any, raw: bytes) -> Any:
    try:
        message.ParseFromString(raw)
    except DecodeError as error:
        raise MalformedMessageError("the body is not the protocol buffer it should be") from error
    return message
