"""Packages' whole life on booted hosts, with the power cut in the middle of each step.

A power cut kills every process of the host at one instant and boots the same root again. What was
written stays, as it would with a disk that lies about nothing: a disk's own losses are not shown.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.e2e.hosts import Host, wait
from tests.e2e.sites import RECORDED, Site, active, append, enroll, failures, search, wait_active

MINE = "# mine"
_UNITS = {"sib-server": "sib-server.service", "sib-agent": "sib-agent.service"}
_SETTINGS = {"sib-server": "/etc/sib/server.yaml", "sib-agent": "/etc/sib/agent.yaml"}


@dataclass(frozen=True)
class Step:
    """What is done to a package.

    Attributes:
        name: one word.
        command: for sh, with {package} in it.
        installed: whether the package is there afterwards.
    """

    name: str
    command: str
    installed: bool = True


CONFIGURE = {
    # 11: done, but something is worth a look.
    "sib-server": Step("configure", "sib-server setup || [ $? -eq 11 ]"),
    "sib-agent": Step("configure", "sib-agent setup"),
}
UPGRADE = Step("upgrade", "dpkg -i /root/new/{package}_*.deb")
DOWNGRADE = Step("downgrade", "dpkg -i /root/old/{package}_*.deb")
REMOVE = Step("remove", "dpkg -r {package}", installed=False)
REINSTALL = Step("reinstall", "dpkg -i /root/new/{package}_*.deb")
MATRIX = (UPGRADE, DOWNGRADE, REMOVE, REINSTALL)
PURGE = Step("purge", "dpkg -P {package}", installed=False)


@dataclass
class Outcome:
    """What a run saw.

    Attributes:
        cuts: steps that were cut.
        in_the_middle: those whose command was still at work.
        log: one line a step.
    """

    cuts: int = 0
    in_the_middle: int = 0
    log: list[str] = field(default_factory=list)


class LifeCycle:
    """One server and one host, and all that may not be lost on them."""

    def __init__(self, place: Site, chance: random.Random, say: Callable[[str], None]) -> None:
        self.server, self.agent = place.server, place.agents[0]
        self.outcome = Outcome()
        self._chance, self._say = chance, say
        self._written = 0
        self._took: dict[tuple[str, str], float] = {}
        self._line = json.loads(RECORDED.read_bytes().splitlines()[0])

    def host(self, package: str) -> Host:
        return self.server if package == "sib-server" else self.agent

    def begin(self, older: Path, newer: Path) -> None:
        """Install the older packages, configure, enroll."""
        for package in _UNITS:
            host = self.host(package)
            for name, folder in (("old", older), ("new", newer)):
                (path,) = folder.glob(f"{package}_*.deb")
                target = host.root / "root" / name / path.name
                target.parent.mkdir(exist_ok=True)
                target.write_bytes(path.read_bytes())
            began = time.monotonic()
            self._cut_or_not(Step("install", DOWNGRADE.command), package, cut=True, guess=3.0)
            self._took[package, "install"] = time.monotonic() - began
            host.do("sh", "-c", f"echo '{MINE}' >>{_SETTINGS[package]}")
            self._cut_or_not(CONFIGURE[package], package, cut=True, guess=1.0)
        wait_active(self.server, _UNITS["sib-server"])
        self._enroll()
        wait_active(self.agent, _UNITS["sib-agent"])
        self._identity = self._read_identity()
        self._authority = self.server.do("sib-server", "ca", "show", "--json")
        self.write(20)

    def _enroll(self) -> None:
        """Cut the power while the host joins; then, as people do, paste another line if need be."""
        line = self.server.do("sib-server", "token", "create").strip()
        self._cut(Step("enroll", line), self.agent, guess=1.0)
        joined = self.agent.try_("test", "-e", "/var/lib/sib-agent/identity/current")
        if joined.returncode != 0:
            enroll(self.server, self.agent)

    def _read_identity(self) -> str:
        return self.agent.do("sh", "-c", "cat /var/lib/sib-agent/identity/current/key.pem")

    def write(self, count: int) -> None:
        """Append numbered events on the host."""
        lines = []
        for _ in range(count):
            self._written += 1
            line = {**self._line, "output": f"life cycle {self._written:06d}"}
            lines.append(json.dumps(line).encode() + b"\n")
        append(self.agent, lines)

    def _cut(self, step: Step, host: Host, *, guess: float) -> None:
        """Cut a host's power somewhere in a step, and boot it again."""
        began = host.start("sh", "-c", step.command)
        time.sleep(self._chance.uniform(0.02, guess))
        middle = began.poll() is None
        host.power_cut()
        began.wait(20)
        # Half of a package may be there: its units may fail until the step is repeated.
        host.boot(states=("running", "degraded"))
        self.outcome.cuts += 1
        self.outcome.in_the_middle += middle
        self._note(f"{host.name}: {step.name}, power cut")

    def _cut_or_not(self, step: Step, package: str, *, cut: bool, guess: float) -> None:
        host = self.host(package)
        step = replace(step, command=step.command.format(package=package))
        if cut:
            self._cut(step, host, guess=guess)
            # What an administrator does after that.
            host.try_("dpkg", "--configure", "-a", timeout=120)
        host.do("sh", "-c", step.command, timeout=180)
        self._note(f"{host.name}: {step.name} {package}")

    def _note(self, text: str) -> None:
        self.outcome.log.append(text)
        self._say(text)

    def do(self, step: Step, package: str, *, cut: bool) -> None:
        """Do a step, and look whether all is as promised."""
        self.write(10)
        guess = 1.0 if not step.installed else 0.9 * self._took.get((package, step.name), 3.0)
        began = time.monotonic()
        self._cut_or_not(step, package, cut=cut, guess=guess)
        if not cut:
            self._took[package, step.name] = time.monotonic() - began
        self.write(10)
        host, unit = self.host(package), _UNITS[package]
        if step.installed:
            wait_active(host, unit)
            assert MINE in host.do("cat", _SETTINGS[package])
            wait(f"no failed unit on {host.name}", lambda: failures(host) == "", 20)
        else:
            assert not active(host, unit)
            assert not (host.root / f"usr/lib/{package}").exists()
        assert self._read_identity() == self._identity

    def settle(self) -> None:
        """Every event that was written is found exactly once; the authority is the same."""
        wanted = {f"life cycle {number:06d}" for number in range(1, self._written + 1)}
        wait("every event to arrive", lambda: set(self._found()) >= wanted, 120)
        found = self._found()
        assert found == Counter(wanted)
        assert self.server.do("sib-server", "ca", "show", "--json") == self._authority

    def _found(self) -> Counter[str]:
        texts = [event["event"] for event in search(self.server, "--text", "life cycle ")]
        return Counter(text["output"] for text in texts if isinstance(text, dict))

    def purge(self) -> None:
        """Nothing is left of either package."""
        for package in _UNITS:
            self._cut_or_not(PURGE, package, cut=True, guess=1.0)
            host = self.host(package)
            left = host.do(
                "sh", "-c", "ls -d /var/lib/sib-* /etc/sib /usr/lib/sib-* 2>/dev/null || :"
            )
            assert left == "", left
            units = host.do("sh", "-c", "ls /etc/systemd/system/*.wants/sib-* 2>/dev/null || :")
            assert units == "", units


def run(life: LifeCycle, older: Path, newer: Path, *, whole: bool) -> Outcome:
    """The matrix.

    Args:
        life: the hosts.
        older: folder of the packages to begin with.
        newer: of those to go to.
        whole: do each step also without a cut, not only with one.
    """
    life.begin(older, newer)
    for package in _UNITS:
        for cut in (False, True) if whole else (True,):
            for step in MATRIX:
                life.do(step, package, cut=cut)
        life.settle()
    life.purge()
    return life.outcome
