"""``sib-agent run``: four threads and the one that looks after them.

The intake moves lines from Falco's events file to the spool, the uplink from the spool to the
server; the keeper reports health and renews the certificate; the bundles' thread brings rules in
force. The main thread waits for signals, tells systemd that all are alive, and writes the status
file.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import signal
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Final

import msgspec

from sib_agent.bundles.asking import SPREAD
from sib_agent.bundles.engine import Falco
from sib_agent.bundles.fetching import BundleSource
from sib_agent.bundles.keeping import BundleKeeper
from sib_agent.bundles.store import BundleStore
from sib_agent.bundles.watching import WatchLimits
from sib_agent.client import ServerClient, may_mean_expired
from sib_agent.health import Snapshot, make_report
from sib_agent.metrics import serve_metrics
from sib_agent.renewing import Renewer
from sib_agent.spool.intake import Intake
from sib_agent.spool.source import Source
from sib_agent.spool.spool import Spool
from sib_agent.uplink import LinkState, Uplink
from sib_protocol.backoff import Backoff
from sib_protocol.errors import SibError
from sib_protocol.identity import IdentityStore, identity_context
from sib_protocol.messages import HealthAnswer
from sib_protocol.supervision import Supervisor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

    from sib_agent.settings import AgentSettings
    from sib_protocol.identity import Identity

_log: Final = logging.getLogger(__name__)
_STATUS_SECONDS: Final = 5.0
_FIRST_REPORT_SECONDS: Final = 1.0
_LONGEST_INTERVAL: Final = 600.0
_DOUBTS: Final = 3
"""After how many refusals on end that may be of the certificate it is renewed before its time: a
server that is restarted hangs up, too."""


class AgentDaemon:
    """One running agent.

    Args:
        settings: from the settings file.
        renew_command: what renews the certificate; see :mod:`sib_agent.renewing`.
        supervisor: systemd, or nobody.
    """

    def __init__(
        self,
        settings: AgentSettings,
        renew_command: Sequence[str],
        supervisor: Supervisor | None = None,
    ) -> None:
        self._settings = settings
        self._renew_command = renew_command
        self._supervisor = supervisor or Supervisor()
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._report_now = threading.Event()
        self._reload = False
        self._started = time.monotonic()
        self._died: list[str] = []

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; SIGHUP takes up a renewed identity at once.

        Returns:
            The exit code: 0, or 1 when a thread died.

        Raises:
            SibError: something that the agent needs cannot be had.
        """
        settings = self._settings
        with ExitStack() as stack:
            store = IdentityStore(settings.identity.directory)
            draw = random.SystemRandom()
            self._renewer = Renewer(store, self._renew_command, self._on_renewed, draw)
            identity = self._renewer.identity
            self._client = ServerClient(
                identity.servers,
                lambda: identity_context(store),
                timeout=settings.uplink.timeout_seconds,
            )
            stack.callback(self._client.close)
            self._spool = Spool.open(
                settings.spool.directory,
                quota_bytes=settings.spool.quota_bytes,
                segment_bytes=settings.spool.segment_bytes,
            )
            stack.callback(self._spool.close)
            source = Source(
                settings.events.file,
                self._spool.position,
                rotate_bytes=settings.events.rotate_bytes,
            )
            self._intake = Intake(self._spool, source)
            stack.callback(self._intake.close)
            self._uplink = Uplink(
                self._spool,
                self._client,
                batch_bytes=settings.uplink.batch_bytes,
                backoff=Backoff(longest=settings.uplink.longest_wait_seconds),
            )
            self._bundles = self._make_bundles(store)
            if settings.metrics.port is not None:
                stop = serve_metrics(
                    settings.metrics.address, settings.metrics.port, self._snapshot
                )
                stack.callback(stop)
            self._catch_signals()
            self._threads = [
                self._thread("intake", lambda: self._intake.run(self._stop)),
                self._thread("uplink", lambda: self._uplink.run(self._stop)),
                self._thread("keeper", self._keep),
                self._thread("bundles", lambda: self._bundles.run(self._stop)),
            ]
            self._supervisor.ready(self._status_line())
            _log.info("running", extra={"fields": {"host": identity.host_name}})
            self._supervise()
            self._supervisor.stopping()
            self._end_threads()
            self._write_status()
        return 1 if self._died else 0

    def _make_bundles(self, identities: IdentityStore) -> BundleKeeper:
        settings = self._settings.bundles

        def trust() -> str:
            root = identities.bundle_root()
            return hashlib.sha256(root).hexdigest() if root is not None else ""

        return BundleKeeper(
            BundleStore(self._settings.falco.bundles, settings.state),
            Falco(self._settings.falco),
            BundleSource(self._client),
            lambda: self._intake.state.lines_read,
            limits=WatchLimits(
                settings.comeback_seconds,
                settings.probation_seconds,
                settings.storm_events_per_second,
            ),
            trust=trust,
            on_news=self._tell,
        )

    def _tell(self) -> None:
        """The server and the status file hear of it at once."""
        self._report_now.set()
        self._wake.set()

    def _catch_signals(self) -> None:
        def on_stop(_number: int, _frame: FrameType | None) -> None:
            self._stop.set()
            self._wake.set()

        def on_hangup(_number: int, _frame: FrameType | None) -> None:
            self._reload = True
            self._wake.set()

        signal.signal(signal.SIGTERM, on_stop)
        signal.signal(signal.SIGINT, on_stop)
        signal.signal(signal.SIGHUP, on_hangup)

    def _thread(self, name: str, work: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                work()
            except Exception:  # noqa: BLE001  (whatever killed it, the daemon goes down with it)
                _log.exception("the %s died", name)
            if not self._stop.is_set():
                self._died.append(name)
                self._stop.set()
                self._wake.set()

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

    def _supervise(self) -> None:
        pause = min(_STATUS_SECONDS, self._supervisor.watchdog_seconds or _STATUS_SECONDS)
        while not self._stop.is_set():
            self._write_status()
            self._supervisor.status(self._status_line())
            self._supervisor.alive()
            self._wake.wait(pause)
            self._wake.clear()
            if self._reload:
                self._reload = False
                self._take_up_identity()

    def _take_up_identity(self) -> None:
        self._supervisor.reloading()
        try:
            self._client.renewed()
        except SibError as error:
            # The one in force still works; a daemon that goes on is better than one that is right.
            _log.error("cannot take up the identity on disk: %s", error.problem)
        self._uplink.retry_now()
        self._supervisor.ready(self._status_line())

    def _end_threads(self) -> None:
        self._intake.wake()
        self._uplink.retry_now()
        self._bundles.wake()
        self._report_now.set()
        # The uplink may be in the middle of a request; what it sends is safe in the spool anyway.
        deadline = time.monotonic() + 3.0
        for thread in self._threads:
            thread.join(max(0.1, deadline - time.monotonic()))

    def _on_renewed(self, _identity: Identity) -> None:
        self._client.renewed()
        self._uplink.retry_now()

    def _keep(self) -> None:
        backoff = Backoff(first=1.0, longest=60.0)
        draw = random.SystemRandom()
        interval = _FIRST_REPORT_SECONDS
        doubts = 0
        while not self._stop.is_set():
            self._report_now.wait(interval)
            self._report_now.clear()
            if self._stop.is_set():
                return
            try:
                self._renewer.step()
                report = self._client.post_message("/v1/health", self._snapshot().report)
                answer = report.decode(HealthAnswer)
                told = min(_LONGEST_INTERVAL, max(1.0, answer.interval_seconds))
                backoff, doubts = backoff.succeeded(), 0
                # Spread, or a fleet that starts together reports together for ever; and never
                # later than told.
                interval = told * draw.uniform(*SPREAD)
                self._bundles.told(answer.bundle, interval)
            except SibError as error:
                backoff = backoff.failed()
                interval = backoff.wait(draw)
                _log.debug("no health report: %s", error.problem)
                doubts = doubts + 1 if may_mean_expired(error) else 0
                if doubts >= _DOUBTS:
                    self._renewer.ask()

    def _snapshot(self) -> Snapshot:
        identity, uplink, intake = self._renewer.identity, self._uplink.state, self._intake.state
        report = make_report(
            stream=self._spool.stream,
            stats=self._spool.stats(),
            intake=intake,
            uplink=uplink,
            identity=identity,
            uptime=time.monotonic() - self._started,
            bundle=self._bundles.health(),
        )
        return Snapshot(
            report=report,
            host_id=identity.host_id,
            host_name=identity.host_name,
            servers=identity.servers,
            link=uplink.link.value,
            link_problem=uplink.problem,
            lines_sent=uplink.lines_sent,
            batches_sent=uplink.batches_sent,
            bytes_sent=uplink.bytes_sent,
            send_failures=uplink.failures,
            gaps_sent=uplink.gaps,
            truncations=intake.truncations,
            renewal_problem=self._renewer.problem,
            written=time.time(),
            pid=os.getpid(),
        )

    def _status_line(self) -> str:
        stats, state = self._spool.stats(), self._uplink.state
        if state.link is LinkState.CONNECTED:
            return f"connected; {stats.pending} lines waiting, {state.lines_sent} sent"
        return f"{state.link.value}: {state.problem or 'no answer yet'}; {stats.pending} waiting"

    def _write_status(self) -> None:
        path = self._settings.status.file
        temporary = path.with_name(f".{path.name}.new")
        # On a tmpfs and rewritten in seconds: by rename for readers, without fsync.
        with suppress(OSError):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(self._snapshot()))
            temporary.replace(path)
