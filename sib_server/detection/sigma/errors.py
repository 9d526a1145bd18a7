"""Why a Sigma rule is not converted, or a collection of rules cannot be read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sigma.exceptions import SigmaFeatureNotSupportedByBackendError

from sib_protocol.errors import ExitCode, SibError

if TYPE_CHECKING:
    from pathlib import Path


class FalcoUnsupportedError(SigmaFeatureNotSupportedByBackendError):
    """Something that a Falco condition cannot say with the same meaning.

    It is one of pySigma's errors, so that backends' callers and ``collect_errors`` handle it.
    """


class RuleRefusedError(SibError):
    """One rule that is not converted, because the result would mean something else.

    Attributes:
        path: where the rule stands: a file, or ``archive.zip!member``.
        title: the rule's title; empty where the file could not be read as a rule.
        reason: what cannot be said.
    """

    exit_code = ExitCode.INCOMPLETE

    def __init__(self, path: str, title: str, reason: str) -> None:
        name = f"{path} ({title})" if title else path
        super().__init__(f"{name}: {reason}")
        self.path = path
        self.title = title
        self.reason = reason


class CollectionError(SibError):
    """A file, folder or archive from which no rules can be taken."""

    exit_code = ExitCode.FILE_ACCESS

    def __init__(self, path: Path | str, reason: str) -> None:
        super().__init__(f"{path}: {reason}", "give Sigma files, a folder, or a release zip")
        self.path = path
        self.reason = reason


class UnknownRuleError(SibError):
    """A Sigma id that was never imported."""

    exit_code = ExitCode.NOT_FOUND

    def __init__(self, rule_id: str) -> None:
        super().__init__(f"no imported Sigma rule has the id {rule_id}", "see `sigma list`")
        self.rule_id = rule_id
