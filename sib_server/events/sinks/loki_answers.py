"""What Loki's answers mean, and what is learned from them about what Loki takes. Pure.

The texts are those of grafana/loki: pkg/validation/validate.go, pkg/chunkenc/interface.go and
pkg/ingester/stream.go.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from sib_protocol.events import parse_time_ns
from sib_server.events.sinks.loki_push import NO_FIX, Fix, TimeLevel

if TYPE_CHECKING:
    from sib_server.events.stored import StoredEvent

_Value = TypeVar("_Value")
_SECOND: Final = 1_000_000_000
_MAX_STREAMS: Final = 20_000

TRUST_SECONDS: Final = 600.0
"""How long after its last push a stream still counts as known to Loki; idle ones it forgets."""

TRUST_BEHIND_NS: Final = 1800 * _SECOND
"""How far behind its newest entry a trusted stream may be: half of Loki's default window."""


class Verdict(Enum):
    """What to do after an answer."""

    STORED = "stored"
    LATER = "later"
    SMALLER = "smaller"
    REFUSED = "refused"


class Refusal(Enum):
    """Why an entry was refused for good; the value is a metric's label."""

    TIME = "timestamp"
    LINE = "line too long"
    LABELS = "labels"
    METADATA = "structured metadata"
    SIZE = "too large"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer to a push.

    Attributes:
        verdict: what to do.
        reason: Loki's words, shortened.
        refusal: where the verdict is REFUSED, the kind.
        behind_ns: the oldest time that the request's stream takes.
        oldest_ns: the oldest time that any stream takes.
        ahead_ns: the earliest time that was refused as too new.
        line_limit: the longest line that is taken, bytes.
        refused: how many entries of the request were refused, the others being stored; None where
            the answer does not say.
        slow_down: the request was over a rate limit, so a smaller one may pass where it did not.
    """

    verdict: Verdict
    reason: str = ""
    refusal: Refusal = Refusal.OTHER
    behind_ns: int | None = None
    oldest_ns: int | None = None
    ahead_ns: int | None = None
    line_limit: int | None = None
    refused: int | None = None
    slow_down: bool = False


_WHEN: Final = r"([0-9][0-9T:.+Z-]*)"
_BEHIND: Final = re.compile(rf"too far behind[^\n]*?oldest acceptable timestamp is: {_WHEN}")
_OLD: Final = re.compile(rf"timestamp too old: \S+ oldest acceptable timestamp is: {_WHEN}")
_AHEAD: Final = re.compile(rf"timestamp too new: {_WHEN}")
_LINE: Final = re.compile(r"max entry size '?(\d{1,12})'? bytes exceeded")
_GROUPED: Final = re.compile(r"(?:^|; )(\d{1,9}) errors like: ")
_IGNORED: Final = re.compile(r"total ignored: (\d{1,9}) out of (\d{1,9}) for stream")
_LARGER: Final = re.compile(r"message larger than max|request body too large", re.IGNORECASE)
# These are about how Loki or SIB is set up, not about one entry: dropping entries for them would
# drop everything.
_SET_UP: Final = re.compile(
    r"feature is disallowed|ingestion blocked|missing required labels|no org id", re.IGNORECASE
)
_LABELS: Final = re.compile(r"label", re.IGNORECASE)
_METADATA: Final = re.compile(r"structured metadata", re.IGNORECASE)


def read_answer(status: int, body: str, entries: int) -> Answer:
    """Turn an HTTP answer into what to do.

    Args:
        status: the HTTP status.
        body: its text, perhaps cut.
        entries: how many the request held.
    """
    reason = f"{status} {' '.join(body.split())[:200]}".strip()
    if 200 <= status < 300:
        return Answer(Verdict.STORED)
    if status == 413 or (status == 500 and _LARGER.search(body)):
        return Answer(Verdict.SMALLER, reason, Refusal.SIZE)
    if status not in (400, 422) or _SET_UP.search(body):
        return Answer(Verdict.LATER, reason, slow_down=status == 429)
    behind = [found for text in _BEHIND.findall(body) if (found := parse_time_ns(text)) is not None]
    oldest = [found for text in _OLD.findall(body) if (found := parse_time_ns(text)) is not None]
    ahead = [found for text in _AHEAD.findall(body) if (found := parse_time_ns(text)) is not None]
    lines = [int(text) for text in _LINE.findall(body)]
    if behind or oldest or ahead:
        refusal = Refusal.TIME
    elif lines:
        refusal = Refusal.LINE
    elif _METADATA.search(body):
        refusal = Refusal.METADATA
    else:
        refusal = Refusal.LABELS if _LABELS.search(body) else Refusal.OTHER
    return Answer(
        Verdict.REFUSED,
        reason,
        refusal,
        # Loki names these times by the second, cut: what it means is up to a second later.
        behind_ns=max(behind) + _SECOND if behind else None,
        oldest_ns=max(oldest) + _SECOND if oldest else None,
        ahead_ns=min(ahead) if ahead else None,
        line_limit=min(lines) if lines else None,
        refused=_refused(body, entries),
    )


def _refused(body: str, entries: int) -> int | None:
    ignored = _IGNORED.search(body)
    if ignored:
        # Entries that were refused before the ingester saw them are not told of then.
        return int(ignored[1]) if int(ignored[2]) == entries else None
    grouped = _GROUPED.findall(body)
    return sum(map(int, grouped)) if grouped else 1


class _Seen(NamedTuple):
    newest_ns: int
    at: float


class Knowledge:
    """What this process has learned of what a Loki takes; bounded in size.

    It only saves requests: an entry that Loki refuses in spite of it is fixed all the same.
    """

    def __init__(self) -> None:
        self._line_limit: int | None = None
        self._oldest_age_ns: int | None = None
        self._ahead_ns: int | None = None
        self._cutoffs: OrderedDict[bytes, int] = OrderedDict()
        self._seen: OrderedDict[bytes, _Seen] = OrderedDict()

    def learn(self, answer: Answer, stream: bytes, now_ns: int) -> None:
        """Take in the refusal of a request that held this one stream."""
        if answer.line_limit is not None:
            self._line_limit = min(answer.line_limit, self._line_limit or answer.line_limit)
        if answer.oldest_ns is not None:
            self._oldest_age_ns = max(0, now_ns - answer.oldest_ns)
        if answer.ahead_ns is not None:
            ahead = max(0, answer.ahead_ns - now_ns)
            self._ahead_ns = ahead if self._ahead_ns is None else min(ahead, self._ahead_ns)
        if answer.behind_ns is not None:
            _remember(self._cutoffs, stream, max(answer.behind_ns, self._cutoffs.get(stream, 0)))
        self._seen.pop(stream, None)

    def is_plain(self, longest: int) -> bool:
        """Whether nothing is known that could change an event with a line up to this length."""
        return (
            self._oldest_age_ns is None
            and self._ahead_ns is None
            and not self._cutoffs
            and (self._line_limit is None or longest <= self._line_limit)
        )

    def stored(self, stream: bytes, newest_ns: int, at: float) -> None:
        """Note that a stream took entries up to this time, at this moment of a monotonic clock."""
        before = self._seen.get(stream)
        _remember(self._seen, stream, _Seen(max(newest_ns, before.newest_ns if before else 0), at))

    def trusts(self, stream: bytes, oldest_ns: int, at: float) -> bool:
        """Whether nothing in a stream, whose oldest entry has this time, can be refused."""
        seen = self._seen.get(stream)
        return (
            seen is not None
            and at - seen.at < TRUST_SECONDS
            and oldest_ns >= seen.newest_ns - TRUST_BEHIND_NS
            and oldest_ns >= self._cutoffs.get(stream, 0)
        )

    def fix(self, event: StoredEvent, stream: bytes, before: Fix, now_ns: int) -> Fix:
        """How an event should go, given how it went before.

        A fix never goes back: the level only rises and the line limit only falls, so repeating
        this ends, and an entry that was sent under a time keeps it.
        """
        if before == NO_FIX and not self._may_differ(event, stream):
            return before
        limit = before.line_limit
        if self._line_limit is not None and len(event.line) > self._line_limit:
            limit = min(self._line_limit, limit or self._line_limit)
        own = event.summary.time_ns
        level = before.level
        if level == TimeLevel.EVENT and not self._takes(
            stream, event.received_ns if own is None else own, now_ns
        ):
            level = TimeLevel.RECEIVED
        if level == TimeLevel.RECEIVED and not self._takes(stream, event.received_ns, now_ns):
            level = TimeLevel.NOW
        if level == TimeLevel.NOW:
            return Fix(level, now_ns if before.time_ns is None else before.time_ns, limit)
        return Fix(level, None, limit)

    def _may_differ(self, event: StoredEvent, stream: bytes) -> bool:
        return (
            self._oldest_age_ns is not None
            or self._ahead_ns is not None
            or stream in self._cutoffs
            or (self._line_limit is not None and len(event.line) > self._line_limit)
        )

    def _takes(self, stream: bytes, time_ns: int, now_ns: int) -> bool:
        if time_ns < self._cutoffs.get(stream, 0):
            return False
        if self._oldest_age_ns is not None and time_ns < now_ns - self._oldest_age_ns:
            return False
        return self._ahead_ns is None or time_ns < now_ns + self._ahead_ns


def harder(fix: Fix, answer: Answer, line: bytes, now_ns: int) -> Fix | None:
    """The next fix for an entry that was refused alone; None where nothing is left to try."""
    if answer.refusal is Refusal.TIME and fix.level < TimeLevel.NOW:
        if fix.level == TimeLevel.EVENT:
            return fix._replace(level=TimeLevel.RECEIVED)
        return fix._replace(level=TimeLevel.NOW, time_ns=now_ns)
    if answer.refusal in (Refusal.LINE, Refusal.SIZE):
        longest = len(line) if fix.line_limit is None else min(len(line), fix.line_limit)
        limit = min(answer.line_limit or longest // 2, longest // 2)
        return fix._replace(line_limit=limit) if longest > 1024 else None
    return None


def _remember(kept: OrderedDict[bytes, _Value], key: bytes, value: _Value) -> None:
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > _MAX_STREAMS:
        kept.popitem(last=False)
