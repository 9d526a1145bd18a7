"""Speaking to the server: one small HTTPS client over long-lived connections.

urllib3 without requests on top: the daemon stays a third smaller, and nothing here needs more.
"""

from __future__ import annotations

import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import urllib3
from urllib3.exceptions import HTTPError, SSLError

from sib_protocol import __version__
from sib_protocol.errors import ExitCode, MalformedMessageError, SibError
from sib_protocol.limits import MAX_MESSAGE_BYTES
from sib_protocol.messages import Refusal, decode_message, encode_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Message = TypeVar("Message", bound=msgspec.Struct)

_CONNECT_SECONDS: Final = 10.0
_LONGEST_RETRY_AFTER: Final = 300.0
_PIECE: Final = 64 * 1024
_REFUSED_CERTIFICATES: Final = frozenset({"certificate_expired", "certificate_required"})


class ServerUnreachableError(SibError):
    """No server answered.

    Attributes:
        server: the address that was tried last.
        reason: what happened.
        handshake: whether TLS failed (a certificate that one side does not take), or the server
            hung up without an answer: where it does not take ours, that may be all we see of it.
    """

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, server: str, reason: str, *, handshake: bool = False) -> None:
        super().__init__(
            f"the server at {server} cannot be reached: {reason}",
            "see whether it runs ('systemctl status sib-server') and its port is open from here",
        )
        self.server = server
        self.reason = reason
        self.handshake = handshake


class ServerBusyError(SibError):
    """The server asks to be left alone for a while (429, 5xx).

    Attributes:
        status: the HTTP status.
        retry_after: seconds, if the server said.
    """

    exit_code = ExitCode.UNREACHABLE

    def __init__(self, status: int, problem: str, retry_after: float | None) -> None:
        super().__init__(
            f"the server cannot answer now ({status}): {problem}", "wait and try again"
        )
        self.status = status
        self.retry_after = retry_after


class ServerRefusedError(SibError):
    """The server understood and said no.

    Attributes:
        status: the HTTP status.
        code: the refusal's fixed word.
    """

    exit_code = ExitCode.REFUSED

    def __init__(self, status: int, refusal: Refusal) -> None:
        super().__init__(f"the server refused: {refusal.problem}", refusal.remedy)
        self.status = status
        self.code = refusal.error


def may_mean_expired(error: SibError) -> bool:
    """Whether the server may take the host's certificate for expired, whatever our clock says.

    It says so in words only on a connection that outlived the certificate; else it hangs up.
    """
    if isinstance(error, ServerUnreachableError):
        return error.handshake
    return isinstance(error, ServerRefusedError) and error.code in _REFUSED_CERTIFICATES


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer that is neither a refusal nor busy.

    Attributes:
        status: 200 to 299, 409, or 304 to a request with an ETag.
        body: at most ``MAX_MESSAGE_BYTES``.
    """

    status: int
    body: bytes

    def decode(self, wanted: type[Message]) -> Message:
        """Raises MalformedMessageError."""
        return decode_message(self.body, wanted)


def judge(status: int, headers: Mapping[str, str], body: bytes) -> Answer:
    """What an answer means.

    Raises:
        ServerBusyError: try again later.
        ServerRefusedError: it will not do.
    """
    if 200 <= status < 300 or status in {304, 409}:
        return Answer(status, body)
    try:
        refusal = decode_message(body, Refusal)
    except MalformedMessageError:
        refusal = Refusal("unknown", f"it answers with status {status}")
    if status in {408, 425, 429} or status >= 500:
        raise ServerBusyError(status, refusal.problem, parse_retry_after(headers))
    raise ServerRefusedError(status, refusal)


def parse_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of ``Retry-After``, bounded: a hostile server must not silence a host for a year."""
    text = headers.get("retry-after", "")
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        return None
    return min(float(text), _LONGEST_RETRY_AFTER)


