"""What setup does: the files that it writes, and what it tells systemd about them."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sib_agent.settings import DEFAULT_PATH
from sib_agent.setup.alloy_config import render_alloy
from sib_agent.setup.facts import ask
from sib_agent.setup.falco_config import probe_path, render_falco, render_probe
from sib_agent.setup.units import ALLOY_UNIT, FALCO_UNIT
from sib_protocol.checks import Finding, failed, skipped, warning, well
from sib_protocol.files import sync_directory
from sib_protocol.generated import (
    Action,
    FileChange,
    GeneratedFile,
    group_owner,
    plan_files,
    with_header,
    write_files,
)
from sib_protocol.identity import NotEnrolledError
from sib_protocol.units import booted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sib_agent.settings import AgentSettings, FalcoSettings
    from sib_agent.setup.facts import HostFacts
    from sib_protocol.identity import Identity, IdentityStore

COMMAND: Final = "sib-agent setup"
GROUP: Final = "sib-agent"
EMPTY_VERSION: Final = "0"
_NEW: Final = frozenset({Action.CREATED})
_CHANGED: Final = frozenset({Action.UPDATED, Action.REPLACED})


@dataclass(frozen=True, slots=True)
class UnitStep:
    """Something to tell systemd.

    Attributes:
        verb: of ``systemctl``.
        unit: the unit.
    """

    verb: str
    unit: str


def wanted_files(
    settings: AgentSettings,
    facts: HostFacts,
    identity: Identity | None,
    *,
    source: str = str(DEFAULT_PATH),
    owner: tuple[int, int] | None = None,
) -> list[GeneratedFile]:
    """The files as they should be. Pure.

    Args:
        settings: the agent's.
        facts: of this host.
        identity: in force; without one Alloy does not know where to send.
        source: the settings file, named in the headers.
        owner: of the files.
    """

    def made(path: Path, text: str, comment: str) -> GeneratedFile:
        content = with_header(text, comment=comment, by=COMMAND, source=source)
        return GeneratedFile(path, content, owner=owner)

    falco, alloy = settings.falco, settings.alloy
    files = []
    if falco.enabled:
        files.append(made(probe_path(falco), render_probe(falco), "#"))
        files.append(made(falco.config, render_falco(settings, facts.falco), "#"))
    server = alloy.server or (identity.servers[0] if identity else None)
    if alloy.enabled and server is not None and identity is not None:
        text = render_alloy(settings, server, journald=facts.journald)
        files.append(made(alloy.config, text, "//"))
    return files


def unit_steps(
    settings: AgentSettings, facts: HostFacts, changes: Sequence[FileChange]
) -> list[UnitStep]:
    """What to tell systemd after the changes, of the programs that are here. Pure.

    A unit whose configuration has come is started; of one whose configuration is another, only
    what runs takes it up: what was stopped on purpose stays so.
    """
    falco = {str(settings.falco.config), str(probe_path(settings.falco))}
    alloy = {str(settings.alloy.config)}
    steps = []
    for here, unit, paths in (
        (facts.falco.program, FALCO_UNIT, falco),
        (facts.alloy, ALLOY_UNIT, alloy),
    ):
        actions = {change.action for change in changes if here and change.path in paths}
        if actions & _NEW:
            steps.append(UnitStep("start", unit))
        elif actions & _CHANGED:
            steps.append(UnitStep("try-reload-or-restart", unit))
    return steps


def judge_changes(changes: Sequence[FileChange], *, pending: bool) -> list[Finding]:
    """What to say of the files. Pure.

    Args:
        changes: made, or that would be made.
        pending: they were only looked at.
    """
    return [_judge_change(change, pending=pending) for change in changes]


def _judge_change(change: FileChange, *, pending: bool) -> Finding:
    action, path = change.action, change.path
    if action is Action.UNCHANGED:
        return well("file", f"{path} is as it should be")
    if action is Action.KEPT:
        return warning(
            "file",
            f"{path} was edited, so it is kept; what setup would write is in {path}.new",
            f"compare the two; or put your wish into {DEFAULT_PATH}, then '{COMMAND} --force'",
        )
    if pending:
        return failed("file", f"{path} would be {action.value}", COMMAND)
    note = f"; your edit is in {path}.old" if action is Action.REPLACED else ""
    return well("file", f"{path} {action.value}{note}")


def judge_bundle(settings: FalcoSettings) -> Finding:
    """Whether there is a place for rules, without which Falco does not start."""
    current = settings.bundles / "current"
    if not (current / "rules").is_dir():
        return failed(
            "bundle",
            f"there is no rules folder below {current}: Falco does not start",
            "systemd-tmpfiles --create /usr/lib/tmpfiles.d/sib-agent.conf",
        )
    return well("bundle", f"version {current.resolve().name}")


def find_identity(store: IdentityStore) -> Identity | None:
    """The identity in force, or ``None``. Raises as :meth:`IdentityStore.load`, but for that."""
    try:
        return store.load()
    except NotEnrolledError:
        return None


def judge_identity(identity: Identity | None, *, alloy: bool) -> Finding:
    """Whether the host has joined a server. Pure."""
    if identity is None:
        return skipped(
            "identity",
            "this host is not enrolled" + (": Alloy starts once it is" if alloy else ""),
            "make a token with 'sib-server token create' on the server, then 'sib-agent enroll'",
        )
    return well("identity", f"{identity.host_name} at {identity.servers[0]}")


def make_empty_bundle(settings: FalcoSettings) -> None:
    """Make version 0, without rules, where there is no bundle yet.

    In a directory of the agent's own user nothing is done as root, who could be led elsewhere by a
    symlink; the package's tmpfiles.d makes it there.
    """
    bundles = settings.bundles
    current = bundles / "current"
    if current.is_symlink() or current.exists():
        return
    parent = next(place for place in (bundles, *bundles.parents) if place.exists())
    if parent.stat().st_uid != os.geteuid():
        return
    for part in ("rules", "drills"):
        (bundles / EMPTY_VERSION / part).mkdir(mode=0o750, parents=True, exist_ok=True)
    with suppress(FileExistsError):
        current.symlink_to(EMPTY_VERSION)
    sync_directory(bundles)


def apply(
    settings: AgentSettings, files: Sequence[GeneratedFile], *, force: bool
) -> list[FileChange]:
    """Write the files.

    Raises:
        FileAccessError: one cannot be written.
    """
    if settings.falco.enabled:
        make_empty_bundle(settings.falco)
    return write_files(files, force=force)


def tell_systemd(steps: Sequence[UnitStep]) -> list[Finding]:
    """Take the steps, without waiting for them: setup itself is ordered before these units."""
    if not booted() or os.geteuid() != 0:
        return []
    return [
        well("unit", f"{step.verb} {step.unit}")
        if ask("systemctl", "--no-block", step.verb, step.unit) is not None
        else warning(
            "unit",
            f"{step.unit} could not be told to {step.verb}",
            f"systemctl {step.verb} {step.unit}",
        )
        for step in steps
    ]


def owner_of_files() -> tuple[int, int] | None:
    """Root and the agent's group."""
    return group_owner(GROUP)


def plan(files: Sequence[GeneratedFile], *, force: bool) -> list[FileChange]:
    """What :func:`apply` would do to the files."""
    return plan_files(files, force=force)
