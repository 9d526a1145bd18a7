"""What the commands work with: settings, state and CA, each opened when it is first asked for.

Imported then, too: a search needs no database layer, and its start should not wait for one.
"""

from __future__ import annotations

import socket
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from sib_server.settings import DEFAULT_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sib_server.detection.bundles.repository import Repository
    from sib_server.events.stored import StoredEvent
    from sib_server.fleet.enrollment import Fleet
    from sib_server.pki.authority import Authority
    from sib_server.pki.tokens import TokenStore
    from sib_server.settings import ServerSettings
    from sib_server.state.database import StateDatabase


class ServerContext:
    """What ``ctx.obj`` is under every command of sib-server.

    Args:
        load_settings: reads the settings files; a command's help is there without.
        settings_file: the main one of them, which need not be there.
    """

    def __init__(
        self, load_settings: Callable[[], ServerSettings], settings_file: Path = DEFAULT_PATH
    ) -> None:
        self._load_settings = load_settings
        self.settings_file = settings_file

    @cached_property
    def settings(self) -> ServerSettings:
        """The settings."""
        return self._load_settings()

    @cached_property
    def machine(self) -> str:
        """This machine's name."""
        return socket.gethostname()

    @cached_property
    def state(self) -> StateDatabase:
        """The state database, migrated."""
        from sib_server.state.database import StateDatabase  # noqa: PLC0415

        state = StateDatabase(self.settings.state.url)
        state.migrate()
        return state

    @cached_property
    def authority(self) -> Authority:
        """The CA."""
        from sib_server.pki.authority import Authority  # noqa: PLC0415

        return Authority.load(self.settings.pki.directory)

    @cached_property
    def tokens(self) -> TokenStore:
        """The tokens."""
        from sib_server.pki.tokens import TokenStore  # noqa: PLC0415

        return TokenStore(self.state)

    @cached_property
    def fleet(self) -> Fleet:
        """The fleet's service."""
        from sib_server.fleet.enrollment import Fleet  # noqa: PLC0415

        return Fleet(self.state, self.authority, self.settings.fleet.policy())

    @cached_property
    def bundles(self) -> Repository:
        """The repository of bundles; need not be made yet."""
        from sib_server.detection.bundles.repository import Repository  # noqa: PLC0415

        return Repository(self.settings.bundles.directory, self.settings.bundles.expiries())

    @staticmethod
    def now_ns() -> int:
        """Nanoseconds since 1970 UTC."""
        return time.time_ns()

    @property
    def server_urls(self) -> tuple[str, ...]:
        """The addresses that tokens carry."""
        return self.settings.listen.urls(self.machine)

    @property
    def server_names(self) -> tuple[str, ...]:
        """The names of the server's certificate."""
        return self.settings.listen.certificate_names(self.machine)

    def stored_events(self, since_ns: int) -> Iterator[StoredEvent]:
        """The journal's events, oldest first.

        Args:
            since_ns: by the time they were received, nanoseconds since 1970 UTC.

        Raises:
            JournalError: there is no journal, or it cannot be read.
        """
        from sib_server.events.query import Query  # noqa: PLC0415
        from sib_server.events.reader import JournalReader  # noqa: PLC0415
        from sib_server.events.search import search  # noqa: PLC0415

        with JournalReader(self.settings.journal.path) as reader:
            yield from search(reader, Query(since_ns=since_ns, limit=None, newest_first=False))

    def close(self) -> None:
        """Close what was opened."""
        if "state" in self.__dict__:
            self.state.close()


pass_server = click.make_pass_decorator(ServerContext)
