"""Looking at the machine for :mod:`sib_server.stack.preflight`, and for what is installed."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from sib_protocol.machine_facts import (
    find_clock,
    find_container,
    find_disk,
    find_listeners,
    find_memory,
    find_units,
)
from sib_server.stack.layout import SERVER_USER, Component, Layout
from sib_server.stack.preflight import STRANGERS, Facts
from sib_server.stack.unprivileged import find_user

if TYPE_CHECKING:
    from sib_server.settings import ServerSettings


def find_installed(layout: Layout) -> frozenset[Component]:
    """Components whose package is here and ready: its program is there, and its user."""
    return frozenset(
        component
        for component in Component
        if layout.program(component).exists() and find_user(component.package) is not None
    )


def find_facts(settings: ServerSettings, layout: Layout, *, systemd: bool) -> Facts:
    """Everything that preflight asks for."""
    names = (SERVER_USER, *(component.package for component in Component))
    users = {name: user.uid for name in names if (user := find_user(name)) is not None}
    return Facts(
        memory=find_memory(),
        disks={
            "journal": find_disk(settings.journal.path.parent),
            "loki": find_disk(layout.state_of(Component.LOKI)),
            "prometheus": find_disk(layout.state_of(Component.PROMETHEUS)),
        },
        clock=find_clock(),
        container=find_container(),
        listeners=tuple(find_listeners()),
        users=users,
        strangers=find_units(STRANGERS),
        sees_all=os.geteuid() == 0,
        systemd=systemd,
        python=sys.version_info[:2],
    )
