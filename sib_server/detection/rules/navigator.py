"""Coverage as a layer for MITRE's ATT&CK Navigator, format 4.5. Pure.

The Navigator passes over whatever is not of the form that it expects, and says so in the browser's
console alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sib_server.detection.rules.coverage import Coverage, CoveredTechnique

LAYER: Final = "4.5"
# The one in which such layers were looked at; newer ones read them, too.
_NAVIGATOR: Final = "5.1.0"
_HAS_RULE: Final = 50
_PROVEN: Final = 100
_COLOURS: Final = ("#f4d35e", "#2a9d8f")


def layer(found: Coverage, name: str) -> dict[str, Any]:
    """The layer: a technique with a rule is worth 50, a proven one 100.

    Args:
        found: coverage.
        name: of the layer.
    """
    counts = found.counts()
    shown = [
        (tactic.tactic.tag, one)
        for tactic in found.tactics
        for one in tactic.techniques
        if one.rules or one.off
    ]
    # The Navigator hides what is of no platform of these: scans, the cloud's storage.
    linux = all(one.technique.linux for _, one in shown)
    return {
        "name": name,
        # It knows versions by the number before the point alone.
        "versions": {
            "attack": found.version.partition(".")[0],
            "navigator": _NAVIGATOR,
            "layer": LAYER,
        },
        "domain": "enterprise-attack",
        "description": (
            f"{counts.with_rule} techniques and sub-techniques with a rule, {counts.proven} proven "
            f"by a drill, {counts.fired} fired. ATT&CK {found.version}. {found.notice}"
        ),
        **({"filters": {"platforms": ["Linux", "Containers"]}} if linux else {}),
        "sorting": 0,
        "layout": {
            "layout": "side",
            "showID": True,
            "showName": True,
            "expandedSubtechniques": "annotated",
        },
        "hideDisabled": False,
        "techniques": [_technique(one, tactic) for tactic, one in shown],
        "gradient": {"colors": list(_COLOURS), "minValue": _HAS_RULE, "maxValue": _PROVEN},
        "legendItems": [
            {"label": "has a rule", "color": _COLOURS[0]},
            {"label": "proven by a drill", "color": _COLOURS[1]},
        ],
        "selectTechniquesAcrossTactics": False,
        "selectSubtechniquesWithParent": False,
    }


def _technique(one: CoveredTechnique, tactic: str) -> dict[str, Any]:
    metadata = [{"name": "rules", "value": ", ".join((*one.rules, *one.off))}]
    if one.proof is not None:
        proven = f"{one.proof.time} by {one.proof.id} on Falco {one.proof.engine}"
        metadata.append({"name": "proven", "value": proven})
    if one.fired is not None:
        metadata.append({"name": "last fired", "value": one.fired})
    score = {"score": _PROVEN if one.proof is not None else _HAS_RULE} if one.rules else {}
    return {
        "techniqueID": one.technique.id,
        "tactic": tactic.replace("_", "-"),
        "enabled": bool(one.rules),
        **score,
        "metadata": metadata,
        "showSubtechniques": one.technique.parent is None,
    }
