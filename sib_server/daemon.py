"""``sib-server serve``: puts the parts together, runs them, and takes them down in order."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Final

from sib_protocol.errors import SibError
from sib_protocol.ids import HostName, parse_host_name
from sib_protocol.supervision import Supervisor
from sib_server.application import make_application
from sib_server.detection.bundles.desk import BundleDesk
from sib_server.detection.bundles.keeper import BundleKeeper
from sib_server.detection.bundles.metrics import BundleCollector
from sib_server.detection.bundles.repository import Repository
from sib_server.detection.bundles.routes import BundleRoutes
from sib_server.detection.indicators.annotate import Annotator
from sib_server.detection.sigma.alert_watch import AlertWatch, find_ruler
from sib_server.events.damage import DamageLog, JournalDamage, damage_event
from sib_server.events.failures import JournalError
from sib_server.events.feeding import CommitBell, JournalSource
from sib_server.events.incoming import ServerRecord
from sib_server.events.journal import Journal
from sib_server.events.outbox import Outbox, OutboxIntake
from sib_server.events.reader import JournalReader
from sib_server.events.retention import prune_step
from sib_server.events.routes import EventRoutes
from sib_server.events.sinks.delivery import Delivery
from sib_server.events.sinks.falcosidekick import FalcosidekickSink
from sib_server.events.sinks.loki import LokiSink
from sib_server.events.writer import JournalWriter
from sib_server.fleet.adoption import read_window
from sib_server.fleet.enrollment import Fleet
from sib_server.fleet.routes import FleetRoutes
from sib_server.listener.listener import Listener, bind, server_context
from sib_server.metrics import ServerCollector, metrics_routes
from sib_server.operations.disk.decision import read_decision, tighten
from sib_server.operations.disk.metrics import DiskCollector
from sib_server.pki.authority import Authority
from sib_server.stack.push.routes import PushRoutes
from sib_server.state.database import StateDatabase

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from typing import Any

    from sib_server.events.sinks.base import Sink
    from sib_server.pki.authority import ServerCertificate
    from sib_server.settings import ServerSettings

_log: Final = logging.getLogger(__name__)
_CERTIFICATE_CHECK_SECONDS: Final = 3600.0
_FIRST_PRUNE_SECONDS: Final = 5.0
_PRUNE_SECONDS: Final = 60.0
_STATUS_SECONDS: Final = 5.0


def make_sinks(settings: ServerSettings) -> list[Sink]:
    """The sinks that the settings enable."""
    sinks: list[Sink] = []
    if settings.sinks.loki.enabled:
        sinks.append(LokiSink(settings.sinks.loki))
    if settings.sinks.falcosidekick.enabled:
        sinks.append(FalcosidekickSink(settings.sinks.falcosidekick))
    return sinks


def reserved_sources(settings: ServerSettings) -> frozenset[str]:
    """Values of Loki's label ``source`` that belong to events, so that no push can claim one."""
    return frozenset({*settings.sinks.loki.sources, "unparsed", "other"})


