"""The throw-away root, for real: what an act sees, what it cannot reach, what ends it."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

from sib_protocol.drills import linux, sandbox
from sib_protocol.drills.marks import Mark
from sib_protocol.drills.model import Act, Endpoint
from sib_protocol.drills.sandbox import Bounds, IsolationError, Outcome, missing_programs, perform

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made by root alone")
MARK = Mark("0123456789ab", 7)

# Not a fork bomb: where the bound failed, one would take down the machine that finds out.
_MANY = "i=0; while [ $i -lt 150 ]; do sleep 30 & i=$((i + 1)); done; wait"


def said(run: str, **options: object) -> str:
    outcome = perform(Act(run, **options), MARK, Bounds(seconds=20))  # type: ignore[arg-type]
    assert outcome.code == 0, outcome
    return outcome.said


def test_an_act_sees_programs_and_nothing_of_the_host() -> None:
    secret = Path("/root/.sib-drill-secret")
    secret.write_text("x")
    try:
        seen = said("exec >&2; ls -a /root /home /srv; cat /etc/shadow; hostname; env; ls /sys/fs")
    finally:
        secret.unlink()
    assert ".sib-drill-secret" not in seen
    assert "root:*:" in seen
    assert "SIB_DRILL=0123456789ab/7" in seen
    assert "drill\n" in seen


def test_stand_ins_and_other_users() -> None:
    assert (
        said("standin shutdown /opt/x/y\nshutdown -h now\n/opt/x/y\nas 33 id -u >&2\nid -u >&2")
        == "33\n0\n"
    )


def test_what_an_act_writes_is_gone_with_it() -> None:
    def state() -> object:
        return (
            Path("/usr/bin/env").stat().st_mtime_ns,
            sorted(Path("/usr/lib").iterdir()),
            Path("/proc/sys/kernel/core_pattern").read_text(),
        )

    before = state()
    said(
        "echo x >/usr/bin/env; rm -rf /usr/lib/* 2>/dev/null; echo h >/proc/sysrq-trigger",
        setup="echo '|/tmp/x' >/proc/sys/kernel/core_pattern",
    )
    assert state() == before
    assert not list(Path(tempfile.gettempdir()).glob("sib-drill-*"))


@pytest.mark.parametrize("contained", [False, True])
def test_no_process_of_the_host_can_be_reached(contained: bool) -> None:
    victim = subprocess.Popen(["sleep", "60"])
    try:
        said(
            f"kill -9 {victim.pid} 2>/dev/null || :\nkill -9 -1 2>/dev/null || :\n"
            if not contained
            else f"kill -9 {victim.pid} 2>/dev/null || :\n",
            contained=contained,
        )
        seen = said(
            "exec >&2; ls /proc; cat /proc/[0-9]*/comm 2>/dev/null || :", contained=contained
        )
        assert victim.poll() is None
        assert "sleep" not in seen
    finally:
        victim.kill()
        victim.wait()


def test_powers_that_reach_beyond_are_gone() -> None:
    seen = said(
        "exec >&2; mount -t tmpfs x /mnt || echo no mount; mknod /tmp/d b 254 0 || echo no node;"
        "unshare -m true || echo no namespace; grep NoNewPrivs /proc/self/status",
        contained=True,
    )
    for word in ("no mount", "no node", "no namespace", "NoNewPrivs:\t1"):
        assert word in seen


def test_nothing_leads_out_but_loopback_answers() -> None:
    seen = said(
        "for to in 169.254.169.254:80 198.51.100.1:9; do\n"
        "python3 - $to <<'PY'\n"
        "import socket, sys\n"
        "host, port = sys.argv[1].split(':')\n"
        "s = socket.socket(); print(s.connect_ex((host, int(port))), file=sys.stderr)\n"
        "PY\ndone\n",
        listen=(Endpoint("169.254.169.254", 80), Endpoint("127.0.0.1", 53, udp=True)),
    )
    assert seen.split() == ["0", "101"]  # ENETUNREACH


@pytest.mark.parametrize("contained", [False, True])
def test_what_takes_too_long_or_multiplies_is_ended(contained: bool) -> None:
    start = time.monotonic()
    late = perform(
        Act("setsid sleep 1000 & sleep 1000", contained=contained), MARK, Bounds(seconds=0.5)
    )
    assert (late.code, late.ended_by) == (None, "it took longer than 0.5 s")
    bomb = perform(Act(_MANY, contained=contained), MARK, Bounds(20))
    assert bomb.ended_by == "it had more than 64 processes"
    assert time.monotonic() - start < 15
    # What an act leaves behind ends with it.
    perform(Act("(setsid sleep 1234567 &) ; true", contained=contained), MARK)
    running = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    assert "sleep 1234567" not in running.stdout


def test_processes_that_come_and_go_disturb_nothing() -> None:
    """What counts an act's processes looks at folders of /proc that vanish meanwhile."""
    outcome = perform(
        Act("i=0; while [ $i -lt 600 ]; do (exit 0) & (exit 0); i=$((i+1)); done; wait"),
        MARK,
        Bounds(60),
    )
    assert outcome.code == 0


def test_disk_and_output_are_bounded() -> None:
    outcome = perform(
        Act("for i in 1 2 3 4 5 6 7 8; do head -c 15000000 /dev/zero >/tmp/$i; done\nyes >&2"),
        MARK,
        Bounds(20),
    )
    assert outcome.code != 0
    assert len(outcome.said) <= 2000


def test_a_failed_setup_is_told() -> None:
    outcome = perform(Act("true", setup="false"), MARK)
    assert outcome == Outcome(1, "", "its setup failed")


def test_without_isolation_nothing_is_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise OSError(1, "no overlay here")

    monkeypatch.setattr(linux, "mount", refuse)
    witness = tmp_path / "ran"
    with pytest.raises(IsolationError, match="no overlay here"):
        perform(Act(f"touch {witness}"), MARK)
    assert not witness.exists()
    monkeypatch.undo()
    monkeypatch.setattr(sandbox, "standin_program", lambda _: None)
    with pytest.raises(IsolationError, match="no stand-in"):
        perform(Act("true"), MARK)


def test_missing_programs() -> None:
    assert missing_programs(Act("true", needs=("sh", "no-such-thing"))) == ["no-such-thing"]
