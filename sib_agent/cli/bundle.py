"""``sib-agent bundle-fetch``: what the daemon runs to fetch a bundle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from sib_agent.bundles.pulling import pull, refresh
from sib_agent.bundles.store import BundleStore
from sib_agent.cli.context import pass_settings
from sib_agent.settings import AgentSettings
from sib_protocol.console import print_json
from sib_protocol.identity import IdentityStore

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command("bundle-fetch", hidden=True)
@click.argument("version", type=click.IntRange(min=1), required=False)
@click.argument("targets", nargs=-1)
@pass_settings
def bundle_fetch(settings: AgentSettings, version: int | None, targets: Sequence[str]) -> None:
    """Fetch and prove a bundle, and put its files beside the others; the daemon does the rest.

    Without a version what the server signs is fetched and proven, and no bundle.

    \b
    Examples:
      sib-agent bundle-fetch 7 7.base.tar.gz
      sib-agent bundle-fetch
    """
    store = BundleStore(settings.falco.bundles, settings.bundles.state)
    identities = IdentityStore(settings.identity.directory)
    if version is None:
        refresh(identities, store)
        print_json({"digests": {}})
    else:
        print_json({"digests": pull(identities, store, version, targets)})
