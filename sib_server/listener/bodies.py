"""Reading a request's body: bounded in size, in time, and in what all of them take together."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

from sib_server.errors import RefusedError

if TYPE_CHECKING:
    from types import TracebackType

    from starlette.requests import Request


class BodyTooLargeError(RefusedError):
    """A body over its limit."""

    code = "too_large"
    status = 413

    def __init__(self, limit: int) -> None:
        super().__init__(f"the request's body is larger than the {limit} bytes allowed")
        self.limit = limit


class BodyTooSlowError(RefusedError):
    """A body that comes more slowly than a working network would bring it."""

    code = "too_slow"
    status = 408

    def __init__(self) -> None:
        super().__init__("the request's body came too slowly")


class SenderGoneError(RefusedError):
    """A body whose sender hung up in the middle: killed, cut off, or tired of waiting."""

    code = "sender_gone"
    status = 400

    def __init__(self) -> None:
        super().__init__("the connection ended before the request's body did")


class OverloadedError(RefusedError):
    """The server holds as many bodies as it may."""

    code = "overloaded"
    status = 503

    def __init__(self) -> None:
        super().__init__("the server is busy", "send it again a little later", retry_after=1.0)


@dataclass(frozen=True, slots=True)
class BodyPace:
    """How slowly a body may come.

    Attributes:
        patience_seconds: how long it may stand still, in all.
        bytes_per_second: what counts as moving.
    """

    patience_seconds: float = 10.0
    bytes_per_second: int = 16 * 1024


class MemoryBudget:
    """What all bodies in memory may take together; asyncio only, so no lock.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.used = 0

    def share(self) -> BudgetShare:
        """One request's share, given back when its ``with`` ends."""
        return BudgetShare(self)

    def take(self, size: int) -> None:
        """Raises OverloadedError if there is not so much left."""
        # One request always has room, or a limit below its size would lock it out for ever.
        if self.used and self.used + size > self._limit:
            raise OverloadedError
        self.used += size

    def give(self, size: int) -> None:
        """Give back what was taken."""
        self.used -= size


class BudgetShare:
    """What one request has taken of a budget."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._taken = 0

    def __enter__(self) -> BudgetShare:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._budget.give(self._taken)
        self._taken = 0

    def take(self, size: int) -> None:
        """Take more. Raises OverloadedError."""
        self._budget.take(size)
        self._taken += size


async def read_body(
    request: Request, limit: int, *, pace: BodyPace | None = None, share: BudgetShare | None = None
) -> bytes:
    """The whole body.

    Args:
        request: not yet read from.
        limit: bytes; more is never held.
        pace: see :class:`BodyPace`.
        share: charged for what is read.

    Raises:
        BodyTooLargeError: it is larger, or says that it will be.
        BodyTooSlowError: it comes too slowly.
        OverloadedError: the share's budget has no more.
        SenderGoneError: the connection ended before it.
    """
    pace = pace or BodyPace()
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > limit:
        raise BodyTooLargeError(limit)
    loop = asyncio.get_running_loop()
    start = loop.time()
    body = bytearray()
    try:
        async with asyncio.timeout_at(start + pace.patience_seconds) as deadline:
            async for chunk in request.stream():
                if len(body) + len(chunk) > limit:
                    raise BodyTooLargeError(limit)
                if share is not None:
                    share.take(len(chunk))
                body += chunk
                deadline.reschedule(
                    start + pace.patience_seconds + len(body) / pace.bytes_per_second
                )
    except TimeoutError as error:
        raise BodyTooSlowError from error
    except ClientDisconnect as error:
        raise SenderGoneError from error
    return bytes(body)
