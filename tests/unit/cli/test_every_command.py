"""What holds for each command of both programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import pytest

from sib_agent.cli import main as agent
from sib_server.cli import main as server

if TYPE_CHECKING:
    from collections.abc import Iterator


def _all(command: click.Command, above: click.Context | None, name: str) -> Iterator[click.Context]:
    context = click.Context(command, info_name=name, parent=above)
    if not command.hidden:
        yield context
    if isinstance(command, click.Group):
        for word in command.list_commands(context):
            found = command.get_command(context, word)
            assert found is not None
            yield from _all(found, context, word)


_COMMANDS = [*_all(server, None, "sib-server"), *_all(agent, None, "sib-agent")]


@pytest.mark.parametrize("context", _COMMANDS, ids=lambda context: context.command_path)
def test_help_has_examples_and_explains_every_option(context: click.Context) -> None:
    command = context.command
    if not isinstance(command, click.Group):
        assert "Example" in (command.help or "")
    unexplained = [
        parameter.opts
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help
    ]
    assert unexplained == []
