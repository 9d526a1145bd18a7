"""The narrowest exception that silences an event, and what else it would silence. Pure.

An exception compares fields with values, and an event tells the values of the fields in its output.
So what an exception silences can be told from events alone, as far as they tell its fields.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from sib_protocol.errors import UNDECODABLE, ExitCode, SibError
from sib_server.detection.rules.conditions import MAX_VALUE_BYTES
from sib_server.detection.rules.decisions import Tuning
from sib_server.detection.rules.effective import comps, full_condition
from sib_server.detection.rules.parsing import ConditionError, parse
from sib_server.detection.rules.tuned import TUNABLE_COMPS, with_exception

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sib_server.detection.rules.collect import Rule

Fields: TypeAlias = "Mapping[str, str]"
"""An event's output fields; those that had no value are left out."""

ADDED_NAME: Final = "sib_tuning"
"""The exception that is added to a rule which has none that fits."""
_ADDED_FIELDS: Final = (
    "proc.exepath", "proc.name", "proc.pname", "proc.cmdline", "user.name", "fd.name",
)  # fmt: skip
_TELLING: Final = frozenset({"proc.exepath", "proc.name", "proc.cmdline", "fd.name"})
_DELIMITERS: Final = re.compile(r"[ \t\n\r(),=]+")


class NotTunableError(SibError):
    """An event that no exception can silence."""

    exit_code = ExitCode.REFUSED

    def __init__(self, rule: str, reason: str) -> None:
        remedy = "write an exception by hand in a file in /etc/sib/rules.d, or disable the rule"
        super().__init__(f"{rule}: {reason}", remedy)
        self.rule = rule


@dataclass(frozen=True, slots=True)
class Proposal:
    """One way to silence an event.

    Attributes:
        exception: its name in the rule.
        fields: what it compares.
        values: with what; one a field.
        adds_exception: the rule has none of this name.
    """

    exception: str
    fields: tuple[str, ...]
    values: tuple[str, ...]
    adds_exception: bool

    def silences(self, fields: Fields) -> bool | None:
        """Whether it silences an event of the rule; ``None`` where the event tells too little."""
        told = [fields.get(name) for name in self.fields]
        if any(
            one is not None and one != value for one, value in zip(told, self.values, strict=True)
        ):
            return False
        return None if None in told else True

    def tuning(self, rule: str, event_id: str, at: str) -> Tuning:
        """As it is kept. The same proposal always has the same id."""
        text = repr((rule, self.exception, self.fields, self.values))
        return Tuning(
            id="t" + hashlib.sha256(text.encode()).hexdigest()[:8],
            rule=rule,
            exception=self.exception,
            fields=self.fields,
            adds_exception=self.adds_exception,
            values=self.values,
            event_id=event_id,
            at=at,
        )


def output_fields(line: bytes) -> dict[str, str]:
    """An event's output fields as texts; empty where the line is none of Falco's JSON alerts."""
    try:
        decoded: Any = msgspec.json.decode(line)
    except UNDECODABLE:
        return {}
    fields = decoded.get("output_fields") if isinstance(decoded, dict) else None
    if not isinstance(fields, dict):
        return {}
    return {name: text for name, value in fields.items() if (text := _text(value)) is not None}


def _text(value: object) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float | str):
        return str(value)
    return None


def propose(rule: Rule, fields: Fields, lists: Collection[str]) -> list[Proposal]:
    """All ways in which a rule's exceptions can silence an event.

    Args:
        rule: as hosts judge by it.
        fields: of the event.
        lists: names of all lists, which Falco would put in for a word of a value.

    Returns:
        One proposal an exception that fits; where none does, one that adds an exception.

    Raises:
        NotTunableError: the event tells too little, or what no exception can hold.
    """
    found = []
    for exception in rule.exceptions:
        if set(comps(exception)) <= TUNABLE_COMPS:
            values = _values(exception.fields, fields, lists)
            if values is not None:
                found.append(Proposal(exception.name, exception.fields, values, False))
    if found:
        return found
    names = tuple(name for name in _ADDED_FIELDS if _holds(fields.get(name, ""), lists))
    values = _values(names, fields, lists)
    # An account or a parent alone would silence far more than this.
    if values is None or not _TELLING & set(names):
        raise NotTunableError(
            rule.name, "the event tells no field by which an exception could name it"
        )
    taken = {exception.name for exception in rule.exceptions}
    name = next(one for one in _numbered(ADDED_NAME) if one not in taken)
    return [Proposal(name, names, values, True)]


