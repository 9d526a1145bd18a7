"""What the commands work with: settings, state and CA, each opened when it is first asked for."""

from __future__ import annotations

import socket
from functools import cached_property
from typing import TYPE_CHECKING

import click

from sib_server.events.query import Query
from sib_server.events.reader import JournalReader
from sib_server.events.search import search
from sib_server.fleet.enrollment import Fleet
from sib_server.pki.authority import Authority
from sib_server.pki.tokens import TokenStore
from sib_server.state.database import StateDatabase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sib_server.events.stored import StoredEvent
    from sib_server.settings import ServerSettings


class ServerContext:
    """What ``ctx.obj`` is under every command of sib-server.

    Args:
        settings: from the settings file.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings

    @cached_property
    def machine(self) -> str:
        """This machine's name."""
        return socket.gethostname()

    @cached_property
    def state(self) -> StateDatabase:
        """The state database, migrated."""
        state = StateDatabase(self.settings.state.url)
        state.migrate()
        return state

    @cached_property
    def authority(self) -> Authority:
        """The CA."""
        return Authority.load(self.settings.pki.directory)

    @cached_property
    def tokens(self) -> TokenStore:
        """The tokens."""
        return TokenStore(self.state)

    @cached_property
    def fleet(self) -> Fleet:
        """The fleet's service."""
        return Fleet(self.state, self.authority, self.settings.fleet.policy())

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
        with JournalReader(self.settings.journal.path) as reader:
            yield from search(reader, Query(since_ns=since_ns, limit=None, newest_first=False))

    def close(self) -> None:
        """Close what was opened."""
        if "state" in self.__dict__:
            self.state.close()


pass_server = click.make_pass_decorator(ServerContext)
