"""Refusals: errors that an agent is told of, with an HTTP status and a fixed word for programs."""

from __future__ import annotations

from typing import ClassVar

from sib_protocol.errors import ExitCode, SibError
from sib_protocol.messages import Refusal


class RefusedError(SibError):
    """A request that the server does not fulfil.

    Attributes:
        code: a short fixed word for programs; part of the protocol, never given a new meaning.
        status: the HTTP status of the answer.
        retry_after: seconds after which another try makes sense, or ``None``.
    """

    exit_code = ExitCode.REFUSED
    code: ClassVar[str] = "refused"
    status: ClassVar[int] = 403

    def __init__(
        self, problem: str, remedy: str | None = None, *, retry_after: float | None = None
    ) -> None:
        super().__init__(problem, remedy)
        self.retry_after = retry_after

    def refusal(self) -> Refusal:
        """The body of the HTTP answer."""
        return Refusal(error=self.code, problem=self.problem, remedy=self.remedy)


class BadRequestError(RefusedError):
    """A request whose content cannot be used."""

    code = "bad_request"
    status = 400


class TooManyAttemptsError(RefusedError):
    """Too many attempts in too short a time."""

    code = "too_many_attempts"
    status = 429

    def __init__(self, what: str, wait: float) -> None:
        super().__init__(
            f"too many {what}: the next one is looked at in {wait:.0f} s",
            "wait and try again",
            retry_after=wait,
        )
