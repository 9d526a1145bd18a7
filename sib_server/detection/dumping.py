"""YAML as rules files are written."""

from __future__ import annotations

from typing import Any

import yaml


class _Dumper(yaml.CSafeDumper):
    """No aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write repeated values out."""
        _ = data
        return True


def dump_yaml(document: Any) -> str:
    """YAML in the order given."""
    text: str = yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return text
