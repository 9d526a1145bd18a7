"""How hosts, tokens and certificates are written out. Pure; the JSON keys are an interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from sib_protocol.renewal import renewal_time
from sib_server.cli.times import iso, iso_ns
from sib_server.pki.peer import serial_text

if TYPE_CHECKING:
    from sib_server.fleet.health import HealthState
    from sib_server.fleet.hosts import HostRecord
    from sib_server.pki.authority import Authority, ServerCertificate
    from sib_server.pki.tokens import TokenRecord


def host_view(host: HostRecord, state: HealthState) -> dict[str, Any]:
    """A host as one JSON object."""
    certificate = None
    if host.certificate is not None:
        certificate = {
            "serial": host.certificate.serial,
            "not_after": iso(host.certificate.not_after),
            "revoked": host.certificate.revoked,
        }
    return {
        "id": host.id,
        "name": host.name,
        "tags": list(host.tags),
        "enrolled": iso_ns(host.enrolled_ns),
        "removed": iso_ns(host.removed_ns),
        "last_seen": iso_ns(host.last_seen_ns),
        "state": "removed" if host.removed_ns is not None else state.value,
        "certificate": certificate,
        "version": host.version,
        "address": host.address,
        "bundle": None
        if host.report is None or host.report.bundle is None
        else msgspec.to_builtins(host.report.bundle),
    }


def host_details(host: HostRecord, state: HealthState) -> dict[str, Any]:
    """A host with its last health report."""
    report = None if host.report is None else msgspec.to_builtins(host.report)
    return {**host_view(host, state), "health": report}


def token_view(token: TokenRecord, now_ns: int) -> dict[str, Any]:
    """A token as one JSON object, without its secret."""
    return {
        "id": token.id,
        "created": iso_ns(token.created_ns),
        "expires": iso_ns(token.expires_ns),
        "uses": token.uses,
        "uses_left": token.uses_left,
        "tags": list(token.tags),
        "revoked": iso_ns(token.revoked_ns),
        "state": token.state(now_ns).value,
    }


def server_certificate_view(server: ServerCertificate) -> dict[str, Any]:
    """The server's certificate as one JSON object."""
    certificate = server.certificate
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    not_before = certificate.not_valid_before_utc.timestamp()
    not_after = certificate.not_valid_after_utc.timestamp()
    return {
        "serial": server.serial,
        "names": [str(name.value) for name in names],
        "not_after": iso(not_after),
        "renewed_at": iso(renewal_time(not_before, not_after, 0.0)),
        "path": str(server.certificate_path),
    }


def authority_view(authority: Authority, server: ServerCertificate | None) -> dict[str, Any]:
    """The CA as one JSON object."""
    root = authority.certificate
    return {
        "name": str(root.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value),
        "pin": authority.pin,
        "serial": serial_text(root),
        "not_before": iso(root.not_valid_before_utc.timestamp()),
        "not_after": iso(root.not_valid_after_utc.timestamp()),
        "directory": str(authority.directory),
        "server": None if server is None else server_certificate_view(server),
    }


def lines(value: dict[str, Any], indent: str = "") -> list[str]:
    """A JSON object as lines for people: ``key: value``, nested ones indented."""
    shown: list[str] = []
    for key, item in value.items():
        name = f"{indent}{key.replace('_', ' ')}:"
        if isinstance(item, dict):
            shown += [name, *lines(item, indent + "  ")]
        elif isinstance(item, list):
            shown.append(f"{name} {', '.join(map(str, item)) or '-'}")
        else:
            shown.append(f"{name} {'-' if item is None else item}")
    return shown
