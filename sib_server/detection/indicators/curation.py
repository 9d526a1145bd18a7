"""What people change by hand in the indicators that are there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sib_server.detection.indicators.intake import make_exclusions
from sib_server.detection.indicators.state import FeedStates, load_states, save_states
from sib_server.detection.indicators.store import update_lock, writing

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sib_server.detection.indicators.settings import IntelSettings


def purge_excluded(settings: IntelSettings, *, now: int, own: Iterable[str] = ()) -> int:
    """Drop the indicators that have become excluded, as after a change of the allow list.

    Returns:
        How many went.

    Raises:
        BusyStoreError: another update is under way.
        FileAccessError: something cannot be read or written.
        DamagedStoreError, DamagedStateError: a file is not what SIB wrote.
    """
    exclusions = make_exclusions(settings, own)
    with update_lock(settings.directory), writing(settings.directory, now) as writer:
        return writer.purge(lambda observable: exclusions.why(observable) is not None)


def read_anew(settings: IntelSettings) -> None:
    """Have feeds be read again when they are due, also where they did not change: what is excluded
    has become less, and an unchanged feed would not say it again.

    Raises:
        BusyStoreError: an update is under way.
        FileAccessError: something cannot be read or written.
        DamagedStateError: a file is not what SIB wrote.
    """
    with update_lock(settings.directory):
        states = load_states(settings.directory).feeds
        unknown = {
            name: msgspec.structs.replace(state, etag="", last_modified="")
            for name, state in states.items()
        }
        save_states(settings.directory, FeedStates(unknown))


def forget_feed(settings: IntelSettings, name: str, *, now: int) -> int:
    """Drop all that one feed ever said, and what is remembered of it. Returns how much went.

    Raises:
        BusyStoreError: another update is under way.
        FileAccessError: something cannot be read or written.
        DamagedStoreError, DamagedStateError: a file is not what SIB wrote.
    """
    with update_lock(settings.directory):
        with writing(settings.directory, now) as writer:
            gone = writer.forget(name)
        states = dict(load_states(settings.directory).feeds)
        states.pop(name, None)
        save_states(settings.directory, FeedStates(states))
    return gone
