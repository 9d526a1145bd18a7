"""What a search asks for: the predicate that decides, and the plan that finds candidates cheaply.

Pure. :func:`matches` alone says whether an event belongs to the answer; a plan may offer events
that do not, and must offer every one that does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import ExitCode, SibError
from sib_protocol.events import TECHNIQUE, Priority
from sib_server.events.rows import NO_KIND, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sib_protocol.events import EventSummary
    from sib_server.events.stored import StoredEvent

MAX_TEXT_BYTES: Final = 4096
MAX_SEQ: Final = 2**62
STREAM_CHUNK: Final = 1024
_MOST_PLANNED_KINDS: Final = 2_000
"""SQLite takes far more parameters; beyond this so much matches that a plain scan is no slower."""


class QueryError(SibError):
    """A search that cannot be run.

    Attributes:
        option: which part of it.
    """

    exit_code = ExitCode.USAGE

    def __init__(self, option: str, problem: str, remedy: str | None = None) -> None:
        super().__init__(f"{option}: {problem}", remedy)
        self.option = option


@dataclass(frozen=True, slots=True)
class PriorityFilter:
    """Which priorities to find.

    Attributes:
        priority: this one,
        or_more: and all more severe ones.
    """

    priority: Priority
    or_more: bool = False

    @classmethod
    def parse(cls, text: str) -> PriorityFilter:
        """Read ``warning`` or ``warning+``. Raises QueryError."""
        name = text.removesuffix("+")
        priority = Priority.parse(name)
        if priority is None:
            known = ", ".join(known.value.lower() for known in Priority)
            raise QueryError("priority", f"{text!r} is none that Falco knows", f"known: {known}")
        return cls(priority, name != text)

    def matches(self, priority: Priority | None) -> bool:
        """Whether a priority is asked for; an event without one is never."""
        if priority is None:
            return False
        if self.or_more:
            return priority.severity <= self.priority.severity
        return priority is self.priority


@dataclass(frozen=True, slots=True)
class Query:
    """A search; every part that is given must match.

    Attributes:
        since_ns: received at or after, nanoseconds since 1970 UTC.
        until_ns: received before.
        host: exactly this host id or host name.
        rule: exactly this rule.
        priority: which priorities.
        technique: an ATT&CK id; a technique also finds its sub-techniques.
        text: part of the line. ASCII letters match in either case; a text with other letters is
            compared with Unicode's case folding, undecodable bytes of the line replaced.
        limit: the most events to return; ``None`` for all.
        newest_first: else oldest first.
    """

    since_ns: int | None = None
    until_ns: int | None = None
    host: str | None = None
    rule: str | None = None
    priority: PriorityFilter | None = None
    technique: str | None = None
    text: str | None = None
    limit: int | None = None
    newest_first: bool = True

    def __post_init__(self) -> None:
        """Raises QueryError."""
        if self.technique is not None and not TECHNIQUE.fullmatch(self.technique):
            raise QueryError(
                "technique",
                f"{self.technique[:80]!r} is no ATT&CK id",
                "ids look like T1003 or T1003.008",
            )
        if self.text is not None and len(self.text.encode(errors="replace")) > MAX_TEXT_BYTES:
            raise QueryError("text", f"it is longer than {MAX_TEXT_BYTES} bytes")
        if self.limit is not None and self.limit < 1:
            raise QueryError("limit", f"{self.limit} events is no answer", "ask for at least 1")


def matches(query: Query, event: StoredEvent) -> bool:
    """Whether an event belongs to a search's answer (its limit aside)."""
    return (
        (query.since_ns is None or event.received_ns >= query.since_ns)
        and (query.until_ns is None or event.received_ns < query.until_ns)
        and (query.host is None or query.host in (event.host_id, event.host_name))
        and _kind_matches(query, event.summary)
        and (query.text is None or _text_matches(query.text, event.line))
    )


def _kind_matches(query: Query, kind: Kind | EventSummary) -> bool:
    return (
        (query.rule is None or kind.rule == query.rule)
        and (query.priority is None or query.priority.matches(kind.priority))
        and (query.technique is None or _technique_matches(query.technique, kind.techniques))
    )


