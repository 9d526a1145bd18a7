"""Kinds of parameters of commands about rules, with what a shell can complete of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click
from click.shell_completion import CompletionItem

from sib_protocol.errors import SibError

if TYPE_CHECKING:
    from sib_server.detection.attack.matrix import Tactic

SOURCE: Final = click.Choice(["sib", "own", "sigma", "intel", "falco"])
"""Where a rule comes from."""


class _TacticType(click.ParamType[str]):
    """A tactic of ATT&CK, by its tag or id; the value is the tag without ``mitre_``."""

    name = "tactic"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The tag, however it was written."""
        wanted = str(value).removeprefix("mitre_").replace("-", "_").replace(" ", "_").lower()
        found = [one.tag for one in _tactics() if wanted in {one.tag, one.id.lower()}]
        if not found:
            known = ", ".join(tactic.tag for tactic in _tactics())
            self.fail(f"{value!r} is no tactic; known: {known}", param, ctx)
        return found[0]

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The tags."""
        _ = ctx, param
        tags = (tactic.tag for tactic in _tactics())
        return [CompletionItem(tag) for tag in tags if tag.startswith(incomplete)]


class _RuleType(click.ParamType[str]):
    """A rule by its id or name, or several by a technique or tag."""

    name = "text"

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Ids, with names as their help. Nothing where the settings or rules cannot be read."""
        _ = param
        from sib_server.detection.rules.compile import load  # noqa: PLC0415
        from sib_server.settings import DEFAULT_PATH  # noqa: PLC0415
        from sib_server.settings_files import load_server_settings  # noqa: PLC0415

        # While a shell asks, the command above has not run, and there are no settings yet.
        config = ctx.find_root().params.get("config") or DEFAULT_PATH
        try:
            entries = load(load_server_settings(Path(config))).entries
        except SibError:
            return []
        return [
            CompletionItem(entry.id, help=entry.rule.name)
            for entry in entries
            if entry.id.startswith(incomplete)
        ]


TACTIC: Final = _TacticType()
RULE: Final = _RuleType()


def _tactics() -> tuple[Tactic, ...]:
    from sib_server.detection.attack.matrix import shipped  # noqa: PLC0415

    return shipped().tactics
