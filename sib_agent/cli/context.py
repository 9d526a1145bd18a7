"""What the commands work with: the settings, read when they are first asked for.

A command's help is there without them: the file is not everybody's to read, and may be what is
broken.
"""

from __future__ import annotations

from functools import cached_property, wraps
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import click

from sib_agent.settings import DEFAULT_PATH, AgentSettings
from sib_protocol.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class AgentContext:
    """One run of the command.

    Args:
        named: the settings file that was named, which has to be there; else the usual one is read
            where it exists.
    """

    def __init__(self, named: Path | None) -> None:
        self.settings_file = named or DEFAULT_PATH
        self._needed = named is not None

    @cached_property
    def settings(self) -> AgentSettings:
        """The settings.

        Raises:
            SettingsError: they cannot be read, or are not valid.
        """
        if not self._needed and not self.settings_file.exists():
            return AgentSettings()
        return load_settings(self.settings_file, AgentSettings)


pass_context = click.make_pass_decorator(AgentContext)


def pass_settings(
    command: Callable[Concatenate[AgentSettings, _Arguments], _Result],
) -> Callable[_Arguments, _Result]:
    """Give a command the settings as its first argument."""

    @wraps(command)
    def call(*arguments: _Arguments.args, **named: _Arguments.kwargs) -> _Result:
        found = click.get_current_context().find_object(AgentContext)
        assert found is not None  # noqa: S101  (the group above put it there)
        return command(found.settings, *arguments, **named)

    return call
