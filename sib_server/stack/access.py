"""How to speak to a store that is not on this machine: whom to trust, and as whom.

Nothing of it is a secret itself: secrets are in files, read when a connection is made ready.
"""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from sib_protocol.errors import ExitCode, FileAccessError, SibError

_MAX_SECRET: Final = 64 * 1024


class StoreAccess(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Trust and credentials for one store."""

    ca_file: Annotated[
        Path | None,
        Meta(description="PEM of the CA that the store's certificate is from; none: the system's."),
    ] = None
    username: Annotated[str | None, Meta(description="For basic authentication.")] = None
    password_file: Annotated[
        Path | None, Meta(description="The password for it: the file's content, less white space.")
    ] = None
    token_file: Annotated[
        Path | None, Meta(description="A bearer token, in place of name and password.")
    ] = None
    certificate_file: Annotated[
        Path | None, Meta(description="PEM of a client certificate, where the store wants one.")
    ] = None
    key_file: Annotated[Path | None, Meta(description="PEM of its key.")] = None


class StoreAccessError(SibError):
    """Settings of a store's access that contradict each other, or files that cannot be used."""

    exit_code = ExitCode.SETTINGS


def authorization(access: StoreAccess) -> str | None:
    """The header ``Authorization``, or ``None``.

    Raises:
        StoreAccessError: half of a pair, or two ways at once.
        FileAccessError: a secret's file cannot be read.
    """
    if access.token_file is not None:
        if access.username is not None or access.password_file is not None:
            raise StoreAccessError(
                "both a token and a name with password are set for a store", "leave out one"
            )
        return f"Bearer {_secret(access.token_file)}"
    if (access.username is None) != (access.password_file is None):
        raise StoreAccessError(
            "username and password_file of a store belong together", "set both, or none"
        )
    if access.username is None or access.password_file is None:
        return None
    pair = f"{access.username}:{_secret(access.password_file)}".encode()
    return f"Basic {base64.b64encode(pair).decode()}"


def tls(access: StoreAccess) -> ssl.SSLContext | bool:
    """For TLS to the store, as aiohttp takes it; the store's name is always checked.

    Returns:
        ``True`` where nothing is set: the system's CAs are read only if they are needed.

    Raises:
        StoreAccessError: half of a pair, or not PEM.
        FileAccessError: a file cannot be read.
    """
    if access == StoreAccess():
        return True
    if (access.certificate_file is None) != (access.key_file is None):
        raise StoreAccessError(
            "certificate_file and key_file of a store belong together", "set both, or none"
        )
    try:
        context = ssl.create_default_context(cafile=access.ca_file)
        if access.certificate_file is not None:
            context.load_cert_chain(access.certificate_file, access.key_file)
    except ssl.SSLError as error:
        raise StoreAccessError(
            f"the certificates for a store cannot be used: {error.reason or error}",
            "look at ca_file, certificate_file and key_file: PEM, and the key the certificate's",
        ) from error
    except OSError as error:
        names = (access.ca_file, access.certificate_file, access.key_file)
        path = next((name for name in names if name is not None), Path())
        raise FileAccessError(path, error.strerror or str(error)) from error
    return context


def request_headers(access: StoreAccess, tenant: str | None) -> dict[str, str]:
    """What every request to the store carries.

    Raises:
        StoreAccessError, FileAccessError: as :func:`authorization`.
    """
    found = {"User-Agent": "sib-server"}
    credentials = authorization(access)
    if credentials is not None:
        found["Authorization"] = credentials
    if tenant is not None:
        found["X-Scope-OrgID"] = tenant
    return found


def _secret(path: Path) -> str:
    try:
        with path.open("rb") as opened:
            content = opened.read(_MAX_SECRET + 1)
        text = content.decode().strip()
    except OSError as error:
        raise FileAccessError(
            path, error.strerror or str(error), "the user sib-server has to be able to read it"
        ) from error
    except UnicodeDecodeError as error:
        raise StoreAccessError(f"{path}: not text", "write the secret into it as UTF-8") from error
    if not text or len(content) > _MAX_SECRET or not text.isprintable():
        raise StoreAccessError(f"{path}: no secret", "write the secret into it, on one line")
    return text