def _technique_matches(wanted: str, techniques: tuple[str, ...]) -> bool:
    return any(known == wanted or known.startswith(wanted + ".") for known in techniques)


def _text_matches(text: str, line: bytes) -> bool:
    if text.isascii():
        return text.lower().encode() in line.lower()
    return text.casefold() in line.decode(errors="replace").casefold()


def planned_kinds(query: Query, kinds: Mapping[int, Kind]) -> list[int] | None:
    """The kinds that a search can find, where looking for them by index pays.

    Args:
        query: the search.
        kinds: all kinds whose rows are whole.

    Returns:
        Their numbers, ascending; ``None`` where every event has to be looked at. Kinds that are
        not among ``kinds`` (damaged rows) are the caller's to add.
    """
    if query.rule is None and query.priority is None and query.technique is None:
        return None
    wanted = [NO_KIND, *(ref for ref, kind in kinds.items() if _kind_matches(query, kind))]
    return sorted(wanted) if len(wanted) <= _MOST_PLANNED_KINDS else None


@dataclass(frozen=True, slots=True)
class Statement:
    """One SQL query.

    Attributes:
        sql: only fixed words and placeholders; nothing of the search is ever part of it.
        parameters: the values.
    """

    sql: str
    parameters: tuple[int | bytes, ...]


def time_bounds(
    query: Query, minutes: Iterable[tuple[int, int, int] | None], minute_ns: int
) -> tuple[int, int] | None:
    """The lowest and the highest place that events of the search's time can have.

    Args:
        query: the search.
        minutes: (minute, first place, last place); ``None`` stands for one that is not known.
        minute_ns: nanoseconds in a minute.

    Returns:
        ``None`` where no event is of that time; everything where a minute is not known.
    """
    low, high = MAX_SEQ, 0
    for known in minutes:
        if known is None:
            return 1, MAX_SEQ
        minute, first, last = known
        if (query.since_ns is None or minute >= query.since_ns // minute_ns) and (
            query.until_ns is None or minute <= query.until_ns // minute_ns
        ):
            low, high = min(low, first), max(high, last)
    return (low, high) if high else None


def scan_statement(columns: str, low: int, high: int, *, newest_first: bool) -> Statement:
    """Every event from ``low`` to ``high``, both included."""
    order = "DESC" if newest_first else "ASC"
    return Statement(
        f"SELECT {columns} FROM events WHERE seq BETWEEN ? AND ? ORDER BY seq {order}",  # noqa: S608 -- fixed words
        (low, high),
    )


def kinds_statement(kinds: list[int], low: int, high: int) -> Statement:
    """The places of all events of some kinds, from the index alone."""
    marks = ",".join("?" * len(kinds))
    return Statement(
        f"SELECT seq FROM events INDEXED BY events_by_kind WHERE kind IN ({marks}) "  # noqa: S608 -- fixed words
        "AND seq BETWEEN ? AND ?",
        (*kinds, low, high),
    )


def stream_statement(ref: int, beyond: int, *, newest_first: bool) -> Statement:
    """The next places of a stream's events, in the order of their numbers, from the index alone.

    Places grow with numbers, but where a salvage left a hole that was filled later.
    """
    order, sign = ("DESC", "<") if newest_first else ("ASC", ">")
    return Statement(
        f"SELECT number, seq FROM events INDEXED BY events_by_number WHERE stream = ? "  # noqa: S608 -- fixed words
        f"AND number {sign} ? ORDER BY number {order} LIMIT {STREAM_CHUNK}",
        (ref, beyond),
    )


def windows(low: int, high: int, *, newest_first: bool, first_size: int = 4096) -> list[range]:
    """Cut places ``low`` to ``high`` into windows, the first to be looked at first.

    They double up to 65,536, so that a search for the newest few touches little, and none takes
    memory for more than that many places.
    """
    cut: list[range] = []
    size = first_size
    while low <= high:
        if newest_first:
            start = max(low, high - size + 1)
            cut.append(range(start, high + 1))
            high = start - 1
        else:
            end = min(high, low + size - 1)
            cut.append(range(low, end + 1))
            low = end + 1
        size = min(size * 2, 65_536)
    return cut
