"""Every file that ``sib-server setup`` writes, made of settings and a few facts. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import yaml

from sib_protocol.generated import with_header
from sib_server.stack.grafana import (
    certificate_names,
    dashboard_provider,
    data_sources,
    grafana_ini,
    is_open,
)
from sib_server.stack.layout import SERVER_UNIT, SERVER_USER, Component, Layout
from sib_server.stack.loki import loki_config
from sib_server.stack.outputs import Outputs, falcosidekick_config
from sib_server.stack.prometheus import Target, prometheus_config, prometheus_flags
from sib_server.stack.settings import Use
from sib_server.stack.wiring import derived_settings, loki_store, metrics_store

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sib_server.settings import ServerSettings

COMMAND: Final = "sib-server setup"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file as it should be.

    Attributes:
        path: where.
        content: with its header; ``None``: it should not be there.
        group: that may read it.
        unit: that has to be started anew when it changes, or reloaded.
        reload: a reload is enough.
    """

    path: Path
    content: bytes | None
    group: str
    unit: str
    reload: bool = False


@dataclass(frozen=True, slots=True)
class Given:
    """What the files depend on beside settings.

    Attributes:
        uses: of each component.
        outputs: from outputs.yaml.
        server_names: of the server's certificate.
        has_dashboards: whether the server's package brings dashboards.
        home: the dashboard that Grafana begins with, or ``None``.
    """

    uses: Mapping[Component, Use]
    outputs: Outputs
    server_names: Sequence[str]
    has_dashboards: bool
    home: str | None


def wanted_files(
    settings: ServerSettings, layout: Layout, settings_path: Path, given: Given
) -> list[Wanted]:
    """All generated files, in the order in which they are written: a unit's condition last."""
    source = str(settings_path)
    return [
        *_loki(settings, layout, source, given),
        *_prometheus(settings, layout, source, given),
        *_falcosidekick(settings, layout, source, given),
        *_grafana(settings, layout, source, given),
        Wanted(
            settings_path.with_suffix(".d") / "stack.yaml",
            _yaml(derived_settings(settings.stack, given.uses, given.outputs), source),
            SERVER_USER,
            SERVER_UNIT,
        ),
    ]


def _loki(settings: ServerSettings, layout: Layout, source: str, given: Given) -> list[Wanted]:
    content = None
    if given.uses[Component.LOKI] is Use.LOCAL:
        metrics = metrics_store(settings.stack, given.uses)
        # The ruler speaks to a local one only: an external one's credentials are not Loki's.
        local = given.uses[Component.PROMETHEUS] is Use.LOCAL
        write_url = metrics.write_url if metrics is not None and local else None
        tree = loki_config(settings.stack.loki, layout, metrics_write_url=write_url)
        content = _yaml(tree, source)
    return [_file(layout.loki, content, Component.LOKI)]


def _prometheus(
    settings: ServerSettings, layout: Layout, source: str, given: Given
) -> list[Wanted]:
    flags = config = None
    if given.uses[Component.PROMETHEUS] is Use.LOCAL:
        prometheus = settings.stack.prometheus
        flags = _commented(prometheus_flags(prometheus), "#", source)
        targets = scrape_targets(settings, given)
        config = _yaml(prometheus_config(prometheus, layout, targets), source)
    return [
        _file(layout.prometheus_flags, flags, Component.PROMETHEUS),
        _file(layout.prometheus, config, Component.PROMETHEUS, reload=True),
    ]


def scrape_targets(settings: ServerSettings, given: Given) -> list[Target]:
    """The server's programs that have metrics, as the local Prometheus asks them."""
    stack, found = settings.stack, []
    if settings.metrics.port is not None:
        host = settings.metrics.address
        shown = f"[{host}]" if ":" in host else host
        found.append(Target("sib-server", f"{shown}:{settings.metrics.port}"))
    if given.uses[Component.LOKI] is Use.LOCAL:
        found.append(Target("sib-loki", f"127.0.0.1:{stack.loki.port}"))
    if given.uses[Component.FALCOSIDEKICK] is Use.LOCAL:
        found.append(Target("sib-falcosidekick", f"127.0.0.1:{stack.falcosidekick.port}"))
    grafana = stack.grafana
    if given.uses[Component.GRAFANA] is Use.LOCAL and not is_open(grafana):
        host = f"[{grafana.address}]" if ":" in grafana.address else grafana.address
        found.append(Target("sib-grafana", f"{host}:{grafana.port}"))
    return found


def _falcosidekick(
    settings: ServerSettings, layout: Layout, source: str, given: Given
) -> list[Wanted]:
    content = None
    if given.uses[Component.FALCOSIDEKICK] is Use.LOCAL:
        tree = falcosidekick_config(given.outputs, settings.stack.falcosidekick.port)
        content = _yaml(tree, f"{source} and {settings.stack.falcosidekick.outputs}")
    return [_file(layout.falcosidekick, content, Component.FALCOSIDEKICK)]


def _grafana(settings: ServerSettings, layout: Layout, source: str, given: Given) -> list[Wanted]:
    sources = dashboards = ini = None
    if given.uses[Component.GRAFANA] is Use.LOCAL:
        stack = settings.stack
        names = certificate_names(stack.grafana, given.server_names)
        loki, metrics = loki_store(stack, given.uses), metrics_store(stack, given.uses)
        sources = _yaml(
            data_sources(
                None if loki is None else loki.source(),
                None if metrics is None else metrics.source(),
            ),
            source,
        )
        if given.has_dashboards:
            dashboards = _yaml(dashboard_provider(layout), source)
        ini = _commented(grafana_ini(stack.grafana, layout, names, home=given.home), ";", source)
    provisioning = layout.grafana_provisioning
    return [
        _file(provisioning / "datasources" / "sib.yaml", sources, Component.GRAFANA),
        _file(provisioning / "dashboards" / "sib.yaml", dashboards, Component.GRAFANA),
        _file(layout.grafana, ini, Component.GRAFANA),
    ]


def _file(
    path: Path, content: bytes | None, component: Component, *, reload: bool = False
) -> Wanted:
    return Wanted(path, content, component.package, component.unit, reload)


def _yaml(tree: dict[str, Any], source: str) -> bytes:
    return _commented(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), "#", source)


def _commented(body: str, comment: str, source: str) -> bytes:
    return with_header(body, comment=comment, by=COMMAND, source=source)