def _numbered(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _values(names: Sequence[str], fields: Fields, lists: Collection[str]) -> tuple[str, ...] | None:
    values = tuple(fields.get(name) for name in names)
    told = tuple(value for value in values if value is not None and _holds(value, lists))
    return told if len(told) == len(names) else None


def _holds(value: str, lists: Collection[str]) -> bool:
    """Whether an exception can hold a value and mean it.

    Falco writes what it cannot print as something else, puts a list's items for its name, also
    inside a quoted text, and takes no long value.
    """
    if len(value.encode(errors="replace")) > MAX_VALUE_BYTES:
        return False
    if not value or not value.isprintable() or "\ufffd" in value or value.endswith("\\"):
        return False
    words = _DELIMITERS.split(value)
    return len(words) == 1 or not set(words) & set(lists)


def check_readable(rule: Rule, tuning: Tuning) -> None:
    """Make sure that hosts can still read a rule with a tuning.

    Raises:
        NotTunableError: they could not.
    """
    after = with_exception(rule, tuning)
    if after is None:
        raise NotTunableError(rule.name, f"the exception {tuning.exception!r} does not fit")
    try:
        parse(full_condition(after))
    except ConditionError as error:
        raise NotTunableError(rule.name, f"its condition would not be readable: {error}") from error


@dataclass(frozen=True, slots=True)
class Silenced:
    """What a proposal would have silenced.

    Attributes:
        proposal: which.
        events: how many events it silences, the one that it is made for included.
        unknown: how many tell too little to say.
        kept: how many it leaves.
        hosts: host name -> events silenced there.
        samples: some silenced ones, as (host, fields), the oldest first, each different.
    """

    proposal: Proposal
    events: int
    unknown: int
    kept: int
    hosts: Mapping[str, int]
    samples: tuple[tuple[str, Fields], ...]


class Tally:
    """Counts, event by event, what proposals would silence; holds no events."""

    MOST_SAMPLES: Final = 5

    def __init__(self, proposals: Iterable[Proposal]) -> None:
        self._proposals = list(proposals)
        self._counts = [[0, 0, 0] for _ in self._proposals]
        self._hosts: list[dict[str, int]] = [{} for _ in self._proposals]
        self._samples: list[dict[str, tuple[str, Fields]]] = [{} for _ in self._proposals]

    def add(self, host: str, fields: Fields) -> None:
        """One event of the rule."""
        for place, proposal in enumerate(self._proposals):
            silenced = proposal.silences(fields)
            self._counts[place][{True: 0, None: 1, False: 2}[silenced]] += 1
            if silenced:
                hosts, samples = self._hosts[place], self._samples[place]
                hosts[host] = hosts.get(host, 0) + 1
                if len(samples) < self.MOST_SAMPLES:
                    command = fields.get("proc.cmdline", "")
                    samples.setdefault(f"{host} {command} {fields.get('fd.name')}", (host, fields))

    def narrowest_first(self) -> list[Silenced]:
        """What each silences: the fewest events first, then the most fields, then by name."""
        found = [
            Silenced(proposal, counts[0], counts[1], counts[2], hosts, tuple(samples.values()))
            for proposal, counts, hosts, samples in zip(
                self._proposals, self._counts, self._hosts, self._samples, strict=True
            )
        ]
        return sorted(
            found,
            key=lambda one: (
                one.events + one.unknown,
                -len(one.proposal.fields),
                one.proposal.exception,
            ),
        )
