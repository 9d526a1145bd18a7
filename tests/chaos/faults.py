"""How each fault is made, and how it ends."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

from tests.chaos.kept import Kept
from tests.chaos.receiver import Receiver
from tests.chaos.schedule import TO_LOKI, Fault, Kind
from tests.chaos.writer import Writer, wait_until
from tests.support.proxy import Mode, Plan, Proxy, http_answer

_PATIENCE = 20.0
_MODES = {
    Kind.CUT: Mode.CUT,
    Kind.HANG: Mode.HANG,
    Kind.SLOW: Mode.SLOW,
    Kind.HALF: Mode.HALF,
}


class Scene(Protocol):
    """What faults are done to."""

    kept: dict[str, Kept]
    proxies: dict[str, Proxy]
    volumes: dict[str, Path]
    """Small file systems of their own, by name; none where they cannot be had."""
    writer: Writer
    receiver: Receiver
    events_file: Path
    faketime: Path | None
    host_name: str

    def taken(self) -> int:
        """How many lines the agent has provably made durable."""


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def too_old(host: str, now: float) -> str:
    """Loki's words (pkg/validation/validate.go) about an entry older than it takes."""
    stream = f'{{host="{host}", priority="Warning", source="syscall"}}'
    return (
        f"entry for stream '{stream}' has timestamp too old: {_when(now - 8 * 86400)},"
        f" oldest acceptable timestamp is: {_when(now - 7 * 86400)}\n"
    )


def too_far_behind(host: str, now: float) -> str:
    """Loki's words (pkg/ingester/stream.go) about an entry older than its stream takes."""
    old, oldest = _when(now - 8000), _when(now - 7200)
    return (
        f"entry with timestamp {old} ignored, reason: 'entry too far behind, entry timestamp is:"
        f" {old}, oldest acceptable timestamp is: {oldest}',\nuser 'fake', total ignored: 1 out of"
        f' 1 for stream: {{host="{host}", priority="Warning", source="syscall"}}\n'
    )


