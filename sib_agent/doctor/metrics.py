"""What Falco and Alloy say of themselves on loopback, and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
import urllib3
from prometheus_client.parser import text_string_to_metric_families
from urllib3.exceptions import HTTPError

from sib_protocol.checks import Finding, failed, skipped, warning, well
from sib_protocol.errors import UNDECODABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

_SECONDS: Final = 5.0
_MAX_BYTES: Final = 8 * 1024 * 1024
EVENTS: Final = "falcosecurity_scap_n_evts_total"
DROPS: Final = "falcosecurity_scap_n_drops_total"
QUEUE_DROPS: Final = "falcosecurity_falco_outputs_queue_num_drops_total"
_DROPPED_SHARE: Final = 0.001
LOGS_DROPPED: Final = "loki_write_dropped_entries_total"
SAMPLES_FAILED: Final = "prometheus_remote_storage_samples_failed_total"


class ComponentHealth(msgspec.Struct, frozen=True):
    """How a component of Alloy's is."""

    state: str = ""
    message: str = ""


class Component(msgspec.Struct, frozen=True):
    """One component of Alloy's configuration.

    Attributes:
        local_id: like ``loki.write.server``.
        health: as Alloy says.
    """

    local_id: str = msgspec.field(name="localID", default="")
    health: ComponentHealth = ComponentHealth()


def fetch(url: str) -> bytes | None:
    """A page on loopback; ``None`` where nobody answers well."""
    pool = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(total=_SECONDS))
    try:
        answer = pool.request("GET", url, preload_content=False, redirect=False)
        try:
            body = answer.read(_MAX_BYTES, decode_content=True)
        finally:
            answer.close()
    except (HTTPError, OSError):
        return None
    finally:
        pool.clear()
    return body if answer.status == 200 else None


def read_metrics(page: bytes) -> dict[str, float]:
    """The sum of each metric's samples over all labels. Pure; what is no metric is left out."""
    sums: dict[str, float] = {}
    try:
        for family in text_string_to_metric_families(page.decode("utf-8", "replace")):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + float(sample.value)
    except (ValueError, KeyError, IndexError):
        return sums
    return sums


def read_components(page: bytes) -> list[Component] | None:
    """Alloy's components, from its page; ``None`` where it is another one. Pure."""
    try:
        return msgspec.json.decode(page, type=list[Component])
    except UNDECODABLE:
        return None


def judge_falco_metrics(page: bytes | None, port: int) -> Finding:
    """Whether Falco loses what it should see. Pure."""
    if page is None:
        return failed(
            "falco",
            f"Falco does not answer on 127.0.0.1 port {port}",
            "systemctl status sib-falco; sib-agent logs falco",
        )
    values = read_metrics(page)
    seen, dropped = values.get(EVENTS, 0.0), values.get(DROPS, 0.0)
    waiting = values.get(QUEUE_DROPS, 0.0)
    if waiting:
        return warning(
            "falco",
            f"Falco dropped {waiting:.0f} alerts that waited to be written",
            "tune the rule that fires most (sib-server events count --by rule), or raise"
            " falco.queue_capacity",
        )
    share = dropped / (seen + dropped) if seen + dropped else 0.0
    told = f"{seen:.0f} system calls seen, {dropped:.0f} lost"
    if share > _DROPPED_SHARE:
        return warning(
            "falco",
            f"{told} ({share:.1%})",
            "raise falco.buffer_preset by one, run 'sib-agent setup' and look again",
        )
    return well("falco", told)


def judge_alloy(
    components: Sequence[Component] | None, metrics: bytes | None, listen: str
) -> list[Finding]:
    """Whether Alloy's parts work and its pushes arrive. Pure."""
    if components is None:
        return [
            failed(
                "alloy",
                f"Alloy does not answer at {listen}",
                "systemctl status sib-alloy; sib-agent logs alloy",
            )
        ]
    ill = [item for item in components if item.health.state not in ("healthy", "")]
    findings = [
        failed(
            "alloy",
            f"{item.local_id} is {item.health.state}: {item.health.message}",
            "sib-agent logs alloy; 'sib-agent setup' writes its configuration anew",
        )
        for item in ill
    ]
    if not ill:
        findings.append(well("alloy", f"{len(components)} components are healthy"))
    if metrics is None:
        return [*findings, skipped("pushes", "Alloy's metrics cannot be read")]
    values = read_metrics(metrics)
    lost = values.get(LOGS_DROPPED, 0.0) + values.get(SAMPLES_FAILED, 0.0)
    if lost:
        told = (
            f"{values.get(LOGS_DROPPED, 0.0):.0f} log lines and"
            f" {values.get(SAMPLES_FAILED, 0.0):.0f} samples were refused since Alloy's start"
        )
        findings.append(
            warning("pushes", told, "sib-agent logs alloy says why; see the server's push settings")
        )
    else:
        findings.append(well("pushes", "nothing was refused"))
    return findings
