from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from sib_protocol.errors import FileAccessError
from sib_protocol.generated import Action
from sib_server.pki.authority import Authority
from sib_server.settings_files import load_server_settings
from sib_server.stack.layout import Component, Layout
from sib_server.stack.services import Systemd
from sib_server.stack.settings import Use
from sib_server.stack.setup import Setup, SetupReport

ALL = dict.fromkeys(Component, Use.LOCAL)


class Machine:
    """A machine's directories, and a systemctl that writes down what it was told."""

    def __init__(self, directory: Path, *, booted: bool = True) -> None:
        self.directory = directory
        self.layout = Layout(
            config=directory / "etc",
            state=directory / "var",
            programs=directory / "lib",
            share=directory / "share",
        )
        self.main = self.layout.config / "server.yaml"
        self.main.parent.mkdir(parents=True)
        self.said = ""
        self.say("")
        self.log = directory / "log"
        program = directory / "systemctl"
        program.write_text(f'#!/bin/sh\necho "$*" >>"{self.log}"\n')
        program.chmod(0o755)
        if booted:
            (directory / "run/systemd/system").mkdir(parents=True)
        self.systemd = Systemd(directory, str(program))
        self.names = ("sib.example",)

    def say(self, text: str) -> None:
        self.said = text
        own = (
            f"pki: {{directory: {self.directory}/pki}}\n"
            f"journal: {{path: {self.directory}/journal.db}}\n"
            f"bundles: {{directory: {self.directory}/bundles}}\n"
        )
        self.main.write_text(own + text)

    def make(self, uses: dict[Component, Use] | None = None, *, force: bool = False) -> Setup:
        settings = load_server_settings(self.main)
        falcosidekick = msgspec.structs.replace(
            settings.stack.falcosidekick, outputs=self.layout.config / "outputs.yaml"
        )
        stack = msgspec.structs.replace(settings.stack, falcosidekick=falcosidekick)
        return Setup(
            settings=msgspec.structs.replace(settings, stack=stack),
            settings_path=self.main,
            layout=self.layout,
            uses=ALL if uses is None else uses,
            server_names=self.names,
            systemd=self.systemd,
            force=force,
        )

    def told(self) -> list[str]:
        text = self.log.read_text() if self.log.exists() else ""
        self.log.write_text("")
        return [line for line in text.splitlines() if not line.startswith("is-enabled")]

    def snapshot(self) -> dict[str, tuple[bytes, int, int]]:
        found = {}
        for path in sorted(self.directory.rglob("*")):
            if path.is_file() and path != self.log:
                status = path.stat()
                found[str(path)] = (path.read_bytes(), status.st_mode, status.st_mtime_ns)
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def actions(report: SetupReport) -> dict[str, Action]:
    return {Path(change.path).name: change.action for change in report.files}


def test_a_first_setup_makes_everything_and_a_second_touches_nothing(machine: Machine) -> None:
    report = machine.make().run()
    assert set(actions(report).values()) == {Action.CREATED}
    assert {step.unit for step in report.services} == {
        *(component.unit for component in Component),
        "sib-server.service",
    }
    assert "try-restart --no-block sib-server.service" in machine.told()
    assert report.ca_pin == Authority.load(machine.directory / "pki").pin
    assert (machine.directory / "bundles/metadata/1.root.json").is_file()
    assert report.grafana == "http://127.0.0.1:3000"

    before = machine.snapshot()
    again = machine.make().run()
    assert machine.snapshot() == before
    assert set(actions(again).values()) == {Action.UNCHANGED}
    assert (again.made, again.services, machine.told()) == ([], [], [])
    assert machine.make().plan().files == again.files


