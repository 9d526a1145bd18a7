"""The kinds of indicators and their one canonical spelling."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final
from urllib.parse import urlsplit

MAX_VALUE: Final = 2048
"""The longest text that is looked at as an indicator, characters."""


class Kind(Enum):
    """What an indicator names; the value is how it is written in files and JSON."""

    ADDRESS = "address"
    NETWORK = "network"
    DOMAIN = "domain"
    URL = "url"
    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    CERTIFICATE = "certificate"
    """The SHA-1 fingerprint of an X.509 certificate."""

    @property
    def code(self) -> int:
        """The number that stands for it in the store; never given a new meaning."""
        return _CODES[self]

    @classmethod
    def from_code(cls, code: int) -> Kind:
        """The kind of a number from the store."""
        return _BY_CODE[code]


_CODES: Final = {kind: number for number, kind in enumerate(Kind, start=1)}
_BY_CODE: Final = {number: kind for kind, number in _CODES.items()}

FILE_HASHES: Final = frozenset({Kind.MD5, Kind.SHA1, Kind.SHA256})


@dataclass(frozen=True, slots=True)
class Observable:
    """Something that can be an indicator, in canonical spelling.

    Attributes:
        kind: what it is.
        value: an address without leading zeros, a network with its prefix length, a lower-case
            ASCII domain without the last dot, a URL with lower-case scheme and host and no
            fragment, or lower-case hex.
    """

    kind: Kind
    value: str


_HASH_BY_LENGTH: Final = {32: Kind.MD5, 40: Kind.SHA1, 64: Kind.SHA256}
_HEX_LENGTH: Final = {Kind.MD5: 32, Kind.SHA1: 40, Kind.CERTIFICATE: 40, Kind.SHA256: 64}
_HEX: Final = re.compile(r"[0-9a-f]+")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_TOP_LABEL: Final = re.compile(r"[a-z]{2,63}|xn--[a-z0-9-]{1,59}")
_PORTED: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):\d{1,5}")
_DEFANGED_DOT: Final = re.compile(r"\[\.\]|\(\.\)|\[dot\]", re.IGNORECASE)
_DEFANGED_SCHEME: Final = re.compile(r"^(?:hxxp|hXXp)(s?)(?:\[:\]|:)//", re.IGNORECASE)
_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "ftp": 21}


def refang(text: str) -> str:
    """Undo the usual ways of making an indicator harmless to click: ``hxxp``, ``[.]``."""
    text = text.strip()
    text = _DEFANGED_DOT.sub(".", text)
    return _DEFANGED_SCHEME.sub(r"http\1://", text)


def parse_address(text: str) -> Observable | None:
    """An IPv4 or IPv6 address; an IPv4 address mapped into IPv6 becomes IPv4."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            return None
        if address.ipv4_mapped is not None:
            address = address.ipv4_mapped
    return Observable(Kind.ADDRESS, str(address))


def parse_address_with_port(text: str) -> Observable | None:
    """The address of ``1.2.3.4:80`` or ``[2001:db8::1]:80``."""
    match = _PORTED.fullmatch(text)
    return parse_address(match[1] or match[2]) if match else None


def parse_network(text: str) -> Observable | None:
    """A network; bits beyond the prefix are cleared, and one of a single address is an address."""
    if "/" not in text:
        return None
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network):
        mapped = network.network_address.ipv4_mapped
        if network.network_address.scope_id is not None:
            return None
        if mapped is not None and network.prefixlen >= 96:
            network = ipaddress.ip_network(f"{mapped}/{network.prefixlen - 96}", strict=False)
    if network.prefixlen == network.max_prefixlen:
        return Observable(Kind.ADDRESS, str(network.network_address))
    return Observable(Kind.NETWORK, str(network))


def parse_domain(text: str) -> Observable | None:
    """A domain of two labels or more; ``*.`` in front goes, since parents match by suffix."""
    text = text.removeprefix("*.").rstrip(".").lower()
    if not text.isascii():
        try:
            text = text.encode("idna").decode("ascii").lower()
        except UnicodeError:
            return None
    labels = text.split(".")
    if len(text) > 253 or len(labels) < 2 or not _TOP_LABEL.fullmatch(labels[-1]):
        return None
    if not all(_LABEL.fullmatch(label) for label in labels):
        return None
    return Observable(Kind.DOMAIN, text)


def parse_url(text: str) -> Observable | None:
    """An http, https or ftp URL, without user, password, default port and fragment."""
    if len(text) > MAX_VALUE or any(ord(sign) <= 32 or ord(sign) == 127 for sign in text):
        return None
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    scheme = parts.scheme.lower()
    host = (parts.hostname or "").rstrip(".")
    if scheme not in _DEFAULT_PORTS or not host:
        return None
    named = parse_address(host) or parse_domain(host)
    if named is None:
        return None
    shown = f"[{named.value}]" if ":" in named.value else named.value
    if port is not None and port != _DEFAULT_PORTS[scheme]:
        shown = f"{shown}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return Observable(Kind.URL, f"{scheme}://{shown}{parts.path or '/'}{query}")


def url_host(url: Observable) -> Observable | None:
    """The address or domain that a canonical URL leads to."""
    host = urlsplit(url.value).hostname or ""
    return parse_address(host) or parse_domain(host)


def parse_hash(text: str, kind: Kind | None = None) -> Observable | None:
    """A hash as hex, with or without colons; the kind follows from the length if not given."""
    text = text.replace(":", "").lower()
    if not _HEX.fullmatch(text):
        return None
    if kind is None:
        kind = _HASH_BY_LENGTH.get(len(text))
    if kind is None or _HEX_LENGTH.get(kind) != len(text):
        return None
    return Observable(kind, text)


def parse_as(kind: Kind, text: str) -> Observable | None:
    """Read a text that is said to be of one kind.

    Feeds put ``1.2.3.4:80`` and ``1.2.3.0/24`` into columns of addresses: both are taken for what
    they are, so the answer may be an address where a network was named and the other way round.
    """
    text = refang(text[: MAX_VALUE + 1])
    if kind in (Kind.ADDRESS, Kind.NETWORK):
        return parse_address(text) or parse_address_with_port(text) or parse_network(text)
    if kind is Kind.DOMAIN:
        return parse_domain(text)
    if kind is Kind.URL:
        return parse_url(text)
    return parse_hash(text, kind)


def recognise(text: str) -> Observable | None:
    """Find out what a text is; ``None`` where it is nothing that can be an indicator.

    Forty hex digits are a file's SHA-1: only a feed can say that it means a certificate.
    """
    text = refang(text[: MAX_VALUE + 1])
    if "://" in text:
        return parse_url(text)
    return (
        parse_address(text)
        or parse_address_with_port(text)
        or parse_network(text)
        or parse_hash(text)
        or parse_domain(text)
    )