class ServerClient:
    """Requests to whichever of a host's servers answers; for any thread.

    Args:
        servers: ``https://host:port`` addresses, tried in order from the one that answered last.
        context: makes the TLS context; called again by :meth:`renewed`.
        timeout: seconds that an answer may take.
    """

    def __init__(
        self,
        servers: Sequence[str],
        context: Callable[[], ssl.SSLContext],
        *,
        timeout: float = 30.0,
    ) -> None:
        self._servers = tuple(servers)
        self._context = context
        self._timeout = urllib3.Timeout(connect=_CONNECT_SECONDS, read=timeout)
        self._lock = threading.Lock()
        self._preferred = 0
        self._pool = self._make_pool()

    def _make_pool(self) -> urllib3.PoolManager:
        return urllib3.PoolManager(
            num_pools=max(2, len(self._servers)),
            maxsize=3,
            ssl_context=self._context(),
            retries=False,
            timeout=self._timeout,
            headers={"user-agent": f"sib-agent/{__version__}"},
        )

    def renewed(self) -> None:
        """Use the identity that is in force now; connections with the old one end."""
        fresh = self._make_pool()
        with self._lock:
            old, self._pool = self._pool, fresh
        old.clear()

    def close(self) -> None:
        """End all connections."""
        self._pool.clear()

    def post(self, path: str, body: bytes, *, content_type: str, gzip: bool = False) -> Answer:
        """``POST``; see :meth:`_send`."""
        headers = {"content-type": content_type}
        if gzip:
            headers["content-encoding"] = "gzip"
        return self._send("POST", path, body, headers)

    def post_message(self, path: str, message: msgspec.Struct) -> Answer:
        """``POST`` a message; see :meth:`_send`."""
        return self.post(path, encode_message(message), content_type="application/json")

    def get(self, path: str, *, etag: str | None = None) -> Answer:
        """``GET``; see :meth:`_send`.

        Args:
            path: of it.
            etag: of what is known already; the same is answered with 304 and nothing else.
        """
        return self._send("GET", path, None, {} if etag is None else {"if-none-match": etag})

    def _places(self) -> list[int]:
        """In what order the servers are tried; a copy, since another thread may prefer another."""
        start, many = self._preferred, len(self._servers)
        return [(start + step) % many for step in range(many)]

    def stream(self, path: str, end: float) -> Iterator[bytes]:
        """``GET`` something large in pieces, from the first server that can be reached.

        Args:
            path: of it.
            end: when to give up, by :func:`time.monotonic`.

        Raises:
            ServerUnreachableError: none can, it was cut short, or it took too long.
            ServerBusyError, ServerRefusedError: see :meth:`_send`.
        """
        failure: ServerUnreachableError | None = None
        for place in self._places():
            server = self._servers[place]
            try:
                response = self._pool.request(
                    "GET",
                    server + path,
                    headers=self._pool.headers,
                    preload_content=False,
                    redirect=False,
                )
            except (HTTPError, OSError) as error:
                failure = ServerUnreachableError(server, _reason(error))
                continue
            self._preferred = place
            yield from _pieces(server, response, end)
            return
        assert failure is not None  # noqa: S101  (there is at least one server)
        raise failure

    def _send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        """Send to the first server that can be reached.

        Raises:
            ServerUnreachableError: none can.
            ServerBusyError: one asks to wait.
            ServerRefusedError: one refuses.
        """
        failure: ServerUnreachableError | None = None
        for place in self._places():
            try:
                answer = self._send_to(self._servers[place], method, path, body, headers)
            except ServerUnreachableError as error:
                failure = error
                continue
            except (ServerBusyError, ServerRefusedError):
                self._preferred = place
                raise
            self._preferred = place
            return answer
        assert failure is not None  # noqa: S101  (there is at least one server)
        raise failure

    def _send_to(
        self, server: str, method: str, path: str, body: bytes | None, headers: dict[str, str]
    ) -> Answer:
        try:
            response = self._pool.request(
                method,
                server + path,
                body=body,
                headers={**self._pool.headers, **headers},
                preload_content=False,
                redirect=False,
            )
            try:
                content = response.read(MAX_MESSAGE_BYTES + 1, decode_content=False)
                if len(content) > MAX_MESSAGE_BYTES:
                    raise ServerUnreachableError(server, "its answer is far too long")
                # Read to its end, or the connection could not carry another request.
                complete = not response.read(1, decode_content=False)
            finally:
                if response.length_remaining in (0, None):
                    response.release_conn()
                else:
                    response.close()
            if not complete or response.length_remaining not in (0, None):
                raise ServerUnreachableError(server, "its answer was cut short")
        except (HTTPError, OSError) as error:
            handshake = isinstance(error, SSLError) or isinstance(
                _innermost(error), (ConnectionResetError, BrokenPipeError)
            )
            raise ServerUnreachableError(server, _reason(error), handshake=handshake) from error
        return judge(response.status, response.headers, content)


def _pieces(server: str, response: urllib3.BaseHTTPResponse, end: float) -> Iterator[bytes]:
    try:
        if response.status != 200:
            judge(response.status, response.headers, response.read(MAX_MESSAGE_BYTES))
            raise ServerUnreachableError(server, f"it answers with status {response.status}")
        while piece := response.read1(_PIECE, decode_content=False):
            if time.monotonic() > end:
                raise ServerUnreachableError(server, "it takes too long")
            yield piece
        if response.length_remaining not in (0, None):
            raise ServerUnreachableError(server, "its answer was cut short")
    except (HTTPError, OSError) as error:
        raise ServerUnreachableError(server, _reason(error)) from error
    finally:
        if response.length_remaining in (0, None):
            response.release_conn()
        else:
            response.close()


def _innermost(error: BaseException) -> BaseException:
    """The innermost cause: the layers around it say less in more words."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        inner = getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            inner = error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def _reason(error: BaseException) -> str:
    error = _innermost(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
