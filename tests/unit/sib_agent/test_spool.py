from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sib_agent.spool.ages import Ages
from sib_agent.spool.errors import SpoolLockedError, SpoolReadError, SpoolWriteError
from sib_agent.spool.reader import RecentLines
from sib_agent.spool.records import (
    MARK_FRAME_BYTES,
    Batch,
    Frame,
    FrameKind,
    Gap,
    Incomplete,
    Mark,
    SourcePosition,
    decode_mark,
    encode_commit,
    find_frame,
    fingerprint,
    take_lines,
)
from sib_agent.spool.segments import recover
from sib_agent.spool.spool import Spool
from sib_agent.spool.state import SpoolState, count_lost, decode_slot, encode_slot
from sib_protocol.ids import LineNumber, new_stream_id
from sib_protocol.limits import MAX_LINE_BYTES
from sib_protocol.messages import GapReason

HERE = SourcePosition(1, 2, 3, fingerprint(b"abc"))


def lines_of(spool: Spool, first: int = 0) -> list[bytes]:
    lines: list[bytes] = []
    while (got := spool.read(LineNumber(first + len(lines)), 1 << 20, 1000)) is not None:
        assert isinstance(got, Batch)
        lines += got.lines
    return lines


def test_a_second_owner_is_told_who_the_first_one_is(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    with pytest.raises(SpoolLockedError, match=f"process {os.getpid()}") as caught:
        Spool.open(tmp_path)
    assert caught.value.pid == os.getpid()
    spool.close()
    (tmp_path / "lock").write_text("x")
    Spool.open(tmp_path).close()


def test_a_lock_without_a_pid_is_a_lock_all_the_same(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    (tmp_path / "lock").write_bytes(b"")
    with pytest.raises(SpoolLockedError, match="another process"):
        Spool.open(tmp_path)
    spool.close()


def test_the_directory_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SpoolWriteError, match="file"):
        Spool.open(tmp_path / "file")


def test_lines_that_would_break_a_batch_are_refused(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    for bad in (b"two\nlines", b"x" * (MAX_LINE_BYTES + 1)):
        with pytest.raises(ValueError, match="too long or holds a newline"):
            spool.append([b"good", bad], HERE)
    assert spool.next == 0
    assert spool.position is None
    spool.close()


def test_a_line_over_the_batch_size_comes_alone_from_memory_and_disk(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    big = bytes(range(11, 256)) * 20_000
    for _ in range(2):
        spool.append([b"a", big, b"b"], HERE)
    for _ in range(2):
        assert spool.read(LineNumber(1), 100, 10) == Batch(LineNumber(1), [big])
        assert lines_of(spool) == [b"a", big, b"b"] * 2
        spool.close()
        spool = Spool.open(tmp_path)
    spool.close()


def test_waiting_ends_with_the_line_or_with_the_time(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    assert not spool.wait(LineNumber(0), 0.01)
    writer = threading.Timer(0.05, spool.append, ([b"a"], HERE))
    writer.start()
    assert spool.wait(LineNumber(0), 10)
    writer.join()
    assert spool.wait(LineNumber(0), 0)
    spool.close()


def test_readers_and_the_appender_do_not_disturb_each_other(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, quota_bytes=1 << 30, segment_bytes=20_000)
    count = 300

    def write() -> None:
        for number in range(count):
            spool.append([b"%d.%d" % (number, part) + b"x" * 200 for part in range(5)], HERE)

    writer = threading.Thread(target=write)
    writer.start()
    got: list[bytes] = []
    deadline = time.monotonic() + 60
    while len(got) < 5 * count and time.monotonic() < deadline:
        if not spool.wait(LineNumber(len(got)), 1):
            continue
        batch = spool.read(LineNumber(len(got)), 5000, 7)
        assert isinstance(batch, Batch)
        got += batch.lines
        spool.acknowledge(LineNumber(len(got)))
    writer.join()
    assert [line[: line.index(b"x")] for line in got] == [
        b"%d.%d" % (number, part) for number in range(count) for part in range(5)
    ]
    assert len(list(tmp_path.glob("*.seg"))) == 1
    spool.close()


def test_acknowledging_never_goes_back_nor_beyond(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path)
    spool.append([b"a", b"b"], HERE)
    spool.acknowledge(LineNumber(99))
    assert spool.acknowledged == 2
    spool.acknowledge(LineNumber(1))
    assert spool.acknowledged == 2
    assert spool.stats().pending == 0
    assert spool.stats().oldest_seconds == 0
    spool.close()


def full(tmp_path: Path) -> Spool:
    """A spool whose quota has taken the oldest of twenty lines."""
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    for number in range(20):
        spool.append([b"%d" % number + b"x" * 350], HERE)
    return spool


def test_the_quota_takes_the_oldest_and_the_gap_outlives_a_restart(tmp_path: Path) -> None:
    spool = full(tmp_path)
    first = spool.read(LineNumber(0), 1000, 10)
    assert isinstance(first, Gap)
    assert (first.first, first.reason) == (0, GapReason.QUOTA)
    lost = first.last + 1
    spool.close()
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    assert spool.read(LineNumber(0), 1000, 10) == first
    assert spool.read(LineNumber(1), 1000, 10) == Gap(LineNumber(1), first.last, GapReason.QUOTA)
    assert spool.stats().lost == {GapReason.QUOTA: lost, GapReason.DAMAGE: 0}
    assert [line[:2].strip(b"x") for line in lines_of(spool, lost)] == [
        b"%d" % number for number in range(lost, 20)
    ]
    spool.acknowledge(LineNumber(20))
    assert spool.stats().lost[GapReason.QUOTA] == lost
    spool.close()
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    assert spool.stats().lost[GapReason.QUOTA] == lost
    spool.close()


def test_a_server_that_went_back_is_told_what_was_acknowledged(tmp_path: Path) -> None:
    spool = full(tmp_path)
    spool.acknowledge(LineNumber(18))
    got = spool.read(LineNumber(0), 1000, 10)
    assert isinstance(got, Gap)
    assert got.reason is GapReason.ACKNOWLEDGED
    assert lines_of(spool, got.last + 1)[0].startswith(b"%d" % (got.last + 1))
    assert spool.stats().lost[GapReason.DAMAGE] == 0
    spool.close()


def test_a_smaller_quota_counts_at_the_next_start(tmp_path: Path) -> None:
    full(tmp_path).close()
    spool = Spool.open(tmp_path, quota_bytes=4000)
    assert spool.stats().bytes <= 4000
    spool.close()


def test_segments_that_vanish_are_damage(tmp_path: Path) -> None:
    spool = full(tmp_path)
    paths = sorted(tmp_path.glob("*.seg"))
    spool.close()
    paths[0].unlink()
    paths[2].unlink()
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    numbers, lost = 0, []
    while (got := spool.read(LineNumber(numbers), 10_000, 100)) is not None:
        if isinstance(got, Gap):
            lost.append((got.first, got.last, got.reason))
        numbers = got.last + 1 if isinstance(got, Gap) else got.first + len(got.lines)
    starts = [int(path.stem) for path in paths]
    assert lost[0] == (0, starts[0] - 1, GapReason.QUOTA)
    assert lost[1] == (starts[0], starts[1] - 1, GapReason.DAMAGE)
    assert lost[2] == (starts[2], starts[3] - 1, GapReason.DAMAGE)
    damaged = sum(last - first + 1 for first, last, why in lost if why is GapReason.DAMAGE)
    assert spool.stats().lost[GapReason.DAMAGE] == damaged
    spool.acknowledge(spool.next)
    assert spool.stats().lost[GapReason.DAMAGE] == damaged
    spool.close()


def test_a_segment_that_vanishes_while_open_is_damage(tmp_path: Path) -> None:
    full(tmp_path).close()
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    oldest = int(min(tmp_path.glob("*.seg")).stem)
    min(tmp_path.glob("*.seg")).unlink()
    got = spool.read(LineNumber(oldest), 1000, 10)
    assert isinstance(got, Gap)
    assert got.reason is GapReason.DAMAGE
    spool.close()


def test_a_segment_that_cannot_be_read_is_an_error_and_no_gap(tmp_path: Path) -> None:
    full(tmp_path).close()
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    oldest = min(tmp_path.glob("*.seg"))
    oldest.unlink()
    oldest.mkdir()
    with pytest.raises(SpoolReadError, match=oldest.name):
        spool.read(LineNumber(int(oldest.stem)), 1000, 10)
    spool.close()


def test_a_lost_state_file_costs_only_what_was_acknowledged(tmp_path: Path) -> None:
    spool = full(tmp_path)
    stream, oldest = spool.stream, int(min(tmp_path.glob("*.seg")).stem)
    spool.close()
    (tmp_path / "state").write_bytes(b"nonsense")
    (tmp_path / ".state.0123").write_bytes(b"left behind by a crash")
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    assert spool.stream == stream
    assert spool.acknowledged == oldest
    assert len(lines_of(spool, oldest)) == 20 - oldest
    assert not list(tmp_path.glob(".state.*"))
    spool.close()


def test_a_lost_newest_segment_falls_back_and_a_lost_spool_begins_anew(tmp_path: Path) -> None:
    spool = full(tmp_path)
    stream = spool.stream
    spool.acknowledge(spool.next)
    spool.close()
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    for number in range(6):
        spool.append([b"%d" % number + b"y" * 350], HERE)
    newest = max(tmp_path.glob("*.seg"))
    spool.acknowledge(LineNumber(spool.next - 1))
    spool.close()
    newest.write_bytes(b"\0" * 50)
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    # Whatever is left of the stream goes on, and never under a number it does not have yet.
    assert spool.acknowledged <= spool.next
    spool.close()
    for path in tmp_path.glob("*.seg"):
        path.write_bytes(b"")
    spool = Spool.open(tmp_path)
    assert spool.stream != stream
    assert (spool.next, spool.acknowledged, spool.position) == (0, 0, None)
    spool.close()


def test_segments_left_behind_below_the_floor_go(tmp_path: Path) -> None:
    spool = full(tmp_path)
    oldest = min(tmp_path.glob("*.seg"))
    content = oldest.read_bytes()
    for number in range(8):
        spool.append([b"%d" % number + b"z" * 350], HERE)
    assert not oldest.exists()
    spool.close()
    # A power cut right after the deletion may bring the file back.
    oldest.write_bytes(content)
    spool = Spool.open(tmp_path, quota_bytes=8000, segment_bytes=2000)
    assert not oldest.exists()
    got = spool.read(LineNumber(0), 10_000, 100)
    assert isinstance(got, Gap)
    assert got.reason is GapReason.QUOTA
    spool.close()


def test_the_age_of_the_oldest_line_survives_a_restart(tmp_path: Path) -> None:
    spool = Spool.open(tmp_path, quota_bytes=1 << 20, segment_bytes=1000)
    spool.append([b"x" * 900], HERE)
    time.sleep(0.1)
    spool.append([b"y" * 900], HERE)
    spool.close()
    spool = Spool.open(tmp_path)
    assert 0.1 <= spool.stats().oldest_seconds < 60
    spool.acknowledge(LineNumber(1))
    assert spool.stats().oldest_seconds < 60
    spool.close()


def test_ages_err_upwards_and_stay_bounded() -> None:
    ages = Ages([(LineNumber(0), 2000.0)], wall=1000.0, steady=50.0)
    assert ages.oldest(50.0) == 0
    for number in range(1, 10_000):
        ages.add(LineNumber(number), 50.0 + number)
    ages.forget(LineNumber(5000))
    age = ages.oldest(50.0 + 10_000)
    assert 5000 <= age < 5200
    assert Ages([], wall=0, steady=0).oldest(5) == 0


def test_recent_lines_are_bounded_and_count_small_lines_as_what_they_cost() -> None:
    recent = RecentLines(LineNumber(0), 10_000)
    for number in range(1000):
        recent.add([b"%d" % number])
    assert 700 < recent.first < 999
    assert recent.read(LineNumber(0), 100, 10) == []
    assert recent.read(LineNumber(998), 100, 10) == [b"998", b"999"]
    recent.forget(LineNumber(5000))
    assert recent.read(LineNumber(998), 100, 10) == []
    recent = RecentLines(LineNumber(0), 100)
    recent.add([b"x" * 1000])
    assert recent.first == 1


def test_no_flipped_bit_passes_and_a_frame_needs_all_its_bytes() -> None:
    stream = new_stream_id()
    content = encode_commit([b"hello", b""], Mark(stream, LineNumber(7), LineNumber(9), 1.5, HERE))
    whole = recover(content, LineNumber(7))
    assert whole is not None
    assert whole.twice
    assert whole.mark == Mark(stream, LineNumber(7), LineNumber(9), 1.5, HERE)
    for bit in range(len(content) * 8):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        found = recover(bytes(flipped), LineNumber(7))
        in_line = MARK_FRAME_BYTES <= bit // 8 < len(content) - MARK_FRAME_BYTES
        assert (found is None) == in_line
        assert found is None or (found.mark == whole.mark and not found.twice)
    for size in range(len(content)):
        found = recover(content[:size], LineNumber(7))
        assert (found is not None) == (size >= len(content) - MARK_FRAME_BYTES)
    assert find_frame(b"zz\x9e", 0, whole=False) == Incomplete(2, 20)
    assert find_frame(content[:10], 0, whole=False) == Incomplete(0, 20)
    assert find_frame(content[:10], 0, whole=True) is None
    assert isinstance(find_frame(content[:30], 0, whole=False), Incomplete)


def test_frames_out_of_turn_are_not_believed() -> None:
    stream = new_stream_id()

    def commit(first: int, *lines: bytes) -> bytes:
        next_ = LineNumber(first + len(lines))
        return encode_commit(lines, Mark(stream, LineNumber(first), next_, 0, HERE))

    # An older block that the file system brought back behind the end.
    data = commit(5, b"a", b"b") + commit(3, b"old")
    found = recover(data, LineNumber(5))
    assert found is not None
    assert found.mark.next == 7
    # A line of the right number, and one beyond what the segment may hold.
    taken = take_lines(
        commit(5, b"a") + commit(9, b"z"),
        0,
        LineNumber(5),
        LineNumber(7),
        whole=True,
        max_bytes=99,
        max_lines=9,
    )
    assert (taken.lines, taken.hole) == ([b"a"], 7)
    frame = find_frame(data, 0, whole=True)
    assert isinstance(frame, Frame)
    assert frame.kind is FrameKind.HEAD


def test_a_mark_of_another_length_is_none() -> None:
    data = encode_commit([b"a"], Mark(new_stream_id(), LineNumber(0), LineNumber(1), 0, None))
    frame = find_frame(data, MARK_FRAME_BYTES, whole=True)
    assert isinstance(frame, Frame)
    assert decode_mark(data, frame) is None


def test_a_slot_is_whole_or_nothing() -> None:
    state = SpoolState(new_stream_id(), LineNumber(5), LineNumber(4), 3, 2)
    slot = encode_slot(state, 9)
    assert decode_slot(slot) == (9, state)
    assert decode_slot(slot[:-1]) is None
    for bit in range(len(slot) * 8):
        flipped = bytearray(slot)
        flipped[bit // 8] ^= 1 << bit % 8
        assert decode_slot(bytes(flipped)) is None


def test_a_line_in_two_gaps_is_lost_once() -> None:
    told = [
        Gap(LineNumber(3), LineNumber(9), GapReason.QUOTA),
        Gap(LineNumber(3), LineNumber(12), GapReason.QUOTA),
        Gap(LineNumber(5), LineNumber(6), GapReason.QUOTA),
        Gap(LineNumber(20), LineNumber(20), GapReason.DAMAGE),
    ]
    lost = count_lost(told, LineNumber(4), LineNumber(21))
    assert lost == {GapReason.QUOTA: 9, GapReason.DAMAGE: 1, GapReason.ACKNOWLEDGED: 0}


def test_the_spool_imports_nothing_of_the_server() -> None:
    code = "import sys, sib_agent.spool.intake, sib_agent.spool.source, sib_agent.spool.spool\n"
    code += "sys.exit(any(name.startswith('sib_server') for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
