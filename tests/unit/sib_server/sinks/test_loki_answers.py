from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.events import parse_time_ns
from sib_server.events.sinks.loki_answers import (
    Answer,
    Knowledge,
    Refusal,
    Verdict,
    harder,
    read_answer,
)
from sib_server.events.sinks.loki_push import NO_FIX, Fix, TimeLevel
from tests.fakes.events import SECOND, stored

# As a Loki 3.7.6 wrote them.
BEHIND = (
    "entry with timestamp 2026-11-25 00:00:51.393715516 +0000 UTC ignored, reason: 'entry too far"
    " behind, entry timestamp is: 2026-11-25T00:00:51Z, oldest acceptable timestamp is:"
    " 2026-11-25T01:00:51Z',\nentry with timestamp 2026-11-24 23:00:51.393715516 +0000 UTC ignored,"
    " reason: 'entry too far behind, entry timestamp is: 2026-11-24T23:00:51Z, oldest acceptable"
    " timestamp is: 2026-11-25T01:00:51Z',\nuser 'fake', total ignored: 2 out of 3 for stream:"
    ' {t="a"}\n'
)
MIXED = (
    "1 errors like: entry for stream '{t=\"a\"}' has timestamp too old: 2026-11-16T18:00:51Z,"
    " oldest acceptable timestamp is: 2026-11-18T02:00:51Z; 2 errors like: entry for stream"
    " '{t=\"a\"}' has timestamp too new: 2026-11-25T03:00:51Z; 1 errors like: max entry size"
    " '262144' bytes exceeded for stream '{t=\"a\"}' while adding an entry with length '300000'"
    " bytes\n"
)
LABELS = "entry for stream '{l0=\"a\"}' has 16 label names; limit 15\n"
LARGER = (
    "rpc error: code = ResourceExhausted desc = grpc: received message larger than max"
    " (5001124 vs. 4194304)\n"
)
METADATA = "2 errors like: stream '{t=\"d\"}' has structured metadata too large: '70001' bytes\n"
DISALLOWED = "stream '{}' includes structured metadata, but this feature is disallowed."

BASE = parse_time_ns("2026-11-25T02:00:51Z") or 0


def test_what_a_real_loki_said_is_understood() -> None:
    behind = read_answer(400, BEHIND, 3)
    assert (behind.verdict, behind.refusal) == (Verdict.REFUSED, Refusal.TIME)
    assert behind.behind_ns == parse_time_ns("2026-11-25T01:00:52Z")
    assert behind.refused == 2
    assert read_answer(400, BEHIND, 4).refused is None
    mixed = read_answer(400, MIXED, 9)
    assert mixed.oldest_ns == parse_time_ns("2026-11-18T02:00:52Z")
    assert mixed.ahead_ns == parse_time_ns("2026-11-25T03:00:51Z")
    assert (mixed.line_limit, mixed.refused) == (262144, 4)
    assert read_answer(400, LABELS, 1).refusal is Refusal.LABELS
    assert read_answer(400, METADATA, 2).refusal is Refusal.METADATA
    assert read_answer(400, "what", 2).refusal is Refusal.OTHER
    assert read_answer(500, LARGER, 50).verdict is Verdict.SMALLER
    assert read_answer(413, "", 50).verdict is Verdict.SMALLER


@pytest.mark.parametrize("status", [301, 401, 404, 408, 429, 500, 502, 503, 504])
def test_everything_else_is_tried_again(status: int) -> None:
    answer = read_answer(status, "x" * 10_000, 1)
    assert answer.verdict is Verdict.LATER
    assert answer.slow_down == (status == 429)
    assert len(answer.reason) < 300


def test_what_is_wrong_with_the_set_up_does_not_cost_events() -> None:
    assert read_answer(400, DISALLOWED, 1).verdict is Verdict.LATER


