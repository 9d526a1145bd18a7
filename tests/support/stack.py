"""Real stores that run on what ``sib-server setup`` writes, started as their units start them."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sib_server.settings_files import load_server_settings
from sib_server.stack.layout import Component, Layout
from sib_server.stack.services import Systemd
from sib_server.stack.settings import Use
from sib_server.stack.setup import Setup, SetupReport
from tests.support.components import ROOT, component, get, post_json
from tests.support.ports import free_port

LOCAL = {
    **dict.fromkeys(Component, Use.OFF),
    Component.LOKI: Use.LOCAL,
    Component.PROMETHEUS: Use.LOCAL,
    Component.FALCOSIDEKICK: Use.LOCAL,
}


def stack_settings(directory: Path) -> dict[str, Any]:
    """Settings under which all of it fits beside others on one machine."""
    return {
        "stack": {
            "loki": {"port": free_port(), "grpc_port": free_port()},
            "prometheus": {"port": free_port(), "scrape_seconds": 5},
            "falcosidekick": {"port": free_port(), "outputs": str(directory / "outputs.yaml")},
        }
    }


def run_setup(directory: Path, main: Path) -> tuple[SetupReport, Layout]:
    """A whole setup of Loki, Prometheus and Falcosidekick below a directory."""
    layout = Layout(
        config=directory / "etc",
        state=directory / "var",
        share=directory / "share",
        ruler=directory / "rules",
    )
    for name in ("sib-loki", "sib-prometheus"):
        (layout.state / name).mkdir(parents=True, exist_ok=True)
    (layout.ruler / "fake").mkdir(parents=True, exist_ok=True)
    # As the package's tmpfiles.d does.
    layout.loki_overrides.parent.mkdir(parents=True, exist_ok=True)
    layout.loki_overrides.write_text("overrides: {}\n")
    with suppress(FileNotFoundError):
        (directory / "outputs.yaml").chmod(0o600)
    setup = Setup(
        settings=load_server_settings(main),
        settings_path=main,
        layout=layout,
        uses=LOCAL,
        server_names=("127.0.0.1", "localhost"),
        systemd=Systemd(directory / "no-systemd-here"),
        owner_of=lambda _group: None,
    )
    return setup.run(), layout


def unit_command(unit: str, layout: Layout) -> list[str]:
    """A unit's command with its environment filled in, for places below a directory."""
    text = (ROOT / "systemd" / unit).read_text()
    found = re.search(r"(?m)^ExecStart=(.*)$", text)
    assert found is not None
    command = found[1]
    for line in layout.prometheus_flags.read_text().splitlines():
        if not line.startswith("#"):
            name, _, value = line.partition("=")
            command = command.replace(f"${{{name}}}", value)
    assert "$" not in command
    usual = Layout()
    for ours, theirs in (
        (str(layout.config), str(usual.config)),
        (f"{layout.state}/sib-", f"{usual.state}/sib-"),
    ):
        command = command.replace(theirs, ours)
    return shlex.split(command)


class Unit:
    """A real program, started with its unit's command on the configuration that setup wrote."""

    def __init__(self, which: Component, layout: Layout, port: int) -> None:
        self.program = component(which.value, which.value)
        self.url = f"http://127.0.0.1:{port}"
        self.command = [str(self.program), *unit_command(which.unit, layout)[1:]]
        self.log = layout.state / f"{which.value}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, is_up: Callable[[str], bool]) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={}
            )
        end = time.monotonic() + 60
        while True:
            try:
                if is_up(self.url):
                    return
            except OSError:
                pass
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < end, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)


def takes_pushes(url: str) -> bool:
    """Loki is ready only 15 s after it takes pushes."""
    content = {"streams": [{"stream": {"up": "1"}, "values": [[str(time.time_ns()), "up"]]}]}
    return post_json(f"{url}/loki/api/v1/push", content)[0] == 204


def is_ready(url: str) -> bool:
    return get(f"{url}/-/ready") != b""


def pings(url: str) -> bool:
    return get(f"{url}/ping") == b"pong\n"
