"""The ASGI application behind the one TLS port."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sib_protocol.errors import MalformedMessageError
from sib_server.errors import RefusedError
from sib_server.listener.answers import on_failure, on_gone, on_http, on_malformed, on_refused

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.routing import Route


def make_application(routes: Iterable[Route]) -> Starlette:
    """An application whose every error is a refusal in the protocol's form."""
    found = list(routes)
    for route in found:
        # Starlette's '$' lets a newline at the path's end through (/v1/ca%0a).
        route.path_regex = re.compile(route.path_regex.pattern.removesuffix("$") + r"\Z")
    application = Starlette(
        routes=found,
        exception_handlers={
            RefusedError: on_refused,
            MalformedMessageError: on_malformed,
            HTTPException: on_http,
            ClientDisconnect: on_gone,
            Exception: on_failure,
        },
    )
    # A path that is almost right is refused, never redirected to one that exists.
    application.router.redirect_slashes = False
    return application