@given(st.integers(0, 999), st.text() | st.sampled_from([BEHIND, MIXED]), st.integers(1, 9))
def test_no_answer_breaks_the_reader(status: int, body: str, entries: int) -> None:
    answer = read_answer(status, body, entries)
    assert (answer.verdict is Verdict.STORED) == (200 <= status < 300)


def test_what_is_learned_saves_the_next_refusal() -> None:
    knowledge = Knowledge()
    now = BASE
    late = stored(1, time_ns=now - 7200 * SECOND, received_ns=now)
    assert knowledge.fix(late, b"s", NO_FIX, now) == NO_FIX
    knowledge.learn(read_answer(400, BEHIND, 3), b"s", now)
    assert knowledge.fix(late, b"s", NO_FIX, now) == Fix(TimeLevel.RECEIVED)
    assert knowledge.fix(late, b"another", NO_FIX, now) == NO_FIX
    both_late = stored(2, time_ns=now - 7200 * SECOND, received_ns=now - 7100 * SECOND)
    assert knowledge.fix(both_late, b"s", NO_FIX, now) == Fix(TimeLevel.NOW, now)
    kept = Fix(TimeLevel.NOW, now)
    assert knowledge.fix(both_late, b"s", kept, now + SECOND) == kept

    knowledge.learn(read_answer(400, MIXED, 9), b"t", now)
    old = stored(3, time_ns=now - 8 * 24 * 3600 * SECOND, received_ns=now)
    new = stored(4, time_ns=now + 3 * 3600 * SECOND, received_ns=now)
    long = stored(5, line=b"x" * 300_000, received_ns=now)
    fine = stored(6, time_ns=now, received_ns=now)
    assert knowledge.fix(old, b"t", NO_FIX, now) == Fix(TimeLevel.RECEIVED)
    assert knowledge.fix(new, b"t", NO_FIX, now) == Fix(TimeLevel.RECEIVED)
    assert knowledge.fix(long, b"t", NO_FIX, now) == Fix(line_limit=262144)
    assert knowledge.fix(fine, b"t", NO_FIX, now) == NO_FIX


def test_a_stream_is_trusted_only_while_nothing_in_it_can_be_refused() -> None:
    knowledge = Knowledge()
    now = BASE
    assert not knowledge.trusts(b"s", now, 0.0), "never seen"
    knowledge.stored(b"s", now, 0.0)
    assert knowledge.trusts(b"s", now - 1700 * SECOND, 1.0)
    assert not knowledge.trusts(b"s", now - 1900 * SECOND, 1.0), "may be too far behind"
    assert not knowledge.trusts(b"s", now, 700.0), "Loki may have forgotten it"
    knowledge.stored(b"s", now - 100 * SECOND, 700.0)
    assert not knowledge.trusts(b"s", now - 1900 * SECOND, 700.0), "the newest counts"
    knowledge.learn(read_answer(400, BEHIND, 3), b"s", now)
    assert not knowledge.trusts(b"s", now, 700.0), "just refused something"


def test_memory_is_bounded() -> None:
    knowledge = Knowledge()
    for number in range(20_010):
        knowledge.stored(str(number).encode(), 1, 0.0)
    assert not knowledge.trusts(b"0", 1, 0.0)
    assert knowledge.trusts(b"20009", 1, 0.0)


@given(
    st.integers(0, 2),
    st.none() | st.integers(1, 10_000),
    st.sampled_from(list(Refusal)),
    st.none() | st.integers(1, 10_000),
    st.integers(0, 20_000),
)
def test_trying_harder_ends(
    level: int, limit: int | None, refusal: Refusal, said: int | None, length: int
) -> None:
    answer = Answer(Verdict.REFUSED, "", refusal, line_limit=said)
    fix: Fix | None = Fix(level, 5 if level == TimeLevel.NOW else None, limit)
    for _ in range(20):
        assert fix is not None
        following = harder(fix, answer, b"x" * length, 9)
        if following is None:
            return
        assert following.level >= fix.level
        assert following != fix
        fix = following
    pytest.fail("still trying")
