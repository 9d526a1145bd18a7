"""Slow peers and thousands of them against a real server process."""

from __future__ import annotations

import resource
import select
import socket
import ssl
import threading
import time
from contextlib import suppress

import pytest

from sib_protocol.ids import new_stream_id
from tests.support.lab import Agent, Server, event_line, number_of
from tests.support.proxy import wait_for
from tests.support.wire import (
    LOKI,
    STREAM,
    Attacker,
    connect,
    fresh,
    resident_bytes,
)

pytestmark = pytest.mark.timeout(180)


# --- slow peers and many of them -------------------------------------------------------------


def test_slow_peers_are_cut_off(attacker: Attacker) -> None:
    host = fresh(attacker)
    never = attacker.plain()
    partial = attacker.plain()
    partial.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")
    head = attacker.wire()
    head.send(b"GET /v1/ca HTTP/1.1\r\nX: ")
    later_head = attacker.wire(host)
    assert later_head.ask("GET", "/v1/ca").status == 200
    later_head.send(b"GET /v1/ca HTTP/1.1\r\nX: ")
    body = attacker.wire(host)
    path = STREAM.format(new_stream_id(), 0)
    body.send(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
    push = attacker.wire(host)
    push.send(f"POST {LOKI} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n".encode())
    unread = attacker.wire()
    unread.send(b"GET /v1/ca HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n")
    answered = unread.answer()
    assert answered is not None
    assert answered.status == 200
    idle = attacker.wire()
    assert idle.ask("GET", "/v1/ca").status == 200
    resting = attacker.wire(host)
    assert resting.ask("GET", "/v1/ca").status == 200

    dripping = [partial, head, later_head, body, push, unread]
    start = time.monotonic()
    ended: dict[int, float] = {}
    while time.monotonic() - start < 14:
        for wire in dripping:
            if id(wire) not in ended:
                try:
                    wire.send(b"x")
                except (ConnectionError, ssl.SSLError):
                    ended[id(wire)] = time.monotonic() - start
        time.sleep(0.25)
    for name, wire, status in (("body", body, 408), ("push", push, 408)):
        answer = wire.answer()
        # The answer may be lost behind bytes that came after the server had closed.
        assert answer is None or answer.status == status, name
    places = {id(wire): number for number, wire in enumerate(dripping)}
    missing = [number for key, number in places.items() if key not in ended]
    assert not missing, f"still connected: {missing}"
    assert max(ended.values()) < 13.5
    assert never.hung_up(1)
    assert idle.hung_up(1)
    # A host's own connection may rest.
    assert resting.ask("GET", "/v1/ca").status == 200


def test_one_host_and_one_stranger_have_so_many_connections_and_no_more(
    attacker: Attacker,
) -> None:
    host, other = fresh(attacker), fresh(attacker)
    mine = [attacker.wire(host) for _ in range(100)]
    alive = sum(wire.try_ask("GET", f"/v1/streams/{new_stream_id()}") is not None for wire in mine)
    assert alive == 32
    assert attacker.wire(other).deliver(new_stream_id(), 0, b"x").status == 200
    strangers = [attacker.wire() for _ in range(100)]
    alive = sum(wire.try_ask("GET", "/v1/ca") is not None for wire in strangers)
    assert alive <= 64
    assert attacker.wire(other).deliver(new_stream_id(), 0, b"x").status == 200
    attacker.close()
    wait_for("room again", lambda: attacker.wire(host).try_ask("GET", "/v1/ca") is not None, 10)


IDLE = 10_000
MEMORY_BOUND = 192 * 2**20
"""What 10,000 idle connections may cost the server, beyond what it takes at rest."""


def test_ten_thousand_idle_connections_stop_no_agent(server: Server, agent: Agent) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < IDLE + 1000:
        pytest.skip(f"needs {IDLE + 1000} open files, the hard limit is {hard}: raise it")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    attacker = Attacker(server)
    known = attacker.enroll("known-1")
    agent.start()
    agent.append(event_line(0))
    wait_for("the first line", lambda: len(server.lines()) == 1, 20)
    assert server.process is not None
    pid = server.process.pid
    before = resident_bytes(pid)

    idle: list[socket.socket] = []
    worst = before
    written = 1
    stop = threading.Event()

    def greet() -> None:
        # Some of them do end their handshake, and then rest.
        while not stop.is_set():
            with suppress(OSError):
                attacker.wire()

    greeting = threading.Thread(target=greet)
    greeting.start()
    start = time.monotonic()
    try:
        for number in range(IDLE):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", server.port))
            idle.append(one)
            if number % 250 == 0:
                worst = max(worst, resident_bytes(pid))
                agent.append(event_line(written))
                written += 1
        opened = time.monotonic() - start
        # All at once, and kept up for a while: those that were cut off come again.
        end = time.monotonic() + 15
        while time.monotonic() < end:
            worst = max(worst, resident_bytes(pid))
            agent.append(event_line(written))
            written += 1
            watched = select.poll()
            for one in idle:
                watched.register(one, select.POLLIN | select.POLLHUP | select.POLLERR)
            gone = {fd for fd, _ in watched.poll(0)}
            for place, one in enumerate(idle):
                if one.fileno() in gone:
                    one.close()
                    again = socket.socket()
                    again.setblocking(False)
                    again.connect_ex(("127.0.0.1", server.port))
                    idle[place] = again
            time.sleep(0.25)
        assert len(idle) == IDLE
        wait_for("every line", lambda: len(server.lines()) == written, 30)
        asked = time.monotonic()
        context = known.context(attacker.ca)
        late = connect(server.port, context, seconds=40)
        assert late.deliver(new_stream_id(), 0, b"let in").status == 200
        waited = time.monotonic() - asked
        late.close()
    finally:
        stop.set()
        greeting.join(30)
        for one in idle:
            one.close()
        attacker.close()
    found = sorted(number_of(line) for line in server.lines() if line.startswith(b"{"))
    assert found == list(range(written))
    print(
        f"{IDLE} idle connections (opened in {opened:.1f} s): resident {before / 2**20:.1f} MiB"
        f" before, {worst / 2**20:.1f} MiB at most, {resident_bytes(pid) / 2**20:.1f} MiB at the"
        f" end; a known host got in after {waited:.2f} s"
    )
    assert worst - before < MEMORY_BOUND
    assert agent.status()["state"] == "well"
