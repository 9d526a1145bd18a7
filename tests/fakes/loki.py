"""A strict stand-in for Loki: its push and query API, its limits, and its ways to fail.

What it does was compared with a real Loki by tests/integration/test_loki_sink.py, which runs the
same tests against both. Run it with ``python -m tests.fakes.loki --port 0 --dir D``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import cramjam
from aiohttp import web
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tests.fakes.control import Failure, Lines, cut, fail_before, run_forever, serve

SECOND = 1_000_000_000
_F = descriptor_pb2.FieldDescriptorProto


def _push_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="fake/push.proto", package="f", syntax="proto3")
    shape: dict[str, list[tuple[str, int, int, str | None, bool]]] = {
        "Time": [
            ("seconds", 1, _F.TYPE_INT64, None, False),
            ("nanos", 2, _F.TYPE_INT32, None, False),
        ],
        "Pair": [
            ("name", 1, _F.TYPE_STRING, None, False),
            ("value", 2, _F.TYPE_STRING, None, False),
        ],
        "Entry": [
            ("time", 1, _F.TYPE_MESSAGE, "Time", False),
            ("line", 2, _F.TYPE_STRING, None, False),
            ("metadata", 3, _F.TYPE_MESSAGE, "Pair", True),
        ],
        "Stream": [
            ("labels", 1, _F.TYPE_STRING, None, False),
            ("entries", 2, _F.TYPE_MESSAGE, "Entry", True),
        ],
        "Push": [("streams", 1, _F.TYPE_MESSAGE, "Stream", True)],
    }
    for name, fields in shape.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind, of, repeated in fields:
            message.field.add(
                name=field_name,
                number=number,
                type=kind,
                type_name=f".f.{of}" if of else None,
                label=_F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles(["fake/push.proto"], pool)["f.Push"]


Push = _push_class()


@dataclass(frozen=True)
class Entry:
    labels: tuple[tuple[str, str], ...]
    time_ns: int
    line: str
    metadata: tuple[tuple[str, str], ...]


@dataclass
class Limits:
    """Loki's defaults."""

    behind_ns: int = 3600 * SECOND
    oldest_ns: int = 7 * 24 * 3600 * SECOND
    ahead_ns: int = 600 * SECOND
    line_bytes: int = 256 * 1024
    labels: int = 15
    message_bytes: int = 4 * 1024 * 1024
    rate: float = 4 * 1024 * 1024
    burst: float = 6 * 1024 * 1024
    metadata_bytes: int = 64 * 1024


