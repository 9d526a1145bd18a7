"""Answers: messages as JSON, and refusals for errors."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from sib_protocol.errors import MalformedMessageError, TooLargeError
from sib_protocol.messages import Refusal, encode_message
from sib_server.errors import RefusedError
from sib_server.listener.bodies import BodyTooLargeError, BodyTooSlowError, OverloadedError

if TYPE_CHECKING:
    import msgspec
    from starlette.requests import Request

_log: Final = logging.getLogger(__name__)
# The rest of such a request's body is never read, so its connection cannot carry another.
_CLOSING: Final = (BodyTooLargeError, BodyTooSlowError, OverloadedError)


def message_response(message: msgspec.Struct, status: int = 200) -> Response:
    """A message as an answer."""
    return Response(encode_message(message), status, media_type="application/json")


def refusal_response(error: RefusedError) -> Response:
    """A refusal as an answer, with what the sender needs to behave."""
    response = message_response(error.refusal(), error.status)
    if error.retry_after is not None:
        response.headers["retry-after"] = str(math.ceil(error.retry_after))
    if isinstance(error, _CLOSING):
        response.headers["connection"] = "close"
    return response


async def on_refused(_request: Request, error: Exception) -> Response:
    """Answer a :class:`RefusedError`."""
    assert isinstance(error, RefusedError)  # noqa: S101  (registered for nothing else)
    return refusal_response(error)


async def on_malformed(_request: Request, error: Exception) -> Response:
    """Answer a message that is not what the protocol says."""
    assert isinstance(error, MalformedMessageError)  # noqa: S101  (registered for nothing else)
    status = 413 if isinstance(error, TooLargeError) else 400
    return message_response(Refusal("malformed", error.problem, error.remedy), status)


async def on_http(_request: Request, error: Exception) -> Response:
    """Answer an unknown path or method like every other refusal."""
    assert isinstance(error, HTTPException)  # noqa: S101  (registered for nothing else)
    response = message_response(Refusal("no_such_route", error.detail), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def on_gone(_request: Request, _error: Exception) -> Response:
    """Answer a peer that left in the middle of its body: nobody reads it, nothing failed here."""
    return message_response(Refusal("cut_short", "the request's body ended early"), 400)


async def on_failure(request: Request, error: Exception) -> Response:
    """Answer what should never happen; the log has the rest, the peer learns nothing."""
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return message_response(Refusal("internal", "the server failed; its log says why"), 500)
