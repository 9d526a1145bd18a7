from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.checks import Verdict
from sib_protocol.machine import (
    GIB,
    Clock,
    Container,
    Disk,
    Listener,
    Memory,
    judge_clock,
    judge_disk,
    judge_memory,
    judge_port,
    size,
)
from sib_protocol.machine_facts import (
    find_clock,
    find_container,
    find_disk,
    find_listeners,
    find_memory,
    find_units,
)

NOW = datetime(2026, 11, 25, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("total", "verdict"),
    [
        (8 * GIB, Verdict.WELL),
        # What Linux shows of a machine with 4 GiB.
        (4 * GIB * 96 // 100, Verdict.WELL),
        (3 * GIB, Verdict.WARNING),
        (1 * GIB, Verdict.FAILED),
    ],
)
def test_memory(total: int, verdict: Verdict) -> None:
    found = judge_memory(Memory(total, total // 2), least=2 * GIB, enough=4 * GIB, purpose="it")
    assert found.verdict is verdict
    assert size(total) in found.problem
    assert (found.remedy is None) == (verdict is Verdict.WELL)


@pytest.mark.parametrize(
    ("disk", "verdict", "said"),
    [
        (Disk("/x", 100 * GIB, 50 * GIB, 10**6), Verdict.WELL, "50.0 GiB free"),
        (Disk("/x", 100 * GIB, 3 * GIB), Verdict.WARNING, "little"),
        (Disk("/x", 100 * GIB, 1 * GIB), Verdict.FAILED, "too little"),
        (Disk("/x", 100 * GIB, 50 * GIB, 12), Verdict.FAILED, "12 more files"),
        (Disk("/x", 100 * GIB, 50 * GIB, read_only=True), Verdict.FAILED, "read-only"),
        (None, Verdict.SKIPPED, "cannot be looked at"),
    ],
)
def test_disk(disk: Disk | None, verdict: Verdict, said: str) -> None:
    found = judge_disk(disk, least=2 * GIB, enough=4 * GIB, purpose="the journal", check="disk-j")
    assert (found.check, found.verdict) == ("disk-j", verdict)
    assert said in found.problem


@pytest.mark.parametrize(
    ("now", "synchronized", "verdict"),
    [
        (NOW, True, Verdict.WELL),
        (NOW, None, Verdict.WELL),
        (NOW, False, Verdict.WARNING),
        (NOW - timedelta(days=9), True, Verdict.FAILED),
        (NOW.replace(year=2136), True, Verdict.FAILED),
    ],
)
def test_clock(now: datetime, synchronized: bool | None, verdict: Verdict) -> None:
    built = NOW - timedelta(days=1)
    assert judge_clock(Clock(now, synchronized, built)).verdict is verdict


def test_a_port_may_have_its_own_service_and_nobody_else() -> None:
    def judged(*listeners: Listener, sees_all: bool = True) -> tuple[Verdict, str]:
        found = judge_port(
            9090,
            "127.0.0.1",
            listeners,
            ours={"sib-prometheus.service"},
            setting="stack.prometheus.port",
            sees_all=sees_all,
        )
        return found.verdict, f"{found.problem} {found.remedy}"

    elsewhere = Listener("10.0.0.1", 9090, 7, "x", None)
    ours = Listener("127.0.0.1", 9090, 8, "prometheus", "sib-prometheus.service")
    theirs = Listener("::", 9090, 9, "prometheus", "prometheus.service")
    assert judged()[0] is Verdict.WELL
    assert judged(elsewhere, Listener("127.0.0.1", 9091, 7))[0] is Verdict.WELL
    assert judged(ours) == (Verdict.WELL, "port 9090 has sib-prometheus.service None")
    verdict, text = judged(ours, theirs)
    assert verdict is Verdict.FAILED
    assert "prometheus (process 9 of prometheus.service)" in text
    assert "systemctl disable --now prometheus.service" in text
    assert "stack.prometheus.port" in text
    verdict, text = judged(Listener("::", 9090, 9, "a.out"))
    assert (verdict, "a.out (process 9)" in text) == (Verdict.FAILED, True)
    hidden = Listener("::", 9090)
    assert judged(hidden, sees_all=False)[0] is Verdict.SKIPPED
    assert judged(hidden)[0] is Verdict.FAILED
    found = judge_port(
        9090,
        "127.0.0.1",
        [Listener("127.0.0.1", 9090, uid=998)],
        ours={"sib-prometheus.service"},
        users={998},
        setting="x",
    )
    assert found.problem == "port 9090 has sib-prometheus.service"


@contextmanager
def listening(family: int, address: str) -> Iterator[int]:
    with socket.socket(family) as made:
        made.bind((address, 0))
        made.listen()
        yield int(made.getsockname()[1])


@pytest.mark.parametrize(
    ("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
)
def test_a_real_listener_is_found_with_its_process(family: int, address: str) -> None:
    with listening(family, address) as port:
        (found,) = [listener for listener in find_listeners() if listener.port == port]
        assert (found.address, found.pid) == (address, os.getpid())
        assert found.program == Path("/proc/self/comm").read_text().strip()
    assert not [listener for listener in find_listeners() if listener.port == port]


def test_a_listener_knows_its_unit(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    head = "  sl  local_address rem_address st\n"
    line = "0: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 0 0 4711 1 0\n"
    (tmp_path / "net/tcp").write_text(f"{head}{line} nonsense\n1: xx 0 0A 0 0 0 0 0 1\n")
    for pid, unit in (("7", "system.slice/sib-loki.service"), ("8", "user.slice")):
        (tmp_path / pid / "fd").mkdir(parents=True)
        (tmp_path / pid / "cgroup").write_text(f"1:name=systemd:/x\n0::/{unit}\n")
        (tmp_path / pid / "comm").write_text("loki\n")
    (tmp_path / "7/fd/3").symlink_to("socket:[4711]")
    (tmp_path / "7/fd/4").symlink_to("/dev/null")
    (tmp_path / "self").mkdir()
    assert find_listeners(tmp_path) == [
        Listener("127.0.0.1", 8080, 7, "loki", "sib-loki.service", 0)
    ]


@given(st.binary(max_size=200))
def test_a_strange_proc_is_no_error(tmp_path_factory: pytest.TempPathFactory, raw: bytes) -> None:
    proc = tmp_path_factory.mktemp("proc")
    (proc / "net").mkdir()
    (proc / "net/tcp6").write_bytes(b"head\n" + raw)
    (proc / "meminfo").write_bytes(raw)
    assert find_memory(proc, proc) is None
    for listener in find_listeners(proc):
        assert listener.port >= 0


def test_the_containers_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 8388608 kB\nMemAvailable: 4194304 kB\nX:\n")
    assert find_memory(tmp_path, tmp_path) == Memory(8 * GIB, 4 * GIB)
    (tmp_path / "memory.max").write_text("max\n")
    assert find_memory(tmp_path, tmp_path) == Memory(8 * GIB, 4 * GIB)
    (tmp_path / "memory.max").write_text(f"{GIB}\n")
    assert find_memory(tmp_path, tmp_path) == Memory(GIB, GIB)


@pytest.mark.parametrize(
    ("files", "container"),
    [
        ({}, Container.NONE),
        ({"run/systemd/container": "lxc\n"}, Container.LXC),
        ({"run/systemd/container": "systemd-nspawn\n"}, Container.NSPAWN),
        ({"run/systemd/container": "rkt\n"}, Container.OTHER),
        ({"proc/1/environ": "A=b\0container=lxc-libvirt\0"}, Container.LXC),
        ({".dockerenv": ""}, Container.DOCKER),
        ({"run/.containerenv": ""}, Container.PODMAN),
        ({"proc/sys/kernel/osrelease": "5.15.90.1-Microsoft-standard-WSL2"}, Container.WSL),
        ({"proc/sys/kernel/osrelease": "6.1.0-25-amd64"}, Container.NONE),
    ],
)
def test_container(tmp_path: Path, files: dict[str, str], container: Container) -> None:
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert find_container(tmp_path) is container


def test_units_are_found_with_whether_they_start_at_boot(tmp_path: Path) -> None:
    for name in ("prometheus.service", "grafana-server.service"):
        path = tmp_path / "usr/lib/systemd/system" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "prometheus.service").symlink_to("/usr/lib/systemd/system/prometheus.service")
    names = ("prometheus.service", "grafana-server.service", "loki.service")
    assert find_units(names, tmp_path) == {
        "prometheus.service": True,
        "grafana-server.service": False,
    }


def test_this_machine_can_be_looked_at(tmp_path: Path) -> None:
    memory, disk, clock = find_memory(), find_disk(tmp_path / "not/there"), find_clock()
    assert memory is not None
    assert 0 < memory.available <= memory.total
    assert disk is not None
    assert (disk.path, 0 < disk.free <= disk.total) == (str(tmp_path / "not/there"), True)
    assert clock.built <= clock.now
    assert clock.synchronized in (True, False, None)
    assert find_disk(Path("/proc/self/mem/x")) is None


def test_a_file_system_is_read_only_whatever_its_mounts_are(tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    name = f"{os.major(device)}:{os.minor(device)}"
    (tmp_path / "self").mkdir()
    for options, read_only in (("rw,relatime", False), ("ro,relatime", True)):
        (tmp_path / "self/mountinfo").write_text(
            f"20 1 0:99 / /proc rw - proc proc ro\n"
            f"25 1 {name} / /x ro,nosuid shared:1 - ext4 /dev/vda1 {options}\nodd\n"
        )
        found = find_disk(tmp_path, tmp_path)
        assert found is not None
        assert found.read_only is read_only