class Faults:
    """Does faults to a scene.

    Attributes:
        done: how many were made, by kind and target.
        passed_over: how many could not be, and why.
    """

    def __init__(self, scene: Scene, seed: int) -> None:
        self.done: Counter[str] = Counter()
        self.passed_over: Counter[str] = Counter()
        self._scene = scene
        self._draw = random.Random(seed)
        self._lock = threading.Lock()
        # Who changed a thing last: only that fault's end puts it right again.
        self._owner: dict[str, int] = {}
        self._rotations = 0

    def run(self, fault: Fault) -> None:
        """Make it, wait, end it. For a thread of its own."""
        problem = self._make(fault)
        with self._lock:
            if problem is None:
                self.done[f"{fault.kind.value}: {fault.target}"] += 1
            else:
                self.passed_over[f"{fault.kind.value}: {fault.target}: {problem}"] += 1

    def heal(self) -> None:
        """End everything that may still be on."""
        scene = self._scene
        for proxy in scene.proxies.values():
            proxy.set(Plan())
        for volume in scene.volumes.values():
            (volume / "filler").unlink(missing_ok=True)
        scene.receiver.down = False
        for kept in scene.kept.values():
            if kept.environment:
                kept.environment = {}
                kept.kill()

    def _make(self, fault: Fault) -> str | None:  # noqa: PLR0911 - one for each kind
        scene, kind = self._scene, fault.kind
        if kind is Kind.KILL:
            scene.kept[fault.target].kill(fault.seconds)
            return None
        if kind in _MODES:
            self._way(fault, Plan(_MODES[kind]))
            return None
        if kind is Kind.TOO_MANY:
            # What Loki says of a rate, and any proxy of any reason.
            headers = {"Retry-After": "1"}
            self._way(fault, Plan(Mode.ANSWER, http_answer(429, "too many\n", headers)))
            return None
        if kind is Kind.BROKEN:
            self._way(fault, Plan(Mode.ANSWER, http_answer(500, "rpc error: code = X\n")))
            return None
        if kind in (Kind.TOO_OLD, Kind.TOO_FAR_BEHIND):
            assert fault.target == TO_LOKI
            text = (too_old if kind is Kind.TOO_OLD else too_far_behind)(
                scene.host_name, time.time()
            )
            self._way(fault, Plan(Mode.ANSWER, http_answer(400, text), once=True))
            return None
        if kind is Kind.DISK_FULL:
            return self._fill(fault)
        if kind is Kind.RENAMED:
            return self._rename()
        if kind is Kind.TRUNCATED:
            return self._truncate()
        if kind is Kind.CLOCK:
            return self._clock(fault)
        self._for_a_while(fault, "webhook", self._set_down, lambda: self._set_down(up=True))
        return None

    def _set_down(self, *, up: bool = False) -> None:
        self._scene.receiver.down = not up

    def _for_a_while(
        self, fault: Fault, thing: str, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        with self._lock:
            self._owner[thing] = fault.number
            begin()
        time.sleep(fault.seconds)
        with self._lock:
            if self._owner[thing] == fault.number:
                end()

    def _way(self, fault: Fault, plan: Plan) -> None:
        proxy = self._scene.proxies[fault.target]
        self._for_a_while(fault, fault.target, lambda: proxy.set(plan), lambda: proxy.set(Plan()))

    def _fill(self, fault: Fault) -> str | None:
        volume = self._scene.volumes.get(fault.target)
        if volume is None:
            return "no small file system: root is needed to mount one"
        filler = volume / "filler"

        def begin() -> None:
            descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # Again and again, since others write and delete meanwhile.
                for _ in range(20):
                    found = os.statvfs(volume)
                    room = found.f_bavail * found.f_frsize
                    if not room:
                        break
                    with suppress(OSError):
                        os.posix_fallocate(descriptor, os.fstat(descriptor).st_size, room)
            finally:
                os.close(descriptor)

        self._for_a_while(
            fault, f"disk {fault.target}", begin, lambda: filler.unlink(missing_ok=True)
        )
        return None

    def _rename(self) -> str | None:
        """As logrotate does it; once per file that the agent has begun to read.

        A file that somebody renames before the agent has ever seen it is one that nobody could
        tell from any other file there: see docs/reliability.md.
        """
        scene, path = self._scene, self._scene.events_file
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            inode, lines = scene.writer.begun_in
            if scene.taken() > lines:
                with scene.writer.no_new_file(), suppress(FileNotFoundError):
                    if scene.writer.begun_in[0] == inode == path.stat().st_ino:
                        with self._lock:
                            self._rotations += 1
                            name = f"{path.name}-{self._rotations}"
                        # The agent may take it over in between: then there is nothing here.
                        path.rename(path.with_name(name))
                        return None
            time.sleep(0.1)
        return "the agent had not begun the file in time"

    def _truncate(self) -> str | None:
        """As copytruncate does it, at its best moment: all that is in the file was taken."""
        scene = self._scene
        with scene.writer.between_lines():
            written = len(scene.writer.written)
            if not wait_until(lambda: scene.taken() >= written, _PATIENCE):
                return "the agent had not taken everything in time"
            try:
                os.truncate(scene.events_file, 0)
            except FileNotFoundError:
                return "the agent had just taken the file over"
        return None

    def _clock(self, fault: Fault) -> str | None:
        scene = self._scene
        if scene.faketime is None:
            return "no libfaketime"
        kept = scene.kept[fault.target]
        wrong = {
            "LD_PRELOAD": str(scene.faketime),
            "FAKETIME": f"{fault.days:+d}d",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            # Times of files are not the process's clock.
            "NO_FAKE_STAT": "1",
        }

        def change(environment: dict[str, str]) -> None:
            kept.environment = environment
            kept.kill()

        self._for_a_while(fault, f"clock {fault.target}", lambda: change(wrong), lambda: change({}))
        return None