def test_modes_keep_secrets_secret(machine: Machine) -> None:
    (machine.layout.config / "outputs.yaml").write_text("slack: {webhookurl: 'https://s/1'}\n")
    machine.say("stack: {grafana: {address: '0.0.0.0'}}\n")
    machine.make().run()
    layout = machine.layout
    for path, mode in (
        (layout.secrets, 0o700),
        (layout.secrets / "grafana-admin-password", 0o600),
        (layout.secrets / "grafana-secret-key", 0o600),
        (layout.falcosidekick, 0o640),
        (layout.grafana_tls, 0o640),
        (layout.grafana_certificate, 0o644),
        (layout.loki, 0o640),
        (layout.config / "server.d/stack.yaml", 0o640),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == mode, path
    password = (layout.secrets / "grafana-admin-password").read_text().strip()
    assert len(password) >= 32
    assert b"PRIVATE" not in layout.grafana_certificate.read_bytes()
    everything = b"".join(
        content for path, (content, _, _) in machine.snapshot().items() if "secrets" not in path
    )
    assert password.encode() not in everything


def test_the_way_to_what_grafana_reads_is_open_to_it_whatever_the_umask(machine: Machine) -> None:
    before = os.umask(0o077)
    try:
        machine.make().run()
    finally:
        os.umask(before)
    place = machine.layout.grafana_provisioning / "datasources"
    while place != machine.layout.config:
        assert stat.S_IMODE(place.stat().st_mode) == 0o755, place
        place = place.parent


def test_a_change_of_settings_changes_what_depends_on_it(machine: Machine) -> None:
    machine.make().run()
    machine.told()
    machine.say("stack: {loki: {retention_days: 7}}\n")
    planned = machine.make().plan()
    before = machine.snapshot()
    assert machine.snapshot() == before, "a dry run changes nothing"
    report = machine.make().run()
    assert planned.files == report.files
    changed = {name for name, action in actions(report).items() if action is Action.UPDATED}
    assert changed == {"loki.yaml"}
    assert machine.told() == ["try-restart --no-block sib-loki.service"]

    machine.say("stack: {prometheus: {scrape_seconds: 60}}\n")
    machine.make().run()
    assert set(machine.told()) == {
        "try-restart --no-block sib-loki.service",
        "try-reload-or-restart --no-block sib-prometheus.service",
    }
    machine.say("stack: {prometheus: {retention_days: 3}}\n")
    machine.make().run()
    assert machine.told() == ["try-restart --no-block sib-prometheus.service"]


def test_the_server_is_restarted_for_its_own_settings(machine: Machine) -> None:
    machine.make().run()
    machine.told()
    machine.say("fleet: {late_after_seconds: 99}\n")
    machine.make().run()
    assert machine.told() == ["try-restart --no-block sib-server.service"]


def test_an_edited_file_is_kept_and_counts_as_it_is(machine: Machine) -> None:
    machine.make().run()
    machine.told()
    loki = machine.layout.loki
    edited = loki.read_bytes() + b"# mine\n"
    loki.write_bytes(edited)
    machine.say("stack: {loki: {retention_days: 7}}\n")
    report = machine.make().run()
    assert report.kept == [str(loki)]
    assert loki.read_bytes() == edited
    assert b"168h" in loki.with_name("loki.yaml.new").read_bytes()
    # What runs is to run with the edit.
    assert machine.told() == ["try-restart --no-block sib-loki.service"]
    before = machine.snapshot()
    machine.make().run()
    assert machine.snapshot() == before
    assert machine.told() == []

    report = machine.make(force=True).run()
    assert actions(report)["loki.yaml"] is Action.REPLACED
    assert b"168h" in loki.read_bytes()
    assert loki.with_name("loki.yaml.old").read_bytes() == edited
    assert not loki.with_name("loki.yaml.new").exists()


def test_what_is_not_used_any_more_goes_and_is_stopped(machine: Machine) -> None:
    machine.make().run()
    machine.told()
    provisioning = machine.layout.grafana_provisioning / "datasources/sib.yaml"
    provisioning.write_text("mine")
    off = {**ALL, Component.GRAFANA: Use.OFF, Component.LOKI: Use.EXTERNAL}
    planned = machine.make(off).plan()
    assert machine.layout.grafana.exists()
    report = machine.make(off).run()
    assert planned.files == report.files
    gone = {name for name, action in actions(report).items() if action is Action.REMOVED}
    assert gone == {"grafana.ini", "loki.yaml"}
    assert report.kept == [str(provisioning)]
    assert provisioning.read_text() == "mine"
    told = machine.told()
    assert "stop --no-block sib-grafana.service" in told
    assert "stop --no-block sib-loki.service" in told
    assert machine.make(off).run().services == []
    machine.make(off, force=True).run()
    assert not provisioning.exists()
    machine.make().run()
    assert "start --no-block sib-loki.service" in machine.told()


def test_a_broken_outputs_file_keeps_what_worked(machine: Machine) -> None:
    outputs = machine.layout.config / "outputs.yaml"
    outputs.write_text("webhook: {address: 'http://127.0.0.1:9'}\n")
    (finding,) = machine.make().run().findings
    assert "not only root can read it" in finding.problem
    outputs.chmod(0o600)
    assert machine.make().run().findings == []
    worked = machine.layout.falcosidekick.read_bytes()
    assert b"http://127.0.0.1:9" in worked
    outputs.write_text("webhok: {address: 'http://127.0.0.1:9'}\n")
    machine.told()
    (finding,) = machine.make().run().findings
    assert "webhok" in finding.problem
    assert machine.layout.falcosidekick.read_bytes() == worked
    assert not [line for line in machine.told() if "falcosidekick" in line]
    # And where nothing worked before, it runs without outputs.
    machine.layout.falcosidekick.unlink()
    machine.make().run()
    assert b"webh" not in machine.layout.falcosidekick.read_bytes()


def test_a_store_elsewhere_whose_secret_cannot_be_read_changes_nothing(machine: Machine) -> None:
    machine.make().run()
    before = machine.snapshot()
    machine.say(
        "stack: {loki: {use: external, url: 'https://l', access: {token_file: /no/token}}}\n"
    )
    uses = {**ALL, Component.LOKI: Use.EXTERNAL}
    with pytest.raises(FileAccessError, match="/no/token"):
        machine.make(uses).run()
    after = machine.snapshot()
    del before[str(machine.main)], after[str(machine.main)]
    assert after == before


def test_files_that_grafana_cannot_read_are_told(machine: Machine) -> None:
    token = machine.directory / "token"
    token.write_text("t")
    machine.say(
        f"stack: {{loki: {{use: external, url: 'https://l', access: {{token_file: {token}}}}},"
        " grafana: {address: '::', certificate_file: /no/certificate}}\n"
    )
    (finding,) = machine.make({**ALL, Component.LOKI: Use.EXTERNAL}).run().findings
    assert "/no/certificate" in finding.problem
    assert machine.make({**ALL, Component.GRAFANA: Use.OFF}).run().findings == []


def test_an_unreadable_outputs_file_is_told(machine: Machine) -> None:
    (machine.layout.config / "outputs.yaml").mkdir()
    with pytest.raises(FileAccessError, match=r"outputs\.yaml"):
        machine.make().run()


def test_a_damaged_memory_of_what_was_applied_is_made_anew(machine: Machine) -> None:
    machine.make().run()
    good = machine.layout.applied.read_bytes()
    machine.layout.applied.write_bytes(b"{")
    assert machine.make().run().services
    assert machine.layout.applied.read_bytes() == good


def test_a_setup_that_was_killed_before_it_told_systemd_is_made_good(machine: Machine) -> None:
    machine.make().run()
    machine.say("stack: {loki: {retention_days: 7}}\n")
    memory = machine.layout.applied.read_bytes()
    machine.make().run()
    machine.layout.applied.write_bytes(memory)
    machine.told()
    assert [step.unit for step in machine.make().run().services] == ["sib-loki.service"]


def test_dashboards_are_provided_once_they_are_there(machine: Machine) -> None:
    machine.make().run()
    provider = machine.layout.grafana_provisioning / "dashboards/sib.yaml"
    assert not provider.exists()
    machine.layout.dashboards.mkdir(parents=True)
    (machine.layout.dashboards / "overview.json").write_text("{}")
    machine.make().run()
    assert str(machine.layout.dashboards) in provider.read_text()
    assert "overview.json" in machine.layout.grafana.read_text()


def test_a_certificate_is_made_when_grafana_is_opened_and_renewed_when_due(
    machine: Machine,
) -> None:
    machine.make().run()
    assert not machine.layout.grafana_tls.exists()
    assert machine.make().renew() == []
    machine.say("stack: {grafana: {address: '::'}}\n")
    assert str(machine.layout.grafana_tls) in machine.make().plan().made
    report = machine.make().run()
    assert str(machine.layout.grafana_tls) in report.made
    assert report.grafana == "https://sib.example:3000"
    assert machine.make().renew() == []
    machine.names = ("new.example",)
    assert machine.make().renew() == [str(machine.layout.grafana_tls)]
    machine.say(
        "stack: {grafana: {address: '::', certificate_file: /my/cert, key_file: /my/key}}\n"
    )
    machine.names = ("newer.example",)
    assert machine.make().renew() == []
    assert {item.check for item in machine.make().run().findings} == {"grafana-files"}
    assert "cert_key = /my/key" in machine.layout.grafana.read_text()


def test_without_systemd_nothing_is_told(tmp_path: Path) -> None:
    machine = Machine(tmp_path, booted=False)
    assert machine.make().run().services == []
    assert not machine.log.exists()


def test_a_systemctl_that_fails_is_no_failure_of_setup(machine: Machine) -> None:
    (machine.directory / "systemctl").write_text("#!/bin/sh\nexit 1\n")
    assert machine.make().run().services == []
    machine.systemd = Systemd(machine.directory, "/no/such/program")
    machine.say("fleet: {late_after_seconds: 99}\n")
    assert machine.make().run().services == []


_STEPS = st.sampled_from(
    [
        "stack: {loki: {retention_days: 7}}\n",
        "stack: {loki: {use: 'off'}}\n",
        "stack: {grafana: {address: '::'}}\n",
        "stack: {prometheus: {use: 'off'}, falcosidekick: {port: 2802}}\n",
        "",
    ]
)


@examples(max_examples=12, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.lists(st.tuples(_STEPS, st.booleans()), min_size=1, max_size=5))
def test_after_any_history_a_further_setup_changes_nothing_and_no_edit_is_lost(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, bool]]
) -> None:
    machine = Machine(tmp_path_factory.mktemp("machine"))
    edits: dict[Path, bytes] = {}
    for text, edit in history:
        machine.say(text)
        setup = machine.make()
        uses = {
            component: Use.OFF
            if getattr(setup.settings.stack, component.value).use is Use.OFF
            else Use.LOCAL
            for component in Component
        }
        replace(setup, uses=uses).run()
        before = machine.snapshot()
        report = replace(machine.make(), uses=uses).run()
        assert machine.snapshot() == before
        assert report.services == []
        for path, content in edits.items():
            assert path.read_bytes() == content
        if edit and machine.layout.loki.exists() and machine.layout.loki not in edits:
            edits[machine.layout.loki] = machine.layout.loki.read_bytes() + b"# mine\n"
            machine.layout.loki.write_bytes(edits[machine.layout.loki])
