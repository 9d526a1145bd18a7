"""The bill of materials of a package: CycloneDX 1.5, as JSON. Pure."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone


@dataclass(frozen=True, slots=True)
class Material:
    """One thing that is in a package.

    Attributes:
        name: as its project calls it.
        version: its own.
        purl: package URL.
        licence: SPDX expression or what its metadata says; '' where that says nothing.
        sha256: of the archive it came in, or '' where it was given without one.
    """

    name: str
    version: str
    purl: str
    licence: str
    sha256: str


def render(package: str, version: str, materials: Sequence[Material], epoch: int) -> str:
    """The document, the same for the same arguments."""
    components = [_component(material) for material in materials]
    named = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps([package, version, components]))
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{named}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, tz=timezone.utc).isoformat(),
            "component": {"type": "application", "name": package, "version": version},
        },
        "components": components,
    }
    return json.dumps(document, indent=1) + "\n"


def _component(material: Material) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "library"
        if material.purl.startswith(("pkg:pypi/", "pkg:golang/"))
        else "application",
        "bom-ref": material.purl,
        "name": material.name,
        "version": material.version,
        "purl": material.purl,
    }
    if material.licence:
        entry["licenses"] = [{"license": {"name": material.licence}}]
    if material.sha256:
        entry["hashes"] = [{"alg": "SHA-256", "content": material.sha256}]
    return entry
