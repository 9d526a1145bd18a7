from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from sib_server.application import make_application
from sib_server.listener.bodies import read_body


def test_a_sender_that_hangs_up_is_no_failure_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    sent: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": b"half of", "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(dict(message))

    async def take(request: Request) -> Response:
        return Response(await read_body(request, 1000))

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "raw_path": b"/x",
        "query_string": b"",
        "root_path": "",
        "scheme": "https",
        "headers": [(b"content-length", b"20")],
        "server": ("127.0.0.1", 1),
        "client": ("127.0.0.1", 2),
        "http_version": "1.1",
    }
    application = make_application([Route("/x", take, methods=["POST"])])
    with caplog.at_level(logging.INFO):
        asyncio.run(application(scope, receive, send))
    assert [message.get("status") for message in sent] == [400, None]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
