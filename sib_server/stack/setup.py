"""``sib-server setup``: brings the machine to what the settings say, and says what it did.

It can be killed at any instant and run again: every file is there whole or not at all, and what is
as it should be is not touched.
"""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sib_protocol.checks import Finding, failed, warning
from sib_protocol.errors import UNDECODABLE, ExitCode, FileAccessError, SibError
from sib_protocol.files import write_atomic
from sib_protocol.generated import (
    Action,
    FileChange,
    GeneratedFile,
    group_owner,
    plan_files,
    remove_file,
    write_files,
)
from sib_server.settings_files import load_server_settings
from sib_server.stack import grafana, grafana_tls
from sib_server.stack.generated import Given, Wanted, wanted_files
from sib_server.stack.layout import SERVER_UNIT, SERVER_USER, Component, Layout
from sib_server.stack.outputs import CHECK, NO_OUTPUTS, Outputs, read_outputs
from sib_server.stack.own_state import OwnState, make_own_state, unreadable
from sib_server.stack.services import Marks, ServiceStep, Systemd, checksum, decide_steps
from sib_server.stack.settings import Use
from sib_server.stack.unprivileged import User, find_user, run_as
from sib_server.stack.wiring import external_accesses, files_of_grafana

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sib_server.settings import ServerSettings

_HOME: Final = "overview.json"
_MAX_SECRET: Final = 4096


class NotRootError(SibError):
    """Setup by somebody who may not."""

    exit_code = ExitCode.FILE_ACCESS

    def __init__(self) -> None:
        super().__init__(
            "setup writes to /etc/sib for several users: only root can",
            "sudo sib-server setup; --check and --dry-run need no root",
        )


class SetupReport(msgspec.Struct, frozen=True):
    """What a setup did, or would do.

    Attributes:
        uses: what is used of each component.
        files: every generated file.
        made: of secrets, keys and certificates: what was made.
        services: what systemd was told.
        findings: what is wrong with files that people wrote.
        grafana: where people find it; ``None`` where there is none.
        ca_pin: SHA-256 of the CA, hex; ``None`` in a dry run.
    """

    uses: dict[str, str]
    files: list[FileChange]
    made: list[str]
    services: list[ServiceStep]
    findings: list[Finding]
    grafana: str | None
    ca_pin: str | None

    @property
    def kept(self) -> list[str]:
        """Files that somebody edited, and that stay so."""
        return [change.path for change in self.files if change.action is Action.KEPT]


