from __future__ import annotations

import typing
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from sib_protocol.errors import SettingsError
from sib_protocol.settings import parse_settings
from sib_server.settings import ListenSettings, ServerSettings


def _parse(text: str) -> ServerSettings:
    return parse_settings(text, ServerSettings, Path("server.yaml"))


def test_an_empty_file_is_all_defaults_and_they_are_in_bounds() -> None:
    assert _parse("") == ServerSettings()
    tree = msgspec.to_builtins(ServerSettings(), enc_hook=str)
    assert msgspec.convert(tree, ServerSettings, dec_hook=lambda _, text: Path(text)) == (
        ServerSettings()
    )


def _undescribed(wanted: type[msgspec.Struct], at: str) -> list[str]:
    found = []
    for name, hint in typing.get_type_hints(wanted, include_extras=True).items():
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            found += _undescribed(hint, f"{at}{name}.")
            continue
        metas = getattr(hint, "__metadata__", ())
        if not any(isinstance(meta, msgspec.Meta) and meta.description for meta in metas):
            found.append(f"{at}{name}")
    return found


def test_every_setting_has_its_help() -> None:
    assert _undescribed(ServerSettings, "") == []


def test_a_typing_error_is_named_with_what_was_meant() -> None:
    with pytest.raises(SettingsError, match=r"listen\.prot") as caught:
        _parse("listen: {prot: 1}")
    assert "'port'" in (caught.value.remedy or "")
    with pytest.raises(SettingsError, match="port"):
        _parse("listen: {port: 70000}")
    with pytest.raises(SettingsError, match="public_urls"):
        _parse("listen: {public_urls: ['http://x']}")


def test_names_and_urls() -> None:
    assert ListenSettings().urls("box") == ("https://box:8443",)
    assert ListenSettings().certificate_names("box") == ("box", "localhost", "127.0.0.1", "::1")
    listen = _parse(
        "listen: {public_urls: ['https://sib.example:443', 'https://[2001:db8::1]:8443'],"
        " names: [sib, sib.example]}"
    ).listen
    assert listen.urls("box") == ("https://sib.example:443", "https://[2001:db8::1]:8443")
    assert listen.certificate_names("box") == ("sib.example", "2001:db8::1", "sib")


def test_the_policy_is_what_the_settings_say() -> None:
    policy = _parse(
        "fleet: {renew_expired_days: 1.5, late_after_seconds: 5, silent_after_seconds: 9,"
        " attempts_per_minute: 6, attempts_burst: 3}"
    ).fleet.policy()
    assert policy.grace == timedelta(hours=36)
    assert (policy.health.late_seconds, policy.health.silent_seconds) == (5, 9)
    assert (policy.each.burst, policy.each.per_second) == (3, 0.1)