class Refused(Exception):  # noqa: N818 - an answer, not an error
    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def rfc3339(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // SECOND, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


_LABEL = re.compile(r'\s*([a-zA-Z_]\w*)\s*(=~|!~|!=|=)\s*("(?:[^"\\]|\\.)*")\s*(,|\})')


def parse_selector(text: str) -> list[tuple[str, str, str]]:
    text = text.strip()
    if not text.startswith("{"):
        raise Refused(400, f"error parsing labels '{text}'")
    if text == "{}":
        return []
    at, found = 1, []
    while True:
        match = _LABEL.match(text, at)
        if match is None:
            raise Refused(400, f"couldn't parse labels: {text[at:]}")
        found.append((match[1], match[2], json.loads(match[3])))
        at = match.end()
        if match[4] == "}":
            if at != len(text):
                raise Refused(400, f"couldn't parse labels: {text[at:]}")
            return found


def matches(labels: dict[str, str], selector: list[tuple[str, str, str]]) -> bool:
    checks = {
        "=": lambda have, want: have == want,
        "!=": lambda have, want: have != want,
        "=~": lambda have, want: re.fullmatch(want, have) is not None,
        "!~": lambda have, want: re.fullmatch(want, have) is None,
    }
    return all(checks[op](labels.get(name, ""), want) for name, op, want in selector)


@dataclass
class FakeLoki:
    directory: Path
    limits: Limits = field(default_factory=Limits)
    failure: Failure = field(default_factory=Failure)
    now_ns: Any = time.time_ns

    def __post_init__(self) -> None:
        self.requests = 0
        self.duplicates = 0
        self._file = Lines(self.directory / "entries.jsonl")
        self._entries: dict[Entry, None] = {}
        self._newest: dict[tuple[tuple[str, str], ...], int] = {}
        for labels, time_ns, line, metadata in self._file.read():
            self._keep(Entry(_pairs(labels), time_ns, line, _pairs(metadata)))
        self._tokens, self._at = self.limits.burst, time.monotonic()

    def app(self) -> web.Application:
        app = web.Application(client_max_size=100 * 1024 * 1024)
        app.router.add_get("/ready", self._ready)
        app.router.add_post("/loki/api/v1/push", self._push)
        app.router.add_get("/loki/api/v1/query_range", self._query_range)
        app.router.add_post("/_fake/fail", self._fail)
        app.router.add_get("/_fake/stats", self._stats)
        return app

    async def start(self, port: int = 0) -> str:
        self._runner, self.port = await serve(self.app(), port)
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        await self._runner.cleanup()
        self._file.close()

    async def _ready(self, _: web.Request) -> web.Response:
        return web.Response(text="ready\n")

    async def _fail(self, request: web.Request) -> web.Response:
        self.failure = Failure(**await request.json())
        return web.Response(status=204)

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(
            {
                "requests": self.requests,
                "entries": len(self._entries),
                "duplicates": self.duplicates,
            }
        )

    async def _push(self, request: web.Request) -> web.Response:
        self.requests += 1
        failure = self.failure.take()
        failed = await fail_before(request, failure)
        if failed is not None:
            return failed
        body = await request.read()
        try:
            self._accept(_decode(request, body))
        except Refused as refused:
            return web.Response(status=refused.status, text=f"{refused}\n")
        if failure.mode == "lost":
            return cut(request)
        return web.Response(status=204)

    def _accept(
        self, streams: list[tuple[str, list[tuple[int, str, tuple[tuple[str, str], ...]]]]]
    ) -> None:
        now = self.now_ns()
        problems: list[str] = []
        valid: list[tuple[tuple[tuple[str, str], ...], list[Entry]]] = []
        size = 0
        for text, entries in streams:
            labels = tuple(sorted((name, value) for name, _, value in parse_selector(text)))
            if not labels:
                raise Refused(400, "error at least one label pair is required per stream")
            if len(labels) > self.limits.labels:
                problems.append(
                    f"entry for stream '{text}' has {len(labels)} label names;"
                    f" limit {self.limits.labels}"
                )
                continue
            kept = []
            for time_ns, line, metadata in entries:
                entry = Entry(labels, time_ns, line, metadata)
                problem = self._problem(text, entry, now)
                if problem:
                    problems.append(problem)
                else:
                    kept.append(entry)
                    size += len(line.encode()) + sum(len(n) + len(v) for n, v in metadata)
            if kept:
                valid.append((labels, kept))
        if valid:
            self._limit_rate(size)
            if size > self.limits.message_bytes:
                raise Refused(
                    500,
                    "rpc error: code = ResourceExhausted desc = trying to send message larger than"
                    f" max ({size} vs. {self.limits.message_bytes})",
                )
            self._ingest(valid)
        if problems:
            raise Refused(400, _grouped(problems))

    def _problem(self, text: str, entry: Entry, now: int) -> str | None:
        limits = self.limits
        if entry.time_ns < now - limits.oldest_ns:
            return (
                f"entry for stream '{text}' has timestamp too old: {rfc3339(entry.time_ns)},"
                f" oldest acceptable timestamp is: {rfc3339(now - limits.oldest_ns)}"
            )
        if entry.time_ns > now + limits.ahead_ns:
            return f"entry for stream '{text}' has timestamp too new: {rfc3339(entry.time_ns)}"
        length = len(entry.line.encode())
        if length > limits.line_bytes:
            return (
                f"max entry size '{limits.line_bytes}' bytes exceeded for stream '{text}' while"
                f" adding an entry with length '{length}' bytes"
            )
        size = sum(len(name) + len(value) for name, value in entry.metadata)
        if size > limits.metadata_bytes:
            return (
                f"stream '{text}' has structured metadata too large: '{size}' bytes,"
                f" limit: '{limits.metadata_bytes}' bytes"
            )
        return None

    def _limit_rate(self, size: int) -> None:
        at = time.monotonic()
        self._tokens = min(self.limits.burst, self._tokens + (at - self._at) * self.limits.rate)
        self._at = at
        if size > self._tokens:
            raise Refused(
                429,
                "ingestion rate limit exceeded for user fake (limit:"
                f" {int(self.limits.rate)} bytes/sec) while attempting to ingest lines totaling"
                f" '{size}' bytes",
            )
        self._tokens -= size

    def _ingest(self, valid: list[tuple[tuple[tuple[str, str], ...], list[Entry]]]) -> None:
        # As in Loki's instance.Push: each stream's outcome replaces the one before, so that only
        # the last stream's refusals are told.
        outcome: Refused | None = None
        added: list[Entry] = []
        for labels, entries in valid:
            outcome = None
            behind = []
            for entry in entries:
                cutoff = self._newest.get(labels, 0) - self.limits.behind_ns
                if entry.time_ns < cutoff:
                    behind.append((entry, cutoff))
                elif self._keep(entry):
                    added.append(entry)
                else:
                    self.duplicates += 1
            if behind:
                told = "".join(
                    f"entry with timestamp {rfc3339(entry.time_ns)} ignored, reason: 'entry too far"
                    f" behind, entry timestamp is: {rfc3339(entry.time_ns)}, oldest acceptable"
                    f" timestamp is: {rfc3339(cutoff)}',\n"
                    for entry, cutoff in behind[:10]
                )
                outcome = Refused(
                    400,
                    f"{told}user 'fake', total ignored: {len(behind)} out of {len(entries)}"
                    f" for stream: {dict(labels)}",
                )
        self._file.append([[e.labels, e.time_ns, e.line, e.metadata] for e in added])
        if outcome is not None:
            raise outcome

    def _keep(self, entry: Entry) -> bool:
        if entry in self._entries:
            return False
        self._entries[entry] = None
        self._newest[entry.labels] = max(self._newest.get(entry.labels, 0), entry.time_ns)
        return True

    def entries(self) -> list[Entry]:
        return list(self._entries)

    async def _query_range(self, request: web.Request) -> web.Response:
        query = request.query
        now = self.now_ns()
        try:
            text, _, wanted = query["query"].partition(" |= ")
            selector = parse_selector(text)
            part = json.loads(wanted) if wanted else ""
            start = _moment(query.get("start"), now - 3600 * SECOND)
            end = _moment(query.get("end"), now)
            limit = int(query.get("limit", "100"))
        except (KeyError, ValueError) as error:
            return web.Response(status=400, text=str(error))
        except Refused as refused:
            return web.Response(status=400, text=str(refused))
        if limit > 5000:
            return web.Response(
                status=400, text="max entries limit per query exceeded, limit > max_entries_limit"
            )
        backward = query.get("direction", "backward").lower() != "forward"
        found = [
            entry
            for entry in self._entries
            if start <= entry.time_ns < end
            and matches(dict(entry.labels), selector)
            and part in entry.line
        ]
        found.sort(key=lambda entry: entry.time_ns, reverse=backward)
        streams: dict[tuple[tuple[str, str], ...], list[list[str]]] = {}
        for entry in found[:limit]:
            key = tuple(sorted({**dict(entry.metadata), **dict(entry.labels)}.items()))
            streams.setdefault(key, []).append([str(entry.time_ns), entry.line])
        result = [{"stream": dict(key), "values": values} for key, values in streams.items()]
        return web.json_response(
            {"status": "success", "data": {"resultType": "streams", "result": result}}
        )


def _grouped(problems: list[str]) -> str:
    if len(problems) == 1:
        return problems[0]
    return "; ".join(f"{n} errors like: {text}" for text, n in Counter(problems).items())


def _pairs(items: Any) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in items)


