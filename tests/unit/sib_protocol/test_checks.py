from __future__ import annotations

from pathlib import Path

import click
from click.testing import CliRunner

from sib_protocol.checks import (
    Verdict,
    exit_code,
    failed,
    failed_by,
    skipped,
    summary,
    warning,
    well,
)
from sib_protocol.console import print_findings
from sib_protocol.errors import ExitCode, FileAccessError

FINDINGS = [
    well("kernel", "Linux 6.1"),
    warning("memory", "2 GiB of memory", "give the machine 4 GiB"),
    failed("port", "port 8443 is taken by nginx", "choose another: listen.port"),
    skipped("btf", "not looked at: no root"),
]


def test_only_a_failure_fails() -> None:
    assert exit_code(FINDINGS[:2]) is ExitCode.OK
    assert exit_code(FINDINGS) is ExitCode.INCOMPLETE
    assert summary(FINDINGS) == "1 well, 1 warning, 1 failed, 1 skipped"


def test_an_error_keeps_its_remedy() -> None:
    found = failed_by("file", FileAccessError(Path("/x"), "gone", "put it back"))
    assert (found.verdict, found.problem, found.remedy) == (
        Verdict.FAILED,
        "/x: gone",
        "put it back",
    )


def test_findings_are_shown_with_what_to_do_and_without_colours_in_a_pipe() -> None:
    command = click.Command("x", callback=lambda: print_findings(FINDINGS))
    shown = CliRunner().invoke(command).output
    assert shown.splitlines() == [
        "well     kernel  Linux 6.1",
        "warning  memory  2 GiB of memory",
        "                 try: give the machine 4 GiB",
        "failed   port    port 8443 is taken by nginx",
        "                 try: choose another: listen.port",
        "skipped  btf     not looked at: no root",
        "1 well, 1 warning, 1 failed, 1 skipped",
    ]
