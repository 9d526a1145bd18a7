"""From a STIX bundle as MITRE publishes it to the file that SIB ships. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from sib_server.detection.attack.matrix import Matrix, Tactic, Technique

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_SOURCE: Final = "mitre-attack"
_PHASES: Final = "mitre-attack"
_PLATFORMS: Final = frozenset({"Linux", "Containers"})


class BundleError(ValueError):
    """A bundle that is not ATT&CK's for enterprises; the message says why."""


def distill(bundle: Mapping[str, Any], notice: str) -> Matrix:
    """What SIB needs of a bundle.

    Args:
        bundle: decoded STIX 2.0 or 2.1 JSON.
        notice: MITRE's copyright line.

    Raises:
        BundleError: objects are missing or are not what they should be.
    """
    objects = bundle.get("objects")
    if not isinstance(objects, list):
        raise BundleError("it has no objects")
    try:
        tactics = {one["id"]: _tactic(one) for one in _of(objects, "x-mitre-tactic")}
        order = [ref for one in _of(objects, "x-mitre-matrix") for ref in one["tactic_refs"]]
        ordered = [tactics[ref] for ref in dict.fromkeys(order) if ref in tactics]
        techniques = [_technique(one) for one in _of(objects, "attack-pattern")]
        version = str(next(iter(_of(objects, "x-mitre-collection")))["x_mitre_version"])
    except (KeyError, TypeError, StopIteration) as error:
        raise BundleError(f"an object lacks {error}, or there is none of its kind") from error
    if not ordered or not techniques:
        raise BundleError("it has no tactics or no techniques")
    # An id that was given anew is listed twice: what is in force counts.
    by_id: dict[str, Technique] = {}
    for technique in sorted(techniques, key=lambda one: (one.id, one.gone)):
        by_id.setdefault(technique.id, technique)
    return Matrix(version, notice, tuple(ordered), tuple(by_id.values()))


def encoded(matrix: Matrix) -> bytes:
    """The file: a technique a line, so that a new version's difference can be read."""
    head = msgspec.json.encode(
        {"version": matrix.version, "notice": matrix.notice, "tactics": matrix.tactics}
    )
    lines = ",\n".join(msgspec.json.encode(_short(one)).decode() for one in matrix.techniques)
    return head[:-1] + b',"techniques":[\n' + lines.encode() + b"\n]}\n"


def _short(technique: Technique) -> dict[str, Any]:
    row: dict[str, Any] = msgspec.structs.asdict(technique)
    return {key: value for key, value in row.items() if (key, value) not in _DEFAULTS}


_DEFAULTS: Final = (("linux", True), ("gone", ""))


def _of(objects: Iterable[Any], kind: str) -> Iterable[Any]:
    return (one for one in objects if isinstance(one, dict) and one.get("type") == kind)


def _tag(short_name: str) -> str:
    return short_name.replace("-", "_")


def _external_id(one: Mapping[str, Any]) -> str:
    references = one["external_references"]
    return str(next(ref["external_id"] for ref in references if ref.get("source_name") == _SOURCE))


def _tactic(one: Mapping[str, Any]) -> Tactic:
    return Tactic(_external_id(one), str(one["name"]), _tag(one["x_mitre_shortname"]))


def _technique(one: Mapping[str, Any]) -> Technique:
    phases = [
        _tag(phase["phase_name"])
        for phase in one.get("kill_chain_phases", ())
        if phase.get("kill_chain_name") == _PHASES
    ]
    gone = "revoked" if one.get("revoked") else ""
    if one.get("x_mitre_deprecated"):
        gone = "deprecated"
    return Technique(
        _external_id(one),
        str(one["name"]),
        tuple(phases),
        bool(_PLATFORMS & set(one.get("x_mitre_platforms", ()))),
        gone,
    )
