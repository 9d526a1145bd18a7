"""How a test tells a fake to fail: one plan at a time, over HTTP or in process."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web


@dataclass
class Failure:
    """What the next requests meet.

    mode: "none"; "status" (answers status and body, does nothing); "half" (half an answer, does
    nothing); "lost" (does its work, then cuts the connection); "slow" (waits, then does its work).
    """

    mode: str = "none"
    status: int = 500
    body: str = ""
    seconds: float = 0.0
    count: int = -1
    retry_after: str | None = None

    def take(self) -> Failure:
        if self.mode == "none" or self.count == 0:
            return Failure()
        if self.count > 0:
            self.count -= 1
        return Failure(self.mode, self.status, self.body, self.seconds, 1, self.retry_after)


def cut(request: web.Request, beginning: bytes = b"") -> web.Response:
    assert request.transport is not None
    request.transport.write(beginning)
    request.transport.close()
    return web.Response()


async def fail_before(request: web.Request, failure: Failure) -> web.Response | None:
    if failure.mode == "slow":
        await asyncio.sleep(failure.seconds)
    if failure.mode == "status":
        headers = {"Retry-After": failure.retry_after} if failure.retry_after else {}
        return web.Response(status=failure.status, text=failure.body, headers=headers)
    if failure.mode == "half":
        return cut(request, b"HTTP/1.1 204 No Con")
    return None


async def serve(app: web.Application, port: int) -> tuple[web.AppRunner, int]:
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    return runner, runner.addresses[0][1]


def run_forever(app: web.Application, port: int) -> None:
    async def main() -> None:
        _, bound = await serve(app, port)
        print(json.dumps({"port": bound}), flush=True)
        await asyncio.Event().wait()

    asyncio.run(main())


class Lines:
    """A file of JSON lines that a kill -9 of this process cannot take back."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)

    def read(self) -> list[Any]:
        # A last line without its end is one that the kill cut.
        return [json.loads(line) for line in self.path.read_bytes().split(b"\n")[:-1]]

    def append(self, items: list[Any]) -> None:
        self._file.write(b"".join(json.dumps(item).encode() + b"\n" for item in items))

    def close(self) -> None:
        self._file.close()
