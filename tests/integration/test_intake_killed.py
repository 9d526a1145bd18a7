"""The real thing in a process of its own: killed at random instants, and on a disk that is full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sib_agent.spool.errors import SpoolFullDiskError
from sib_agent.spool.intake import Intake
from sib_agent.spool.records import Batch
from sib_agent.spool.source import Source
from sib_agent.spool.spool import Spool
from sib_protocol.ids import LineNumber

CHILD = """
import sys, threading
from pathlib import Path
from sib_agent.spool.intake import Intake
from sib_agent.spool.source import Source
from sib_agent.spool.spool import Spool

spool = Spool.open(Path(sys.argv[1]), segment_bytes=100_000)
source = Source(Path(sys.argv[2]), spool.position, rotate_bytes=50_000)
print("up", flush=True)
Intake(spool, source).run(threading.Event())
"""


def read_all(spool: Spool) -> list[bytes]:
    lines: list[bytes] = []
    while (got := spool.read(LineNumber(len(lines)), 1 << 20, 10_000)) is not None:
        assert isinstance(got, Batch)
        lines += got.lines
    return lines


@pytest.mark.slow
def test_killed_at_random_it_neither_loses_nor_doubles(tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    draw = random.Random(seed)
    events, written = tmp_path / "events.json", 0
    command = [sys.executable, "-c", CHILD, str(tmp_path / "spool"), str(events)]
    for _ in range(12):
        child = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            end = time.monotonic() + draw.uniform(0, 0.4)
            while time.monotonic() < end:
                with events.open("ab") as file:
                    file.write(b"%d %s\n" % (written, b"x" * draw.randrange(1000)))
                written += 1
        finally:
            child.send_signal(signal.SIGKILL)
            child.communicate(timeout=20)
    spool = Spool.open(tmp_path / "spool")
    intake = Intake(spool, Source(events, spool.position, settle_seconds=0))
    while intake.step() or intake.step():
        pass
    numbers = [int(line.split()[0]) for line in read_all(spool)]
    assert numbers == list(range(written)), f"seed {seed}"
    intake.close()
    spool.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a tiny tmpfs is mounted")
def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    disk, events = tmp_path / "disk", tmp_path / "events.json"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)]
    if subprocess.run(mount, check=False, capture_output=True, timeout=30).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        spool = Spool.open(disk / "spool", segment_bytes=64 * 1024)
        source = Source(events, spool.position, gulp_bytes=20_000)
        intake = Intake(spool, source)
        lines = [b"%d " % number + b"x" * 600 for number in range(600)]
        events.write_bytes(b"\n".join(lines) + b"\n")
        while intake.step():
            pass
        assert intake.state.problem is not None
        assert "No space left" in intake.state.problem
        stuck = spool.next
        assert 0 < stuck < len(lines)
        # Full, killed and started again: it still opens, so that it can be emptied.
        position = spool.position
        intake.close()
        spool.close()
        spool = Spool.open(disk / "spool", segment_bytes=64 * 1024)
        assert (spool.next, spool.position) == (stuck, position)
        assert position is not None
        with pytest.raises(SpoolFullDiskError, match="No space left"):
            spool.append([b"y" * 100_000] * 2, position)
        intake = Intake(spool, Source(events, spool.position, gulp_bytes=20_000))
        got: list[bytes] = []
        deadline = time.monotonic() + 60
        while len(got) < len(lines) and time.monotonic() < deadline:
            intake.step()
            batch = spool.read(LineNumber(len(got)), 50_000, 100)
            if batch is not None:
                assert isinstance(batch, Batch)
                got += batch.lines
                spool.acknowledge(LineNumber(len(got)))
        assert got == lines
        assert intake.state.problem is None
        intake.close()
        spool.close()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True, timeout=30)