@dataclass(frozen=True, slots=True)
class Setup:
    """One setup.

    Attributes:
        settings: from all settings files.
        settings_path: the main one.
        layout: places.
        uses: of each component.
        server_names: of the server's certificate.
        systemd: the service manager.
        force: replace files that somebody edited.
        owner_of: user and group ids of a file that a group may read; ``None`` leaves them.
    """

    settings: ServerSettings
    settings_path: Path
    layout: Layout
    uses: Mapping[Component, Use]
    server_names: Sequence[str]
    systemd: Systemd
    force: bool = False
    owner_of: Callable[[str], tuple[int, int] | None] = group_owner

    def plan(self) -> SetupReport:
        """What :meth:`run` would do; changes nothing."""
        outputs = self._outputs()
        wanted = self._wanted(outputs)
        removed = [
            remove_file(file.path, force=self.force, dry_run=True)
            for file in wanted
            if file.content is None
        ]
        files = plan_files(self._generated(wanted), force=self.force)
        files += [change for change in removed if change is not None]
        made = [name for name in self._secret_names() if not (self.layout.secrets / name).exists()]
        if self._wants_certificate():
            made.append(str(self.layout.grafana_tls))
        return self._report(files, made, [], outputs, None)

    def run(self) -> SetupReport:
        """Do it.

        Raises:
            SibError: something cannot be made; what was made before it stays.
        """
        accesses = list(external_accesses(self.settings.stack, self.uses).values())
        own = run_as(
            _user(SERVER_USER),
            lambda: make_own_state(self.settings, self.server_names, accesses),
            OwnState,
        )
        made = [*own.made, *self._make_secrets(), *self._make_certificate()]
        outputs = self._outputs()
        wanted = self._wanted(outputs)
        for folder in self._folders(wanted):
            _make_folder(folder)
        files = write_files(self._generated(wanted), force=self.force)
        for file in wanted:
            change = remove_file(file.path, force=self.force) if file.content is None else None
            files += [] if change is None else [change]
        steps = self._tell_systemd(wanted)
        return self._report(files, made, steps, outputs, own.ca_pin)

    def _findings(self, outputs: Outputs) -> Iterator[Finding]:
        yield from outputs.findings
        path = self.settings.stack.falcosidekick.outputs
        with suppress(OSError):
            if outputs is not NO_OUTPUTS and path.stat().st_mode & 0o077:
                yield warning(
                    CHECK, f"{path} has secrets, and not only root can read it", f"chmod 600 {path}"
                )
        wanted = files_of_grafana(self.settings.stack, self.uses)
        user = _user(Component.GRAFANA.package)
        for problem in run_as(user, lambda: unreadable(wanted), list[str]) if wanted else ():
            yield failed(
                "grafana-files",
                f"Grafana cannot read {problem}",
                "chown root:sib-grafana and chmod 640 where it alone needs it, else setfacl",
            )

    def _report(
        self,
        files: list[FileChange],
        made: list[str],
        steps: list[ServiceStep],
        outputs: Outputs,
        ca_pin: str | None,
    ) -> SetupReport:
        names = grafana.certificate_names(self.settings.stack.grafana, self.server_names)
        local = self.uses[Component.GRAFANA] is Use.LOCAL
        own = grafana.grafana_url(self.settings.stack.grafana, names)
        return SetupReport(
            uses={component.value: use.value for component, use in self.uses.items()},
            files=files,
            made=made,
            services=steps,
            findings=list(self._findings(outputs)),
            grafana=own if local else self.settings.stack.grafana.url,
            ca_pin=ca_pin,
        )

    def _outputs(self) -> Outputs:
        path = self.settings.stack.falcosidekick.outputs
        if self.uses[Component.FALCOSIDEKICK] is not Use.LOCAL:
            return NO_OUTPUTS
        try:
            return read_outputs(path.read_bytes(), path)
        except FileNotFoundError:
            return NO_OUTPUTS
        except OSError as error:
            raise FileAccessError(path, error.strerror or str(error)) from error

    def _wanted(self, outputs: Outputs) -> list[Wanted]:
        home = self.layout.dashboards / _HOME
        given = Given(
            uses=self.uses,
            outputs=outputs,
            server_names=self.server_names,
            has_dashboards=self.layout.dashboards.is_dir(),
            home=str(home) if home.is_file() else None,
        )
        found = wanted_files(self.settings, self.layout, self.settings_path, given)
        if outputs.broken:
            # What worked until now goes on until the file is right; without it, nothing is sent.
            found = [
                file
                for file in found
                if file.path != self.layout.falcosidekick or not file.path.exists()
            ]
        return found

    def _generated(self, wanted: Sequence[Wanted]) -> list[GeneratedFile]:
        return [
            GeneratedFile(file.path, file.content, 0o640, self.owner_of(file.group))
            for file in wanted
            if file.content is not None
        ]

    def _folders(self, wanted: Sequence[Wanted]) -> Iterator[Path]:
        yield from dict.fromkeys(file.path.parent for file in wanted if file.content is not None)
        if self.uses[Component.GRAFANA] is Use.LOCAL:
            # It complains of those that are missing, too.
            for name in ("datasources", "dashboards", "plugins", "alerting"):
                yield self.layout.grafana_provisioning / name

    def _secret_names(self) -> tuple[str, ...]:
        if self.uses[Component.GRAFANA] is not Use.LOCAL:
            return ()
        return grafana.ADMIN_PASSWORD, grafana.SECRET_KEY

    def _make_secrets(self) -> Iterator[str]:
        for name in self._secret_names():
            path = self.layout.secrets / name
            if path.exists():
                continue
            _make_folder(self.layout.secrets, 0o700)
            _write(path, secrets.token_urlsafe(24).encode() + b"\n", 0o600, None)
            yield str(path)

    def _certificate_names(self) -> tuple[str, ...]:
        return grafana.certificate_names(self.settings.stack.grafana, self.server_names)

    def _wants_certificate(self) -> bool:
        if self.uses[Component.GRAFANA] is not Use.LOCAL or not grafana.own_certificate(
            self.settings.stack.grafana
        ):
            return False
        try:
            content = self.layout.grafana_tls.read_bytes()
        except FileNotFoundError:
            return True
        except OSError as error:
            raise FileAccessError(self.layout.grafana_tls, error.strerror or str(error)) from error
        return not grafana_tls.is_good(content, self._certificate_names())

    def _make_certificate(self) -> Iterator[str]:
        if not self._wants_certificate():
            return
        content = grafana_tls.make_certificate(self._certificate_names())
        path = self.layout.grafana_tls
        _make_folder(path.parent)
        _write(path, content, 0o640, self.owner_of(Component.GRAFANA.package))
        public = content[content.index(b"-----BEGIN CERTIFICATE-----") :]
        _write(self.layout.grafana_certificate, public, 0o644, None)
        yield str(path)

    def renew(self) -> list[str]:
        """Only what has a date: Grafana's certificate, where it is ours and due.

        Returns:
            What was made.
        """
        return list(self._make_certificate())

    def _tell_systemd(self, wanted: Sequence[Wanted]) -> list[ServiceStep]:
        now = self._marks(wanted)
        before = self._applied()
        steps = self.systemd.carry_out(decide_steps(before, now))
        kept = {unit: marks for unit, marks in now.items() if marks is not None}
        if kept != before:
            _make_folder(self.layout.applied.parent, 0o700)
            _write(self.layout.applied, msgspec.json.encode(kept, order="sorted"), 0o600, None)
        return steps

    def _marks(self, wanted: Sequence[Wanted]) -> dict[str, Marks | None]:
        """By what is on disk: an edited file counts as it is."""
        found: dict[str, Marks | None] = {}
        for component in Component:
            files = [file for file in wanted if file.unit == component.unit]
            if component is Component.FALCOSIDEKICK and not files:
                files = [Wanted(self.layout.falcosidekick, b"", "", component.unit)]
            if self.uses[component] is not Use.LOCAL:
                found[component.unit] = None
                continue
            found[component.unit] = Marks(
                checksum(_content(file.path) for file in files if not file.reload),
                checksum(_content(file.path) for file in files if file.reload),
            )
        whole = load_server_settings(self.settings_path, needed=False)
        # What stack says has come to the server by what was derived of it.
        told = msgspec.structs.replace(whole, stack=type(whole.stack)())
        text = msgspec.json.encode(told, enc_hook=_plain, order="sorted")
        found[SERVER_UNIT] = Marks(checksum([text]), "")
        return found

    def _applied(self) -> dict[str, Marks]:
        # Whatever is wrong with it: then units are told once too often.
        with suppress(FileNotFoundError, *UNDECODABLE):
            return msgspec.json.decode(self.layout.applied.read_bytes(), type=dict[str, Marks])
        return {}


def _user(name: str) -> User | None:
    return find_user(name) if os.geteuid() == 0 else None


def _plain(value: Any) -> str:
    return str(value)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error


def _make_folder(path: Path, mode: int = 0o755) -> None:
    if path.is_dir():
        return
    # Each by itself: what pathlib makes on the way would have root's umask, and be closed to all.
    _make_folder(path.parent, mode)
    try:
        path.mkdir(exist_ok=True)
        path.chmod(mode)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error


def _write(path: Path, content: bytes, mode: int, owner: tuple[int, int] | None) -> None:
    try:
        write_atomic(path, content, mode, owner=owner)
    except OSError as error:
        raise FileAccessError(path, error.strerror or str(error)) from error
