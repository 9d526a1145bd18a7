"""A TCP proxy that fails as networks and overloaded servers do, on command."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any


class Mode(Enum):
    PASS = "pass"
    CUT = "cut"
    """Every connection is reset, and new ones are refused."""
    HANG = "hang"
    """Nothing passes, and nothing is closed."""
    SLOW = "slow"
    """A few kilobytes a second."""
    HALF = "half"
    """Answers are cut after a few bytes."""
    ANSWER = "answer"
    """Requests are answered here, over plain HTTP, and never reach the server."""


@dataclass(frozen=True)
class Plan:
    mode: Mode = Mode.PASS
    answer: bytes = b""
    once: bool = False
    """After one answer everything passes again."""


class Proxy:
    """Listens on a loopback port of its own, in a thread of its own."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self._plan = Plan()
        self._loop = asyncio.new_event_loop()
        self._writers: set[asyncio.StreamWriter] = set()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="proxy")
        self._thread.start()
        assert self._started.wait(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def set(self, plan: Plan) -> None:
        self._loop.call_soon_threadsafe(self._set, plan)

    def _set(self, plan: Plan) -> None:
        self._plan = plan
        if plan.mode is not Mode.SLOW:
            for writer in list(self._writers):
                writer.transport.abort()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=256)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            plan = self._plan
            if plan.mode is Mode.CUT:
                writer.transport.abort()
            elif plan.mode is Mode.ANSWER:
                await self._answer(reader, writer, plan.answer)
            else:
                await self._relay(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: bytes
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        await reader.readexactly(length)
        if self._plan.once and self._plan.answer == answer:
            self._plan = Plan()
        writer.write(answer)
        await writer.drain()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target_reader, target_writer = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.add(target_writer)
        try:
            await asyncio.gather(
                self._pump(reader, target_writer, answers=False),
                self._pump(target_reader, writer, answers=True),
            )
        finally:
            self._writers.discard(target_writer)
            target_writer.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool
    ) -> None:
        while data := await reader.read(64 * 1024):
            while self._plan.mode is Mode.HANG:
                await asyncio.sleep(0.02)
            if self._plan.mode is Mode.HALF and answers:
                writer.write(data[: len(data) // 2])
                with suppress(OSError):
                    await writer.drain()
                writer.transport.abort()
                return
            if self._plan.mode is Mode.SLOW:
                for start in range(0, len(data), 1024):
                    writer.write(data[start : start + 1024])
                    await writer.drain()
                    await asyncio.sleep(0.02)
                continue
            writer.write(data)
            await writer.drain()
        with suppress(OSError):
            writer.write_eof()


def http_answer(status: int, body: str = "", headers: dict[str, Any] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Injected", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def wait_for(what: str | Callable[[], str], condition: Any, seconds: float) -> None:
    """Wait; what is waited for may be said at the end, when logs tell more."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            said = what if isinstance(what, str) else what()
            raise AssertionError(f"not within {seconds:.0f} s: {said}")
        time.sleep(0.05)
