"""What the daemon has of the server's bundles: which it shall have, and what is fetched and proven.

It asks by itself; fetching is done by a process of its own, which ends with what it found.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import msgspec

from sib_agent.renewing import sibling_command
from sib_protocol.errors import UNDECODABLE, ExitCode
from sib_protocol.messages import WantedBundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sib_agent.client import ServerClient

COMMAND: Final = "bundle-fetch"
_WANTED: Final = "/v1/bundle/wanted"
_UNCHANGED: Final = 304
_NONE: Final = 204
_SECONDS: Final = 180.0


class Fetched(msgspec.Struct, frozen=True):
    """A bundle that was fetched, proven, and unpacked.

    Attributes:
        digests: SHA-256 of each part, by the part's name.
    """

    digests: dict[str, str]


class NotFetched(msgspec.Struct, frozen=True):
    """A bundle that was not.

    Attributes:
        reason: why.
        proven_bad: whether it was refused for what it is; else nothing came.
        lasting: whether another try cannot end otherwise.
    """

    reason: str
    proven_bad: bool = False
    lasting: bool = False


def judge_fetch(code: int, answer: str, complaints: str) -> Fetched | NotFetched:
    """What became of a fetch. Pure.

    Args:
        code: how the process ended.
        answer: its stdout.
        complaints: its stderr.
    """
    if code == 0:
        try:
            return msgspec.json.decode(answer, type=Fetched)
        except UNDECODABLE:
            return NotFetched("its answer cannot be read")
    lines = complaints.strip().splitlines() or [f"it ended with {code}"]
    reason = lines[0].removeprefix("error: ")[:400]
    return NotFetched(
        reason,
        proven_bad=code in {ExitCode.UNTRUSTED, ExitCode.DAMAGED},
        lasting=code == ExitCode.DAMAGED,
    )


class BundleSource:
    """The server, to the daemon's bundles.

    Args:
        client: with the host's certificate.
        original: ``sys.orig_argv`` of the daemon; see :func:`~sib_agent.renewing.sibling_command`.
    """

    def __init__(self, client: ServerClient, original: Sequence[str] | None = None) -> None:
        self._client = client
        self._command = sibling_command(sys.orig_argv if original is None else original, COMMAND)

    def ask(self, known: WantedBundle | None) -> WantedBundle | None:
        """Which bundle the server wants on this host.

        Args:
            known: what it said last; returned where that still holds, for next to nothing.

        Raises:
            ServerUnreachableError, ServerBusyError, ServerRefusedError, MalformedMessageError: as
                they say.
        """
        answer = self._client.get(_WANTED, etag=known.etag() if known is not None else None)
        if answer.status == _UNCHANGED:
            return known
        return None if answer.status == _NONE else answer.decode(WantedBundle)

    def fetch(self, wanted: WantedBundle) -> Fetched | NotFetched:
        """Fetch a bundle, prove it, and wait for that."""
        return self._run(str(wanted.version), *wanted.targets)

    def refresh(self) -> NotFetched | None:
        """Fetch and prove what is signed now, and no bundle; ``None`` where that went well."""
        found = self._run()
        return found if isinstance(found, NotFetched) else None

    def _run(self, *arguments: str) -> Fetched | NotFetched:
        if self._command is None:
            return NotFetched("this is not the daemon's own process")
        try:
            done = subprocess.run(
                [*self._command, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
                text=True,
                errors="replace",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return NotFetched(str(error)[:400])
        return judge_fetch(done.returncode, done.stdout, done.stderr)
