"""Falco, as far as its events file goes: numbered events, appended for as long as the run lasts."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.chaos.verdict import digest

_BIG = (400_000, 3_000_000)


def alert_line(number: int, size: int = 700) -> bytes:
    """An alert with its number in front, so that whatever shortens the line leaves it."""
    now = time.time_ns()
    second = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9))
    head = {
        "output_fields": {"lab.n": number, "proc.name": "cat", "user.name": "root"},
        "hostname": "lab",
        "priority": ("Notice", "Warning", "Error", "Critical")[number % 4],
        "rule": f"Lab rule {number % 7}",
        "source": "syscall",
        "tags": ["T1003.008", "host", "mitre_credential_access"],
        "time": f"{second}.{now % 10**9:09d}Z",
        "output": "",
    }
    bare = json.dumps(head, separators=(",", ":"))
    return f"{bare[:-2]}{'x' * max(1, size - len(bare))}{bare[-2:]}".encode()


def make_line(number: int, draw: random.Random) -> bytes:
    """Mostly alerts; now and then what hosts and attackers put into a file."""
    dice = draw.random()
    if dice < 0.0007:
        return alert_line(number, draw.randint(*_BIG))
    if dice < 0.01:
        return alert_line(number).replace(b'"cat"', b'"\xff\xfe\xc3(\xed\xa0\x80"')
    if dice < 0.02:
        return b'no json at all: "lab.n":%d, and \x00\x07 \xf0\x9f\x92\xa5 \xff' % number
    if dice < 0.03:
        return alert_line(number)[: draw.randint(60, 300)]
    return alert_line(number, draw.choice((300, 700, 700, 700, 2000)))


class Writer(threading.Thread):
    """Opens, writes, closes, as Falco does with ``keep_alive: false``.

    Attributes:
        written: the digest of every line whose last byte was written, by number.
        begun_in: the inode written to last, and how many lines were written before it was.
        failures: writes that did not happen as wished; there must be none.
    """

    def __init__(self, path: Path, *, rate: float, seed: int) -> None:
        super().__init__(daemon=True, name="writer")
        self.written: dict[int, bytes] = {}
        self.begun_in: tuple[int, int] = (0, 0)
        self.failures: list[str] = []
        self._path = path
        self._rate = rate
        self._draw = random.Random(seed)
        self._end = threading.Event()
        # Around every line: who has it knows that nothing is half written.
        self._line = threading.Lock()
        # Around every open and write: who has it knows that no file is being made.
        self._touch = threading.Lock()

    def run(self) -> None:
        start, number, paused = time.monotonic(), 0, 0.0
        while not self._end.is_set():
            ahead = number / self._rate - (time.monotonic() - start - paused)
            if ahead > 0:
                time.sleep(min(ahead, 0.05))
                continue
            waiting = time.monotonic()
            with self._line:
                paused += time.monotonic() - waiting
                try:
                    self._write(number)
                except OSError as error:
                    self.failures.append(f"{number}: {error}")
            number += 1

    def stop(self) -> None:
        self._end.set()
        self.join(20)
        assert not self.is_alive()

    @contextmanager
    def between_lines(self) -> Iterator[None]:
        """Nothing is written inside, and no line is half written."""
        with self._line:
            yield

    @contextmanager
    def no_new_file(self) -> Iterator[None]:
        """Nothing is opened inside; a line may be half written."""
        with self._touch:
            yield

    def _write(self, number: int) -> None:
        line = make_line(number, self._draw)
        content = line + b"\n"
        pieces = [content]
        if self._draw.random() < 0.02:
            middle = self._draw.randint(1, len(content) - 1)
            pieces = [content[:middle], content[middle:]]
        with self._touch:
            descriptor = os.open(
                self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
            inode = os.fstat(descriptor).st_ino
            if inode != self.begun_in[0]:
                self.begun_in = (inode, len(self.written))
            self._whole(descriptor, pieces[0])
        try:
            for piece in pieces[1:]:
                time.sleep(self._draw.uniform(0.0, 0.15))
                with self._touch:
                    self._whole(descriptor, piece)
        finally:
            os.close(descriptor)
        self.written[number] = digest(line)

    @staticmethod
    def _whole(descriptor: int, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= end:
            return False
        time.sleep(0.05)
    return True
