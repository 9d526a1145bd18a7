"""What the doctor makes of what it found. Pure; every finding that is not well names its cure."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from sib_protocol.checks import Finding, failed, skipped, warning, well

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from sib_protocol.machine import Listener
    from sib_protocol.units import UnitState
    from sib_server.operations.doctor.facts import FileFact, HostFact, JournalSample

_DAY: Final = 24 * 3600.0
_LATE_SECONDS: Final = 300.0
_NAMED: Final = 5
_NEEDED: Final = "server"


def judge_units(units: Sequence[UnitState] | None, needed: Collection[str]) -> list[Finding]:
    """Whether the units run that should.

    Args:
        units: as systemd says; ``None`` where it does not run.
        needed: components that the settings use on this machine.
    """
    if units is None:
        return [skipped("units", "systemd does not run here, or does not answer")]
    findings = []
    known = {unit.component: unit for unit in units}
    for component in sorted({*known, *needed}):
        unit = known.get(component)
        check = f"unit-{component}"
        if unit is None:
            if component == _NEEDED:
                findings.append(skipped(check, "not installed as a service here"))
            continue
        seen = f"{unit.unit} is {unit.active} ({unit.detail})"
        start = f"systemctl start {unit.unit}"
        if unit.troubled:
            findings.append(
                failed(
                    check,
                    f"{seen}: {unit.result}, restarted {unit.restarts} times",
                    f"'sib-server logs {component}' says why; then '{start}'",
                )
            )
        elif component in needed and unit.active != "active":
            findings.append(failed(check, seen, start))
        elif unit.restarts > 0 and not unit.oneshot:
            findings.append(
                warning(
                    check,
                    f"{seen}, restarted {unit.restarts} times since it was started",
                    f"'sib-server logs {component}' says why",
                )
            )
        else:
            findings.append(well(check, seen))
    return findings


def judge_end(check: str, what: str, not_after: float | None, now: float, cure: str) -> Finding:
    """Whether a certificate holds for long enough.

    Args:
        check: ``certificate`` or ``ca``: the one is renewed within days, the other never.
        what: for people.
        not_after: when it ends, seconds since 1970 UTC; ``None`` without one.
        now: likewise.
        cure: what to do when it ends.
    """
    if not_after is None:
        return failed(check, f"there is no {what}", cure)
    left = not_after - now
    seen = f"{what}: {left / _DAY:.1f} days left"
    soon, very_soon = (90 * _DAY, 14 * _DAY) if check == "ca" else (2 * _DAY, 12 * 3600.0)
    if left < very_soon:
        return failed(check, seen, cure)
    if left < soon:
        return warning(check, seen, cure)
    return well(check, seen)


def judge_names(names: Collection[str], wanted: Collection[str]) -> Finding:
    """Whether the server's certificate carries the names that hosts are told.

    Args:
        names: in the certificate.
        wanted: by the settings.
    """
    missing = sorted(set(wanted) - set(names))
    if missing:
        return failed(
            "certificate-names",
            f"the server's certificate lacks {', '.join(missing)}",
            "systemctl reload sib-server",
        )
    return well("certificate-names", f"the certificate is for {', '.join(sorted(names))}")


def judge_secrets(files: Iterable[FileFact], owners: Collection[int]) -> Finding:
    """Whether secrets are readable by their owner alone.

    Args:
        files: the CA's directory, passwords, and what is below.
        owners: uids whose they may be.
    """
    looked_at, open_ones, foreign = 0, [], []
    for file in files:
        looked_at += 1
        # A directory that others may list gives nothing away, and a certificate is for all.
        public = file.directory or file.path.endswith(".pem")
        if file.mode & 0o022 or (file.mode & 0o007 and not public):
            open_ones.append(file)
        if file.uid not in owners:
            foreign.append(file)
    if open_ones:
        worst = open_ones[0]
        return failed(
            "secrets",
            f"{len(open_ones)} secrets are open to others, the first {worst.path}"
            f" ({worst.mode:04o})",
            f"chmod {'go-w' if worst.mode & 0o022 else 'o='} {worst.path}; who could read it has"
            " it: look who that was",
        )
    if foreign:
        return failed(
            "secrets",
            f"{foreign[0].path} belongs to uid {foreign[0].uid}",
            f"chown sib-server: {foreign[0].path}",
        )
    if not looked_at:
        return skipped("secrets", "there is none that can be looked at", "run this as root")
    return well("secrets", f"{looked_at} files and directories are closed to others")


def judge_configuration(files: Iterable[FileFact]) -> Finding:
    """Whether the configuration can be changed by root alone."""
    for file in files:
        if file.uid != 0:
            return failed(
                "configuration",
                f"{file.path} belongs to uid {file.uid}, which can change what the server does",
                f"chown root {file.path}",
            )
        if file.mode & 0o022:
            return failed(
                "configuration",
                f"{file.path} can be written by others ({file.mode:04o})",
                f"chmod go-w {file.path}",
            )
    return well("configuration", "only root can change it")


def judge_journal(sample: JournalSample, damaged_before: int) -> Finding:
    """Whether the journal is whole, as far as was looked.

    Args:
        sample: its oldest and newest events.
        damaged_before: what the server has met since it started.
    """
    if sample.damaged or damaged_before:
        return failed(
            "journal",
            f"{max(sample.damaged, damaged_before)} events are damaged",
            "'sib-server journal verify' reads all; then stop the server and"
            " 'sib-server journal salvage'",
        )
    return well("journal", f"{sample.looked_at} events were read, all are whole")


def is_loopback(address: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(address.split("%", maxsplit=1)[0]).is_loopback
    except ValueError:
        return False


def judge_listeners(
    listeners: Iterable[Listener],
    *,
    public: Mapping[int, str],
    loopback: Mapping[int, str],
    units: Collection[str],
) -> list[Finding]:
    """Whether ports are open that should be, and no others of SIB's.

    Args:
        listeners: all TCP sockets that are listened on.
        public: port -> what hosts or people reach there.
        loopback: port -> what only this machine may reach.
        units: SIB's own; whatever else they listen on has to be on loopback, too.
    """
    found = list(listeners)
    open_ports = {listener.port for listener in found}
    findings = [
        well(f"port-{port}", f"{what} listens on port {port}")
        if port in open_ports
        else failed(
            f"port-{port}",
            f"nothing listens on port {port}, where {what} should",
            "systemctl start sib-server.target; then 'sib-server logs'",
        )
        for port, what in sorted(public.items())
    ]
    exposed = [
        listener
        for listener in found
        if not is_loopback(listener.address)
        and listener.port not in public
        and (listener.unit in units or (listener.unit is None and listener.port in loopback))
    ]
    findings += [
        failed(
            "exposed",
            f"{loopback.get(listener.port, listener.unit)} listens on {listener.address} port"
            f" {listener.port}, for other machines to reach, without a password",
            "set its address to 127.0.0.1 ('sib-server setup' does) and restart it",
        )
        for listener in exposed
    ]
    if not exposed:
        findings.append(well("exposed", "the stores listen on loopback only"))
    return findings


def judge_fleet(hosts: Sequence[HostFact], version: str) -> list[Finding]:
    """How the hosts are.

    Args:
        hosts: enrolled ones.
        version: of this server.
    """
    if not hosts:
        return [
            warning(
                "fleet", "no host is enrolled", "'sib-server token create', and paste it on a host"
            )
        ]
    findings = []
    silent = [host.name for host in hosts if host.state in {"silent", "never"}]
    late = [host.name for host in hosts if host.state == "late"]
    if silent:
        findings.append(
            failed(
                "fleet-silent",
                f"{len(silent)} of {len(hosts)} hosts are silent: {_some(silent)}",
                "on the host: 'sib-agent doctor'; one that is gone for good:"
                " 'sib-server host remove'",
            )
        )
    if late:
        findings.append(
            warning("fleet-late", f"{len(late)} are late: {_some(late)}", "look again in a minute")
        )
    if not silent and not late:
        findings.append(well("fleet", f"{len(hosts)} hosts report in time"))
    other = sorted({host.version for host in hosts if host.version not in {"", version}})
    if other:
        older = [host.name for host in hosts if host.version in other]
        findings.append(
            warning(
                "fleet-versions",
                f"{len(older)} hosts run {', '.join(other[:_NAMED])}, this server {version}:"
                f" {_some(older)}",
                "upgrade sib-agent there; the server goes first",
            )
        )
    refusing = [host for host in hosts if host.bundle_failure]
    if refusing:
        findings.append(
            warning(
                "fleet-bundles",
                f"{len(refusing)} hosts did not keep their last bundle, first {refusing[0].name}"
                f" ({refusing[0].bundle_failure})",
                "'sib-server bundle status' says more; mend the rules and publish again",
            )
        )
    lossy = [host.name for host in hosts if host.lost]
    if lossy:
        findings.append(
            warning(
                "fleet-losses",
                f"{len(lossy)} hosts lost lines since they started: {_some(lossy)}",
                "'sib-server events search --rule \"SIB event gap\"' says which and why",
            )
        )
    return findings


def judge_sink(name: str, lag_events: int, lag_seconds: float, refused: int) -> list[Finding]:
    """How a sink keeps up."""
    findings = []
    seen = f"{lag_events} events behind, the oldest for {lag_seconds:.0f} s"
    if lag_seconds > _LATE_SECONDS:
        findings.append(
            failed(
                f"sink-{name}",
                seen,
                f"'sib-server logs {name} server' says why; the events wait in the journal",
            )
        )
    else:
        findings.append(well(f"sink-{name}", seen))
    if refused:
        findings.append(
            warning(
                f"sink-{name}-refused",
                f"{refused} events were refused for good since the server started",
                "'sib-server logs server' names them; the journal has them",
            )
        )
    return findings


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMED])
    return f"{shown}, …" if len(names) > _NAMED else shown
