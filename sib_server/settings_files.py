"""The server's settings files: ``server.yaml``, and what is generated beside it in ``server.d``.

Files of ``server.d`` are read first, by name, and ``server.yaml`` last, key by key: what a person
wrote there holds against anything that ``sib-server setup`` derived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sib_protocol.errors import FileAccessError
from sib_protocol.settings import convert_settings, parse_tree, read_settings
from sib_server.settings import ServerSettings

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path


def drop_in_directory(path: Path) -> Path:
    """Where files are that are read before this settings file: ``server.d`` for server.yaml."""
    return path.with_suffix(".d")


def merge(under: Any, over: Any) -> Any:
    """Two layers of settings: mappings key by key, anything else from ``over``. Pure."""
    if isinstance(under, dict) and isinstance(over, dict):
        return {
            **under,
            **{key: merge(under[key], over[key]) if key in under else over[key] for key in over},
        }
    return over


def load_server_settings(
    path: Path, *, needed: bool = True, without: Collection[Path] = ()
) -> ServerSettings:
    """Read all settings files.

    Args:
        path: the main one.
        needed: whether it has to be there; without it, its keys have their defaults.
        without: files of the drop-in directory that are left out.

    Raises:
        FileAccessError: a file cannot be read.
        SettingsError: what is in one cannot be used; it is named.
    """
    merged: Any = {}
    for place in [*_drop_ins(path, without), *([path] if needed or path.exists() else [])]:
        tree = parse_tree(read_settings(place), place)
        # By itself first, so that an error names the file that it is in.
        convert_settings(tree, ServerSettings, place)
        merged = merge(merged, tree or {})
    return convert_settings(merged, ServerSettings, path)


def _drop_ins(path: Path, without: Collection[Path]) -> list[Path]:
    directory = drop_in_directory(path)
    try:
        found = sorted(place for place in directory.iterdir() if place.suffix == ".yaml")
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise FileAccessError(directory, error.strerror or str(error)) from error
    return [place for place in found if place not in without]
