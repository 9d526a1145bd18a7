"""Which components are used, and what of the server's settings follows from that. Pure.

What follows is written to ``server.d/stack.yaml`` by setup. ``server.yaml`` is a person's and is
never written to; what stands in it holds against what is derived.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import msgspec

from sib_protocol.errors import ExitCode, SibError
from sib_server.stack.grafana import Source
from sib_server.stack.layout import Component
from sib_server.stack.loki import loki_url
from sib_server.stack.outputs import Outputs, expectations
from sib_server.stack.prometheus import prometheus_url
from sib_server.stack.settings import StackSettings, Use

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from sib_server.stack.access import StoreAccess

_WRITE_PATH: Final = "/api/v1/write"


class StackSettingsError(SibError):
    """Settings of the stack that cannot be met."""

    exit_code = ExitCode.SETTINGS

    def __init__(self, key: str, reason: str, remedy: str) -> None:
        super().__init__(f"stack.{key}: {reason}", remedy)
        self.key = key


@dataclass(frozen=True, slots=True)
class Store:
    """A store that is used.

    Attributes:
        url: where it is asked, without the API's path.
        write_url: where Prometheus takes remote writes; equal to ``url`` for others.
        tenant: or ``None``.
        access: trust and credentials.
    """

    url: str
    write_url: str
    tenant: str | None
    access: StoreAccess

    def source(self) -> Source:
        """As Grafana asks it."""
        return Source(self.url, self.access, self.tenant)


def resolve_uses(settings: StackSettings, installed: Collection[Component]) -> dict[Component, Use]:
    """What is used of each component: local, external or off.

    Raises:
        StackSettingsError: an external one without an address, or a local one that is not there.
    """
    found = {}
    for component in Component:
        wanted = getattr(settings, component.value)
        use: Use = wanted.use
        if use is Use.AUTO:
            use = Use.LOCAL if component in installed else Use.OFF
        if use is Use.LOCAL and component not in installed:
            raise StackSettingsError(
                f"{component.value}.use",
                f"local, and the package {component.package} is not installed",
                f"install {component.package}, or set it to external or off",
            )
        if use is Use.EXTERNAL and wanted.url is None and component is not Component.GRAFANA:
            raise StackSettingsError(
                f"{component.value}.url",
                "missing, and the use is external",
                "say where it is",
            )
        found[component] = use
    return found


def loki_store(settings: StackSettings, uses: Mapping[Component, Use]) -> Store | None:
    """The Loki that is used, or ``None``."""
    loki = settings.loki
    if uses[Component.LOKI] is Use.LOCAL:
        url = loki_url(loki)
        return Store(url, url, None, _local())
    if uses[Component.LOKI] is Use.EXTERNAL and loki.url is not None:
        url = loki.url.rstrip("/")
        return Store(url, url, loki.tenant, loki.access)
    return None


def metrics_store(settings: StackSettings, uses: Mapping[Component, Use]) -> Store | None:
    """The Prometheus that is used, or ``None``."""
    metrics = settings.prometheus
    if uses[Component.PROMETHEUS] is Use.LOCAL:
        url = prometheus_url(metrics)
        return Store(url, url + _WRITE_PATH, None, _local())
    if uses[Component.PROMETHEUS] is Use.EXTERNAL and metrics.url is not None:
        url = metrics.url.rstrip("/")
        return Store(url, metrics.write_url or url + _WRITE_PATH, metrics.tenant, metrics.access)
    return None


def _local() -> StoreAccess:
    return StackSettings().loki.access


def external_accesses(
    settings: StackSettings, uses: Mapping[Component, Use]
) -> dict[Component, StoreAccess]:
    """Trust and credentials for the stores elsewhere that are used."""
    places = {
        Component.LOKI: settings.loki.access,
        Component.PROMETHEUS: settings.prometheus.access,
        Component.FALCOSIDEKICK: settings.falcosidekick.access,
    }
    return {
        component: access for component, access in places.items() if uses[component] is Use.EXTERNAL
    }


def files_of_grafana(settings: StackSettings, uses: Mapping[Component, Use]) -> list[Path]:
    """Files of the administrator's that the local Grafana has to read."""
    if uses[Component.GRAFANA] is not Use.LOCAL:
        return []
    found = [settings.grafana.certificate_file, settings.grafana.key_file]
    for component, access in external_accesses(settings, uses).items():
        if component is not Component.FALCOSIDEKICK:
            found += [access.ca_file, access.password_file, access.token_file]
            found += [access.certificate_file, access.key_file]
    return [path for path in found if path is not None]


def derived_settings(
    settings: StackSettings, uses: Mapping[Component, Use], outputs: Outputs
) -> dict[str, Any]:
    """What ``server.d/stack.yaml`` says: sinks and push routes for what is used."""
    sinks: dict[str, Any] = {}
    push: dict[str, Any] = {}
    loki = loki_store(settings, uses)
    if loki is not None:
        sinks["loki"] = {"enabled": True, "url": loki.url, **_as_whom(loki, "")}
        push |= {"loki_url": loki.url, **_as_whom(loki, "loki_")}
    metrics = metrics_store(settings, uses)
    if metrics is not None:
        push |= {"metrics_url": metrics.write_url, **_as_whom(metrics, "metrics_")}
    falcosidekick = settings.falcosidekick
    if uses[Component.FALCOSIDEKICK] is Use.LOCAL:
        sinks["falcosidekick"] = {
            "enabled": True,
            "url": f"http://127.0.0.1:{falcosidekick.port}",
            **_pace(outputs),
        }
    elif uses[Component.FALCOSIDEKICK] is Use.EXTERNAL and falcosidekick.url is not None:
        sinks["falcosidekick"] = {
            "enabled": True,
            "url": falcosidekick.url.rstrip("/"),
            **_access("access", falcosidekick.access),
        }
    return {key: value for key, value in (("sinks", sinks), ("push", push)) if value}


def _pace(outputs: Outputs) -> dict[str, Any]:
    """How the sink goes about it: by what each output counts, or by their standing still.

    Without any output the events go there all the same, so that the first output that is set up
    gets what comes then, and not everything since the beginning. There is nothing to wait for.
    """
    if not outputs.enabled and not outputs.broken:
        return {"batch_events": 500, "settle_quiet_seconds": 0.01}
    return {"outputs": expectations(outputs)}


def _as_whom(store: Store, prefix: str) -> dict[str, Any]:
    tenant = {} if store.tenant is None else {f"{prefix}tenant": store.tenant}
    return {**tenant, **_access(f"{prefix}access", store.access)}


def _access(key: str, access: StoreAccess) -> dict[str, Any]:
    set_ = {
        name: str(value)
        for name, value in msgspec.structs.asdict(access).items()
        if value is not None
    }
    return {key: set_} if set_ else {}