def _moment(text: str | None, default: int) -> int:
    if text is None:
        return default
    return int(text) if len(text) > 12 and text.isdigit() else int(float(text) * SECOND)


def _decode(
    request: web.Request, body: bytes
) -> list[tuple[str, list[tuple[int, str, tuple[tuple[str, str], ...]]]]]:
    try:
        if request.content_type == "application/json":
            if request.headers.get("Content-Encoding") == "gzip" and body[:2] == b"\x1f\x8b":
                body = gzip.decompress(body)
            return [
                (
                    "{"
                    + ", ".join(f"{n}={json.dumps(v)}" for n, v in item["stream"].items())
                    + "}",
                    [
                        (int(v[0]), v[1], _pairs((v[2] if len(v) > 2 else {}).items()))
                        for v in item["values"]
                    ],
                )
                for item in json.loads(body)["streams"]
            ]
        push = Push()
        push.ParseFromString(bytes(cramjam.snappy.decompress_raw(body)))
    except Exception as error:
        raise Refused(400, str(error)) from error
    return [
        (
            stream.labels,
            [
                (
                    entry.time.seconds * SECOND + entry.time.nanos,
                    entry.line,
                    tuple((pair.name, pair.value) for pair in entry.metadata),
                )
                for entry in stream.entries
            ],
        )
        for stream in push.streams
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=Limits.rate)
    parser.add_argument("--burst", type=float, default=Limits.burst)
    given = parser.parse_args()
    limits = Limits(rate=given.rate, burst=given.burst)
    run_forever(FakeLoki(given.dir, limits).app(), given.port)


if __name__ == "__main__":
    main()
