"""How the parts of a bundle are called.

A bundle of one version is a base part, which every host gets, and a part for each tag that has
rules of its own. Each part is one TUF target, named ``VERSION.PART.tar.gz``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sib_protocol.errors import MalformedMessageError

BASE: Final = "base"
"""The part that every host gets."""

MAX_VERSION: Final = 2**31 - 1
MAX_PARTS: Final = 33
"""The base, and a part for each of a host's tags."""

SIB_RULES: Final = re.compile(r"[0-9]+-sib\.yaml")
"""How a bundle's files with SIB's own rules are called. SIB's macros are put into their conditions:
whoever changes one afterwards changes nothing there."""

FALCO_RULES: Final = re.compile(r"[0-9]+-falco\.yaml")
"""How those with the Falco project's rules are called."""

_TAG_PART: Final = "tag-"
_TARGET: Final = re.compile(
    r"(?P<version>[1-9][0-9]{0,9})\.(?P<part>base|tag-[A-Za-z0-9][A-Za-z0-9._-]{0,63})\.tar\.gz"
)


@dataclass(frozen=True, slots=True)
class TargetName:
    """A target's name, read.

    Attributes:
        version: of the bundle, from 1.
        part: ``base``, or ``tag-`` and the tag.
    """

    version: int
    part: str

    def __str__(self) -> str:
        return f"{self.version}.{self.part}.tar.gz"


def tag_part(tag: str) -> str:
    """The part with a tag's own rules."""
    return _TAG_PART + tag


def parse_target_name(text: str) -> TargetName:
    """Read a target's name.

    Raises:
        MalformedMessageError: no bundle has such a target.
    """
    found = _TARGET.fullmatch(text)
    if found is None or int(found["version"]) > MAX_VERSION:
        raise MalformedMessageError(f"{text[:120]!r} is not the name of a bundle's part")
    return TargetName(int(found["version"]), found["part"])
