"""Running a trial: server, token, agent, events, table."""

from __future__ import annotations

import socket
import time
from collections import Counter
from contextlib import ExitStack, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import ExitCode, SibError
from sib_protocol.settings import parse_settings
from sib_protocol.tokens import EnrollmentToken
from sib_server.cli.context import ServerContext
from sib_server.events.reader import JournalReader
from sib_server.events.stored import Seq
from sib_server.pki.authority import Authority
from sib_server.settings import ServerSettings
from sib_server.trial.arrivals import Arrival, Balance, balance, count_arrivals
from sib_server.trial.feed import Feeder, falco_command, recorded_lines
from sib_server.trial.processes import TrialProcess, python_command, run_to_end

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sib_server.trial.layout import TrialLayout

_HOST: Final = "try-1"
_READY_SECONDS: Final = 20.0
_ARRIVE_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.1
_DOUBLE_SECONDS: Final = 0.5
_TOKEN_LIFE: Final = timedelta(minutes=10)


class NotExactError(SibError):
    """Some line was lost or doubled."""

    exit_code = ExitCode.INCOMPLETE

    def __init__(self, found: Balance) -> None:
        super().__init__(
            f"of {found.written} lines written, {found.missing} are missing and"
            f" {found.doubled} are there too often"
        )
        self.balance = found


class Trial:
    """A running trial; use it in a ``with``.

    Args:
        layout: in an empty directory.
        falco: a real Falco to run instead of the recorded alerts.
    """

    def __init__(self, layout: TrialLayout, falco: Path | None = None) -> None:
        self._layout = layout
        self._falco = falco
        self._stack = ExitStack()
        self._processes: list[TrialProcess] = []
        self._counts: Counter[Arrival] = Counter()
        self._lines: list[bytes] = []
        self._written = recorded_lines() if falco is None else []
        self._seq = Seq(0)

    def __enter__(self) -> Trial:
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        layout = self._layout
        layout.events_file.parent.mkdir(parents=True)
        text = layout.server_yaml()
        layout.server_settings.write_text(text, encoding="utf-8")
        layout.agent_settings.write_text(layout.agent_yaml(), encoding="utf-8")
        settings = parse_settings(text, ServerSettings, layout.server_settings)
        Authority.create(settings.pki.directory, "SIB trial")
        server = self._run("sib-server", "sib_server", layout.server_settings, "serve")
        server.wait_until(self._listens, _READY_SECONDS)
        context = ServerContext(lambda: settings)
        try:
            made = context.tokens.create(ttl=_TOKEN_LIFE, tags=("trial",))
            token = EnrollmentToken(
                context.server_urls, context.authority.pin, made.record.id, made.secret
            )
        finally:
            context.close()
        run_to_end(
            "sib-agent enroll",
            python_command(
                "sib_agent", "--config", str(layout.agent_settings), "enroll", "--name", _HOST
            ),
            token.text(),
            layout.log("sib-agent"),
        )
        agent = self._run("sib-agent", "sib_agent", layout.agent_settings, "run")
        agent.wait_until(layout.status_file.exists, _READY_SECONDS)
        self._reader = self._stack.enter_context(JournalReader(settings.journal.path))
        self._feed()

    def _feed(self) -> None:
        if self._falco is None:
            feeder = Feeder(self._written, self._layout.events_file)
            feeder.start()
            self._stack.callback(feeder.join, 2.0)
            self._stack.callback(feeder.stop.set)
        else:
            command = falco_command(self._falco, self._layout.events_file)
            self._watch(TrialProcess("falco", command, self._layout.log("falco")))

    def _run(self, name: str, module: str, settings: Path, command: str) -> TrialProcess:
        process = TrialProcess(
            name, python_command(module, "--config", str(settings), command), self._layout.log(name)
        )
        return self._watch(process)

    def _watch(self, process: TrialProcess) -> TrialProcess:
        self._stack.callback(process.stop)
        self._processes.append(process)
        return process

    def _listens(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self._layout.port), 1):
            return True
        return False

    def poll(self) -> Counter[Arrival]:
        """Take up what has arrived since; raises TrialProcessError if a process has ended."""
        for process in self._processes:
            process.check()
        while events := self._reader.read(self._seq):
            self._counts += count_arrivals(events)
            self._lines += [event.line for event in events if event.summary.source != "sib"]
            self._seq = events[-1].seq
        return self._counts

    @property
    def counts(self) -> Counter[Arrival]:
        """What has arrived."""
        return self._counts

    @property
    def complete(self) -> bool:
        """Whether as many lines have arrived as were recorded; never with a real Falco."""
        return self._falco is None and len(self._lines) >= len(self._written)

    def gather(self, show: Callable[[], None]) -> None:
        """Take events up and show them until all recorded ones are there, or time is up.

        With a real Falco there is no end; interrupt it.
        """
        deadline = time.monotonic() + _ARRIVE_SECONDS
        while not self.complete and (self._falco or time.monotonic() < deadline):
            self.poll()
            show()
            time.sleep(_POLL_SECONDS)

    def follow(self, show: Callable[[], None]) -> None:
        """Take events up and show them for ever."""
        while True:
            self.poll()
            show()
            time.sleep(_POLL_SECONDS)

    def check(self) -> Balance:
        """Compare what was written with what is stored.

        Raises:
            NotExactError: a line is missing, or stored more than once.
        """
        # A second copy would come right behind the first: give it the time to show itself.
        time.sleep(_DOUBLE_SECONDS)
        self.poll()
        found = balance(self._written, self._lines)
        if not found.exact:
            raise NotExactError(found)
        return found
