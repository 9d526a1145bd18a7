"""The webhook behind Falcosidekick: notes every number it was given, on disk too."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path

from aiohttp import web

from tests.chaos.verdict import number_in


class Receiver:
    """Listens on a loopback port of its own, in a thread of its own.

    Attributes:
        down: while true it answers 503 and notes nothing.
        seen: how often each number came.
    """

    def __init__(self, log: Path) -> None:
        self.down = False
        self.seen: Counter[int] = Counter()
        self.port = 0
        self._log = log.open("ab", buffering=0)
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="webhook")
        self._thread.start()
        assert self._started.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._log.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/", self._take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _take(self, request: web.Request) -> web.Response:
        body = await request.read()
        if self.down:
            return web.Response(status=503)
        # The field of an alert; in an unparsed event's output the quotes are escaped.
        number = number_in(body.replace(b'\\"', b'"'))
        if number is not None:
            self._log.write(b"%d\n" % number)
            self.seen[number] += 1
        return web.Response(status=200)
