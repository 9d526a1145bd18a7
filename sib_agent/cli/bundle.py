"""``sib-agent bundle-fetch``: what the daemon runs to fetch a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sib_agent.bundles.pulling import pull
from sib_agent.bundles.store import BundleStore
from sib_agent.cli.context import pass_settings
from sib_agent.settings import AgentSettings
from sib_protocol.console import print_json
from sib_protocol.identity import IdentityStore

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command("bundle-fetch", hidden=True)
@click.argument("version", type=click.IntRange(min=1))
@click.argument("targets", nargs=-1, required=True)
@pass_settings
def bundle_fetch(settings: AgentSettings, version: int, targets: Sequence[str]) -> None:
    """Fetch and prove a bundle, and put its files beside the others; the daemon does the rest.

    \b
    Example:
      sib-agent bundle-fetch 7 7.base.tar.gz
    """
    store = BundleStore(settings.falco.bundles, settings.bundles.state)
    digests = pull(IdentityStore(settings.identity.directory), store, version, targets)
    print_json({"digests": digests})
