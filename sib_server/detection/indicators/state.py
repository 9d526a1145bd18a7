"""What is remembered of each feed between updates, and the allow list. Small JSON files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from sib_protocol.backoff import Backoff
from sib_protocol.errors import UNDECODABLE, ExitCode, FileAccessError, SibError
from sib_protocol.files import write_atomic
from sib_server.detection.indicators.admission import Replaced, Trouble

if TYPE_CHECKING:
    import random
    from pathlib import Path

STATE_NAME: Final = "feeds.json"
ALLOWED_NAME: Final = "allowed.json"
HUNTED_NAME: Final = "hunted.json"
_FIRST_WAIT: Final = 300.0
_LONGEST_WAIT: Final = 86_400.0
_MAX_FILE: Final = 16 * 1024 * 1024

Kept = TypeVar("Kept", bound=msgspec.Struct)


class DamagedStateError(SibError):
    """A state file that is not what SIB wrote."""

    exit_code = ExitCode.DAMAGED

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: not readable: {reason}", "remove the file; it is made again")
        self.path = path
        self.reason = reason


class FeedState(msgspec.Struct, frozen=True):
    """What is remembered of one feed. Times are seconds since 1970 UTC; 0 is never.

    Attributes:
        url: where the last good version came from, without its query.
        etag: what its server called the last good version.
        last_modified: when its server said that version was made.
        attempted: when it was asked last.
        succeeded: when it was last taken or was unchanged.
        not_before: it is not asked again before.
        failures: how many times in a row it failed.
        indicators: how many the last good version had after exclusions; ``None``: there is none.
        rejected: how many entries of that version were no indicators.
        excluded: how many were excluded, by reason.
        trouble: why the last download was not taken; ``None``: it was.
        reason: the same as a sentence.
        replaced: sizes that it had in the last days.
    """

    url: str = ""
    etag: str = ""
    last_modified: str = ""
    attempted: int = 0
    succeeded: int = 0
    not_before: int = 0
    failures: int = 0
    indicators: int | None = None
    rejected: int = 0
    excluded: dict[str, int] = {}
    trouble: Trouble | None = None
    reason: str = ""
    replaced: tuple[Replaced, ...] = ()


class FeedStates(msgspec.Struct, frozen=True):
    """What is remembered of all feeds, by name."""

    feeds: dict[str, FeedState] = {}


class AllowedValue(msgspec.Struct, frozen=True):
    """One line of the allow list.

    Attributes:
        value: in canonical spelling.
        reason: why, for people.
        added: seconds since 1970 UTC.
    """

    value: str
    reason: str
    added: int


class AllowList(msgspec.Struct, frozen=True):
    """What people said is never an indicator."""

    values: tuple[AllowedValue, ...] = ()


@dataclass(frozen=True, slots=True)
class Retry:
    """When a feed that failed may be asked again."""

    failures: int
    not_before: int


def after_failure(
    failures: int, now: int, *, draw: random.Random, interval: int, retry_after: float = 0.0
) -> Retry:
    """The next try after one more failure: further off with each, never sooner than asked."""
    backoff = Backoff(first=_FIRST_WAIT, longest=_LONGEST_WAIT, failures=failures).failed()
    wait = backoff.wait(draw, at_least=max(retry_after, float(interval)))
    return Retry(backoff.failures, now + int(wait))


def _load(path: Path, wanted: type[Kept]) -> Kept:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE + 1)
    except FileNotFoundError:
        return wanted()
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
    try:
        return msgspec.json.decode(content, type=wanted)
    except UNDECODABLE as error:
        raise DamagedStateError(path, str(error)) from error


def _save(path: Path, kept: msgspec.Struct) -> None:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        write_atomic(path, msgspec.json.format(msgspec.json.encode(kept), indent=1) + b"\n")
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error


def load_states(directory: Path) -> FeedStates:
    """What is remembered of the feeds; nothing where there is no file.

    Raises:
        FileAccessError: the file cannot be read.
        DamagedStateError: it is not ours.
    """
    return _load(directory / STATE_NAME, FeedStates)


def save_states(directory: Path, states: FeedStates) -> None:
    """Remember the feeds' state, whole or not at all.

    Raises:
        FileAccessError: the file cannot be written.
    """
    _save(directory / STATE_NAME, states)


def load_allowed(directory: Path) -> AllowList:
    """The allow list; empty where there is no file.

    Raises:
        FileAccessError: the file cannot be read.
        DamagedStateError: it is not ours. An allow list that is lost must not be taken for empty.
    """
    return _load(directory / ALLOWED_NAME, AllowList)


def save_allowed(directory: Path, allowed: AllowList) -> None:
    """Keep the allow list, whole or not at all.

    Raises:
        FileAccessError: the file cannot be written.
    """
    _save(directory / ALLOWED_NAME, allowed)


class Hunted(msgspec.Struct, frozen=True):
    """When stored events were last held against new indicators.

    Attributes:
        at: seconds since 1970 UTC; 0 is never.
    """

    at: int = 0


def load_hunted(directory: Path) -> Hunted:
    """When the last hunt for new indicators was.

    Raises:
        FileAccessError: the file cannot be read.
        DamagedStateError: it is not ours.
    """
    return _load(directory / HUNTED_NAME, Hunted)


def save_hunted(directory: Path, hunted: Hunted) -> None:
    """Remember a hunt.

    Raises:
        FileAccessError: the file cannot be written.
    """
    _save(directory / HUNTED_NAME, hunted)
