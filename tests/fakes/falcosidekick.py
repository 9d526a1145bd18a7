"""A strict stand-in for Falcosidekick: takes events, counts them, loses its queue when it ends.

What it does was compared with a real one by tests/integration/test_falcosidekick_sink.py. Run
``python -m tests.fakes.falcosidekick --port 0 --dir D --output slack: --output pager:critical``.
What an output delivered is in ``D/<output>.jsonl``; an output with a URL posts there as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.fakes.control import Failure, Lines, cut, fail_before, run_forever, serve

PRIORITIES = [
    "",
    "debug",
    "informational",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
]
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)")


@dataclass
class Output:
    """One output: "up"; "down" (an error for each event); "hang" (nothing until changed)."""

    minimum: str = ""
    state: str = "up"
    seconds: float = 0.0
    url: str | None = None


@dataclass
class FakeFalcosidekick:
    directory: Path
    outputs: dict[str, Output]
    failure: Failure = field(default_factory=Failure)

    def __post_init__(self) -> None:
        self.started = time.time()
        self.inputs: Counter[str] = Counter()
        self.counts: Counter[tuple[str, str]] = Counter()
        self.queues = {name: asyncio.Queue[dict[str, Any]]() for name in self.outputs}
        self.files = {name: Lines(self.directory / f"{name}.jsonl") for name in self.outputs}
        self._tasks: list[asyncio.Task[None]] = []
        self._session: aiohttp.ClientSession | None = None

    def app(self) -> web.Application:
        app = web.Application(client_max_size=100 * 1024 * 1024)
        app.router.add_route("*", "/", self._take)
        app.router.add_get("/ping", self._ping)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/_fake/fail", self._fail)
        app.router.add_post("/_fake/outputs/{name}", self._set_output)
        app.router.add_get("/_fake/delivered/{name}", self._delivered)
        app.on_startup.append(self._begin)
        app.on_cleanup.append(self._end)
        return app

    async def start(self, port: int = 0) -> str:
        self._runner, self.port = await serve(self.app(), port)
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _begin(self, _: web.Application) -> None:
        self._session = aiohttp.ClientSession()
        self._tasks = [asyncio.create_task(self._deliver(name)) for name in self.outputs]

    async def _end(self, _: web.Application) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for file in self.files.values():
            file.close()
        if self._session is not None:
            await self._session.close()

    async def _ping(self, _: web.Request) -> web.Response:
        return web.Response(text="pong\n")

    async def _healthz(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _fail(self, request: web.Request) -> web.Response:
        self.failure = Failure(**await request.json())
        return web.Response(status=204)

    async def _set_output(self, request: web.Request) -> web.Response:
        for key, value in (await request.json()).items():
            setattr(self.outputs[request.match_info["name"]], key, value)
        return web.Response(status=204)

    async def _delivered(self, request: web.Request) -> web.Response:
        return web.json_response(self.delivered(request.match_info["name"]))

    def delivered(self, name: str) -> list[dict[str, Any]]:
        return self.files[name].read()

    async def _take(self, request: web.Request) -> web.Response:
        failure = self.failure.take()
        failed = await fail_before(request, failure)
        if failed is not None:
            return failed
        refused = web.Response(status=400, text="Please send a valid request body\n")
        if request.method != "POST":
            self.inputs["rejected"] += 1
            return web.Response(status=400, text="Please send with post http method\n")
        payload = _payload(await request.read())
        if payload is None:
            self.inputs["rejected"] += 1
            return refused
        if any(
            not isinstance(payload["output_fields"].get(name) or "", str)
            for name in ("k8s.ns.name", "k8s.pod.name")
        ):
            # The real one panics in its handler, and Go's server cuts the connection.
            return cut(request)
        self.inputs["accepted"] += 1
        level = PRIORITIES.index(payload["priority"].lower())
        for name, output in self.outputs.items():
            if level >= PRIORITIES.index(output.minimum) or payload["rule"] == "Test rule":
                self.queues[name].put_nowait(payload)
        return cut(request) if failure.mode == "lost" else web.Response(status=200)

    async def _deliver(self, name: str) -> None:
        output = self.outputs[name]
        while True:
            payload = await self.queues[name].get()
            while output.state == "hang":
                await asyncio.sleep(0.01)
            if output.seconds:
                await asyncio.sleep(output.seconds)
            ok = output.state == "up" and await self._post(output, payload)
            if ok:
                self.files[name].append([payload])
            self.counts[name, "ok" if ok else "error"] += 1

    async def _post(self, output: Output, payload: dict[str, Any]) -> bool:
        if output.url is None:
            return True
        assert self._session is not None
        try:
            async with self._session.post(output.url, json=payload) as response:
                return response.status in (200, 201, 202, 204)
        except (aiohttp.ClientError, OSError):
            return False

    async def _metrics(self, _: web.Request) -> web.Response:
        prefix = "falcosecurity_falcosidekick"
        lines = [f"# TYPE {prefix}_inputs_total counter"]
        lines += [
            f'{prefix}_inputs_total{{source="requests",status="{status}"}} {count}'
            for status, count in self.inputs.items()
        ]
        lines.append(f"# TYPE {prefix}_outputs_total counter")
        lines += [
            f'{prefix}_outputs_total{{destination="{name}",status="{status}"}} {count}'
            for (name, status), count in self.counts.items()
        ]
        lines.append("# TYPE process_start_time_seconds gauge")
        lines.append(f"process_start_time_seconds {self.started:.9e}")
        return web.Response(text="\n".join(lines) + "\n")


def _payload(body: bytes) -> dict[str, Any] | None:
    try:
        payload = json.loads(body)
        fits = (
            payload["priority"].lower() in PRIORITIES[1:]
            and payload["rule"] != ""
            and isinstance(payload["rule"], str)
            and isinstance(payload.get("output", ""), str)
            and isinstance(payload.get("source", ""), str)
            and isinstance(payload.get("hostname", ""), str)
            and all(isinstance(tag, str) for tag in payload.get("tags") or [])
            and _TIME.fullmatch(payload["time"]) is not None
            and isinstance(payload["output_fields"], dict)
            and len(payload["output_fields"]) > 0
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return payload if fits else None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument(
        "--output", action="append", default=[], help="NAME:MINIMUM[:URL]", metavar="OUTPUT"
    )
    given = parser.parse_args()
    outputs = {}
    for text in given.output:
        name, _, rest = text.partition(":")
        minimum, _, url = rest.partition(":")
        outputs[name] = Output(minimum, url=url or None)
    run_forever(FakeFalcosidekick(given.dir, outputs).app(), given.port)


if __name__ == "__main__":
    main()