class ServerDaemon:
    """One running server.

    Args:
        settings: from the settings file.
        supervisor: systemd, or nobody.
    """

    def __init__(self, settings: ServerSettings, supervisor: Supervisor | None = None) -> None:
        self._settings = settings
        self._supervisor = supervisor or Supervisor()
        self._machine = socket.gethostname()
        self._stop = asyncio.Event()
        self._died = False
        self._renewals = asyncio.Event()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._deliveries: dict[str, Delivery] = {}
        self._sources: dict[str, JournalSource] = {}

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT. SIGHUP renews the server's certificate if it is due.

        Returns:
            The exit code: 0, or 1 when a part of the server died.

        Raises:
            SibError: something that the server needs cannot be had.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        async with self._stack:
            await self._start()
            self._supervisor.ready(f"listening on port {self._listener.port}")
            _log.info("serving", extra={"fields": {"port": self._listener.port}})
            await self._stop.wait()
            self._supervisor.stopping()
            _log.info("stopping")
        return int(self._died)

    async def _start(self) -> None:
        settings, stack = self._settings, self._stack
        # Bound first: a taken port must not cost a half-started server.
        listening = bind(settings.listen.address, settings.listen.port)
        stack.callback(listening.close)
        state = StateDatabase(settings.state.url)
        stack.callback(state.close)
        await asyncio.to_thread(state.migrate)
        self._authority = Authority.load(settings.pki.directory)
        certificate = self._certificate()
        self._tls = server_context(
            self._authority.certificate_pem,
            certificate.certificate_path,
            certificate.key_path,
        )
        fleet = Fleet(
            state,
            self._authority,
            settings.fleet.policy(),
            adoption=read_window(settings.pki.directory),
        )

        self._loop = asyncio.get_running_loop()
        self._bell = CommitBell(self._loop)
        journal = await asyncio.to_thread(Journal.open, settings.journal.path)
        self._journal_name = self._own_name()
        self._journal_id = journal.journal_id
        self._writer = JournalWriter(
            journal, limits=settings.journal.limits(), on_commit=self._bell.ring
        )
        stack.push_async_callback(asyncio.to_thread, self._writer.close)
        self._damage = DamageLog(self._on_damage)
        self._reader = JournalReader(settings.journal.path, on_damage=self._damage)
        stack.callback(self._reader.close)
        self._bell.ring(journal.last_seq)

        self._annotator = Annotator(settings.intel.directory, journal.journal_id)
        stack.callback(self._annotator.close)
        stack.push_async_callback(self._end_tasks)
        for sink in make_sinks(settings):
            self._feed(sink)
        outbox = Outbox(settings.journal.outbox_directory)
        intake = OutboxIntake(outbox, self._writer, self._journal_id, self._journal_name)
        self._work(intake.run(), "outbox")
        ruler = find_ruler(settings)
        if ruler is not None:
            watch = AlertWatch(
                ruler,
                self._writer,
                (self._journal_id, self._journal_name),
                fleet.host,
                directory=settings.sigma.directory,
                seconds=settings.sigma.alert_seconds,
            )
            self._work(watch.run(), "alerts")
        self._work(self._prune(), "prune")
        self._work(self._renew(), "renew")
        self._work(self._report(), "report")
        if self._supervisor.watchdog_seconds is not None:
            self._work(self._watchdog(self._supervisor.watchdog_seconds), "watchdog")

        desk = await self._keep_bundles(fleet)
        threads = ThreadPoolExecutor(4, thread_name_prefix="fleet")
        stack.callback(threads.shutdown)
        fleet_routes = FleetRoutes(
            fleet,
            self._authority.certificate_pem,
            threads,
            health_interval=settings.fleet.health_interval_seconds,
            bundles=desk,
        )
        stack.push_async_callback(fleet_routes.close)
        bundles = BundleRoutes(desk, fleet_routes.host_of, transfers=settings.bundles.transfers)
        events = EventRoutes(self._writer, fleet_routes.host_of)
        push = PushRoutes(settings.push, fleet_routes.host_of, reserved_sources(settings))
        stack.push_async_callback(push.close)
        self._listener = Listener(
            make_application(
                [
                    *fleet_routes.routes(),
                    *events.routes(),
                    *push.routes(),
                    *bundles.routes(),
                ]
            ),
            listening,
            tls=self._tls,
            gate=settings.listen.gate(),
        )
        stack.push_async_callback(self._listener.stop)
        await self._listener.start()
        await self._start_metrics(fleet, events, BundleCollector(desk, bundles, fleet.standings))

    async def _keep_bundles(self, fleet: Fleet) -> BundleDesk:
        settings = self._settings.bundles
        desk = BundleDesk(settings.pulls_per_second)
        keeper = BundleKeeper(
            Repository(settings.directory, settings.expiries()),
            desk,
            fleet.standings,
            settings.policy(),
            keep=settings.keep,
        )
        # Before anybody connects: a host that enrolls is given the root.
        await keeper.step()
        self._work(keeper.run(), "bundles")
        return desk

    async def _start_metrics(
        self, fleet: Fleet, events: EventRoutes, bundles: BundleCollector
    ) -> None:
        settings = self._settings.metrics
        if settings.port is None:
            return
        collector = ServerCollector(
            writer=self._writer,
            deliveries=self._deliveries,
            sources=self._sources,
            gate=self._listener.gate,
            events=events,
            damage=self._damage,
            authority=self._authority,
            fleet=fleet,
            annotator=self._annotator,
        )
        listening = bind(settings.address, settings.port)
        self._stack.callback(listening.close)
        listener = Listener(
            make_application(
                metrics_routes(collector, bundles, DiskCollector(self._settings.disk.directory))
            ),
            listening,
            tls=None,
        )
        self._stack.push_async_callback(listener.stop, 1.0)
        await listener.start()

    def _feed(self, sink: Sink) -> None:
        source = JournalSource(
            sink.name,
            self._settings.journal.path,
            self._writer,
            self._bell,
            self._damage,
            annotate=self._annotator,
        )
        delivery = Delivery(sink, source)
        self._sources[sink.name] = source
        self._deliveries[sink.name] = delivery
        self._work(delivery.run(), f"sink {sink.name}")

    def _work(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._on_ended)
        self._tasks.append(task)

    def _on_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        # None of them ends by itself; a server without one would look well and not be.
        _log.critical("the task %s ended", task.get_name(), exc_info=task.exception())
        self._died = True
        self._stop.set()

    async def _end_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for source in self._sources.values():
            await source.close()

    def _certificate(self, *, jitter: float = 0.0) -> ServerCertificate:
        return self._authority.server_certificate(
            self._settings.listen.certificate_names(self._machine), jitter=jitter
        )

    def _on_hangup(self) -> None:
        self._supervisor.reloading()
        self._renewals.set()

    async def _renew(self) -> None:
        jitter = random.random()  # noqa: S311  (spreads load, guards nothing)
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_CERTIFICATE_CHECK_SECONDS):
                    await self._renewals.wait()
            asked = self._renewals.is_set()
            self._renewals.clear()
            try:
                certificate = await asyncio.to_thread(self._certificate, jitter=jitter)
                # Another process (ca renew-server) may have renewed it: what lies on disk counts.
                self._tls.load_cert_chain(certificate.certificate_path, certificate.key_path)
            except (SibError, OSError) as error:
                # The one in force is good for two days more; a disk does not stay full for ever.
                _log.error("cannot renew the server's certificate: %s", error)
            else:
                if certificate.fresh:
                    serial = {"serial": certificate.serial}
                    _log.info("server certificate renewed", extra={"fields": serial})
            if asked:
                self._supervisor.ready(f"listening on port {self._listener.port}")

    async def _prune(self) -> None:
        policy, sinks = self._settings.journal.retention(), tuple(self._deliveries)
        disk = self._settings.disk
        tightened = policy
        # Soon after the start: a server that is restarted each minute has to prune, too.
        more, pause = False, _FIRST_PRUNE_SECONDS
        while True:
            # Many small steps: batches that wait for the journal go in between.
            await asyncio.sleep(0.0 if more else pause)
            pause = _PRUNE_SECONDS
            if not more:
                decision = await asyncio.to_thread(read_decision, disk.directory)
                tightened = tighten(policy, decision, now_ns=time.time_ns(), keep_ns=disk.keep_ns)
            now = tightened
            try:
                step = await self._writer.run(
                    lambda journal, now=now: prune_step(  # type: ignore[misc]
                        journal, now, sinks=sinks, now_ns=time.time_ns()
                    )
                )
            except JournalError as error:
                _log.warning("cannot prune the journal: %s", error.problem)
                more = False
            else:
                more = step.more

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(_STATUS_SECONDS)
            failing = sorted(
                name for name, delivery in self._deliveries.items() if delivery.state.last_error
            )
            stored = self._writer.counts.stored
            status = f"{stored} events stored, {self._listener.gate.open} connections"
            if failing:
                status += f"; waiting for {', '.join(failing)}"
            self._supervisor.status(status)

    async def _watchdog(self, seconds: float) -> None:
        while True:
            # A writer that hangs is a server that hangs, however lively this loop is.
            async with asyncio.timeout(seconds * 2):
                await self._writer.run(lambda _journal: None)
            self._supervisor.alive()
            await asyncio.sleep(seconds)

    def _on_damage(self, damage: JournalDamage) -> None:
        _log.error(
            "the journal is damaged", extra={"fields": {"first": damage.first, "last": damage.last}}
        )
        line = damage_event(damage, time.time_ns())
        record = ServerRecord(line, self._journal_id, self._journal_name)
        asyncio.run_coroutine_threadsafe(self._record(record), self._loop)

    async def _record(self, record: ServerRecord) -> None:
        with suppress(Exception):  # the log has it already
            await self._writer.submit(record)

    def _own_name(self) -> HostName:
        name = "".join(sign if sign.isalnum() or sign in ".-_" else "-" for sign in self._machine)
        return parse_host_name(name.strip(".-_") or "sib-server")
