from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sib_protocol.errors import FileAccessError, SettingsError
from sib_server.settings import ServerSettings
from sib_server.settings_files import load_server_settings, merge


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_persons_file_holds_against_what_was_derived(tmp_path: Path) -> None:
    main = write(tmp_path / "server.yaml", "sinks: {loki: {url: 'http://mine:1'}}\n")
    write(tmp_path / "server.d/20.yaml", "sinks: {loki: {enabled: true, url: 'http://b:2'}}\n")
    write(tmp_path / "server.d/10.yaml", "sinks: {loki: {url: 'http://a:1', tenant: t}}\n")
    write(tmp_path / "server.d/10.yaml.new", "not: read")
    write(tmp_path / "server.d/empty.yaml", "# nothing\n")
    loki = load_server_settings(main).sinks.loki
    assert (loki.url, loki.enabled, loki.tenant) == ("http://mine:1", True, "t")
    main.unlink()
    assert load_server_settings(main, needed=False).sinks.loki.url == "http://b:2"
    with pytest.raises(FileAccessError):
        load_server_settings(main)


def test_an_error_names_the_file_that_it_is_in(tmp_path: Path) -> None:
    main = write(tmp_path / "server.yaml", "")
    derived = write(tmp_path / "server.d/stack.yaml", "sinks: {lokki: {}}\n")
    with pytest.raises(SettingsError) as caught:
        load_server_settings(main)
    assert caught.value.path == derived
    assert caught.value.key == "sinks.lokki"
    derived.write_text("[]")
    with pytest.raises(SettingsError, match=r"stack\.yaml"):
        load_server_settings(main)


def test_nothing_at_all_is_all_defaults(tmp_path: Path) -> None:
    assert load_server_settings(tmp_path / "server.yaml", needed=False) == ServerSettings()
    write(tmp_path / "server.d", "a file")
    assert load_server_settings(tmp_path / "server.yaml", needed=False) == ServerSettings()


# As settings are: what is a mapping in one layer is one in the others.
_LAYERS = st.dictionaries(
    st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.integers(), max_size=3)
)


@given(_LAYERS, _LAYERS, _LAYERS)
def test_layers_can_be_put_together_in_any_grouping(a: Any, b: Any, c: Any) -> None:
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == merge(a, {}) == merge({}, a) == a
    both = merge(a, b)
    for section, keys in both.items():
        for key, value in keys.items():
            assert value == b.get(section, {}).get(key, a.get(section, {}).get(key))
