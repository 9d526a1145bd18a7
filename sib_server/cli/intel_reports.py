"""How ``sib-server intel`` puts results into words and JSON. Pure but for reading one file."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from sib_protocol.errors import UNDECODABLE, FileAccessError
from sib_protocol.events import EventSummary, summarize
from sib_protocol.ids import EventId, HostName, LineNumber, StreamId
from sib_server.detection.indicators.catalogue import FeedDefinition
from sib_server.detection.indicators.kinds import Kind
from sib_server.detection.indicators.places import is_loopback
from sib_server.detection.indicators.state import FeedState
from sib_server.detection.indicators.update import FeedReport, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from sib_server.detection.indicators.enrichment import Enrichment
    from sib_server.detection.indicators.hunt import HuntReport
    from sib_server.detection.indicators.kinds import Observable
    from sib_server.detection.indicators.rules import NoRoom

_LIMIT_OF = {Kind.ADDRESS: "addresses", Kind.NETWORK: "networks", Kind.DOMAIN: "domains"}
_NO_STREAM = StreamId("00000000-0000-0000-0000-000000000000")


def same_host(one: str, other: str) -> bool:
    """Whether two URLs are of one host."""
    return urlsplit(one).hostname == urlsplit(other).hostname


def moved(feed: FeedDefinition, url: str) -> FeedDefinition:
    """A feed as it is taken from another place; its owner's key stays with its owner."""
    key = feed.key if same_host(url, feed.url) else None
    return msgspec.structs.replace(feed, url=url, key=key, internal=is_loopback(url))


def feed_line(report: FeedReport) -> dict[str, Any]:
    """One feed of an update for programs."""
    refusal = report.refusal
    return {
        "feed": report.feed,
        "outcome": report.outcome.value,
        "indicators": report.indicators,
        "new": report.new,
        "rejected": report.rejected,
        "excluded": report.excluded,
        "trouble": refusal.trouble.value if refusal else None,
        "reason": refusal.reason if refusal else None,
        "not_before": report.not_before or None,
    }


def feed_sentence(report: FeedReport) -> str:
    """One feed of an update for people."""
    words = f"{report.feed}: {report.outcome.value}, {report.indicators} indicators"
    if report.outcome is Outcome.TAKEN:
        words += f", {report.new} new"
        if report.rejected:
            words += f", {report.rejected} entries were none"
        if report.excluded:
            reasons = ", ".join(f"{count} {why}" for why, count in report.excluded.items())
            words += f", excluded: {reasons}"
    if report.refusal is not None:
        words += f"; {report.refusal.reason}"
    if report.not_before:
        words += f"; not asked again before {_moment(report.not_before)}"
    return words


def no_room_sentence(left: NoRoom) -> str:
    """What hosts are not given, for people."""
    return (
        f"not given to hosts, because {left.limit} are the most: {left.count} of kind "
        f"{left.kind.value} with confidence {left.confidence} and less; the server looks them up "
        f"(intel.shipping.{_LIMIT_OF[left.kind]})"
    )


def _moment(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))


def status_lines(
    feeds: Sequence[FeedDefinition], states: Mapping[str, FeedState]
) -> list[dict[str, Any]]:
    """All feeds for programs; one that is in the state only was imported."""
    named = {feed.name: feed for feed in feeds}
    lines = []
    for name in [*named, *sorted(set(states) - set(named))]:
        feed, state = named.get(name), states.get(name, FeedState())
        lines.append(
            {
                "feed": name,
                "title": feed.title if feed else "",
                "enabled": feed.enabled if feed else False,
                "licence": feed.licence if feed else "your own",
                "needs_key": bool(feed and feed.key and feed.key_file is None),
                "indicators": state.indicators,
                "rejected": state.rejected,
                "excluded": state.excluded,
                "attempted": state.attempted or None,
                "succeeded": state.succeeded or None,
                "not_before": state.not_before or None,
                "failures": state.failures,
                "trouble": state.trouble.value if state.trouble else None,
                "reason": state.reason or None,
            }
        )
    return lines


