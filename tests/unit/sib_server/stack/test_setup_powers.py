"""What setup tells systemd, and what it does as another user."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sib_protocol.errors import ExitCode, FileAccessError, SibError
from sib_server.stack.services import Marks, ServiceStep, Step, decide_steps
from sib_server.stack.unprivileged import User, find_user, run_as


def test_what_each_unit_is_told() -> None:
    a, b, c = Marks("1", "1"), Marks("2", "1"), Marks("1", "2")
    assert decide_steps({}, {"x": a, "y": None, "sib-server.service": a}) == [
        ServiceStep("x", Step.START),
        ServiceStep("sib-server.service", Step.RESTART),
    ]
    assert decide_steps({"x": a, "y": a, "z": a}, {"x": a, "y": b, "z": c}) == [
        ServiceStep("y", Step.RESTART),
        ServiceStep("z", Step.RELOAD),
    ]
    assert decide_steps({"x": a}, {"x": None}) == [ServiceStep("x", Step.STOP)]


def _who() -> list[int]:
    return [os.getuid(), os.getgid(), len(os.getgroups())]


def _refuse() -> list[int]:
    raise FileAccessError(Path("/x"), "no", "try")


def _burst() -> list[int]:
    raise ValueError("unexpected")


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
# The command has one thread; the test's runner may have more.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("work", "said"), [(_refuse, "/x: no"), (_burst, "work as user 65534 ended with 70")]
)
def test_another_user_is_really_another(work: Callable[[], Any], said: str) -> None:
    user = User(65534, 65534)
    assert run_as(user, _who, list[int]) == [65534, 65534, 0]
    with pytest.raises(SibError) as caught:
        run_as(user, work, list[int])
    assert caught.value.problem == said
    assert caught.value.exit_code in (ExitCode.FILE_ACCESS, ExitCode.FAILURE)


def test_nobody_else_is_ourselves() -> None:
    assert run_as(None, _who, list[int])[0] == os.getuid()
    root = find_user("root")
    assert root is not None
    assert root.uid == 0
    assert find_user("no-such-user") is None