def status_cells(line: Mapping[str, Any], now: int) -> tuple[str, ...]:
    """One feed as the cells of a table."""
    taken = f"{(now - line['succeeded']) // 60} min ago" if line["succeeded"] else "never"
    if line["trouble"]:
        state = f"{line['trouble']}: {line['reason']}"
    elif line["needs_key"]:
        state = "needs a key"
    else:
        state = "ok" if line["succeeded"] else ""
    count = "" if line["indicators"] is None else str(line["indicators"])
    return (line["feed"], "yes" if line["enabled"] else "no", count, taken, state)


def lookup_line(
    value: str, observable: Observable | None, found: Sequence[Enrichment]
) -> dict[str, Any]:
    """One looked up value for programs."""
    return {
        "value": value,
        "kind": observable.kind.value if observable else None,
        "found": bool(found),
        "indicators": [
            {
                name: part
                for name, part in msgspec.to_builtins(match).items()
                if name not in ("field", "value", "seen_before")
            }
            for match in found
        ],
    }


def lookup_sentences(
    value: str, observable: Observable | None, found: Sequence[Enrichment]
) -> list[str]:
    """One looked up value for people."""
    if observable is None:
        return [f"{value}: no address, network, domain, URL or hash"]
    if not found:
        return [f"{value}: not known"]
    return [
        f"{value}: {match.relation} {match.kind} {match.indicator}, confidence {match.confidence} "
        f"({match.tier}), named by {', '.join(match.feeds)}, first seen {_moment(match.first_seen)}"
        f", last seen {_moment(match.last_seen)}"
        + (f", {'; '.join(match.notes)}" if match.notes else "")
        for match in found
    ]


@dataclass(frozen=True, slots=True)
class FileEvent:
    """An event line from a file, as far as a hunt needs it."""

    event_id: EventId
    host_name: HostName
    received_ns: int
    summary: EventSummary
    line: bytes


class _Hosted(msgspec.Struct):
    hostname: str = ""


def events_of_file(path: Path) -> Iterator[FileEvent]:
    """The event lines of a file that Falco wrote, with the host names that stand in them.

    Raises:
        FileAccessError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file):
                line = raw.rstrip(b"\n")
                try:
                    host = msgspec.json.decode(line, type=_Hosted).hostname
                except UNDECODABLE:
                    host = ""
                yield FileEvent(
                    EventId(_NO_STREAM, LineNumber(number)),
                    HostName(host or "unknown"),
                    0,
                    summarize(line),
                    line,
                )
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error


def hunt_lines(report: HuntReport) -> list[dict[str, Any]]:
    """What a hunt found for programs: a line an indicator and host, the last meeting first."""
    lines: list[dict[str, Any]] = []
    for observable, indicator in report.indicators.items():
        lines += [
            {
                "indicator": observable.value,
                "kind": observable.kind.value,
                "feeds": indicator.feeds,
                "confidence": indicator.confidence,
                "added": indicator.added,
                **msgspec.to_builtins(seen),
            }
            for seen in report.seen(observable)
        ]
    return sorted(lines, key=lambda line: (-line["last_ns"], line["indicator"], line["host"]))


def hunt_sentence(line: Mapping[str, Any]) -> str:
    """One line of a hunt for people."""
    return (
        f"{line['host']} met {line['kind']} {line['indicator']} in {line['events']} events, last "
        f"{_moment(line['last_ns'] // 1_000_000_000)} ({line['event']}); named by "
        f"{', '.join(line['feeds'])}, confidence {line['confidence']}"
    )


def hunt_summary(report: HuntReport) -> str:
    """A hunt in one sentence."""
    words = f"{report.searched} events searched, {len(report.indicators)} indicators met"
    return f"{words}; more were met than are kept" if report.truncated else words


def explain_sentences(found: Sequence[Enrichment]) -> list[str]:
    """What is known of one event for people."""
    if not found:
        return ["no indicator stands in this event"]
    sentences = []
    for match in found:
        sentences += [
            f"{match.field}: {line}"
            for line in lookup_sentences(match.value, match.observable, [match])
        ]
        sentences += [
            f"  seen before on {seen.host}: {seen.events} events from "
            f"{_moment(seen.first_ns // 10**9)} to {_moment(seen.last_ns // 10**9)} ({seen.event})"
            for seen in match.seen_before
        ]
    return sentences
