"""The command line of ``scripts/build-repo``."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from sib_packaging.errors import PackagingError
from sib_packaging.project import ROOT, epoch, say
from sib_packaging.repository.folder import Plan, build_repository
from sib_packaging.repository.signing import find_key, make_key

_EXAMPLES = """\
examples:
  scripts/build-repo --gnupg-home ~/sib-key --make-key 'Example packages <packages@example.org>'
  scripts/build-repo --gnupg-home ~/sib-key --key FINGERPRINT --url https://packages.example.org/sib
  scripts/build-repo --gnupg-home ~/sib-key --key FINGERPRINT --url file:///media/stick
"""


def main() -> int:
    """Build; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/build-repo",
        description="Make a signed apt and dnf repository of the packages in a folder.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--packages", type=Path, default=ROOT / "dist", metavar="DIR", help="[default: dist]"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="the repository, replaced when the new one is complete"
        " [default: repository in --packages]",
    )
    parser.add_argument(
        "--url", help="where hosts will find it, for the snippets [default: file: and where it is]"
    )
    key = parser.add_mutually_exclusive_group(required=True)
    key.add_argument("--key", metavar="FINGERPRINT", help="the key that signs, all 40 digits")
    key.add_argument(
        "--make-key",
        metavar="OWNER",
        help="make a new RSA key of 'Name <mail>' without a passphrase in --gnupg-home, and use it",
    )
    parser.add_argument(
        "--gnupg-home",
        type=Path,
        metavar="DIR",
        default=os.environ.get("GNUPGHOME"),
        help="where the key is [default: $GNUPGHOME]",
    )
    parser.add_argument(
        "--valid-days",
        type=int,
        metavar="N",
        help="hosts refuse the apt repository after so many days, so that nobody can hold them on"
        " an old one; build anew before [default: no limit]",
    )
    given = parser.parse_args()
    if given.gnupg_home is None:
        parser.error("say where the key is: --gnupg-home DIR, or GNUPGHOME")
    if given.valid_days is not None and given.valid_days < 1:
        parser.error("--valid-days is at least 1")
    output: Path = (given.output or given.packages / "repository").absolute()
    url: str = given.url or f"file://{output}"
    if not url.startswith(("https://", "http://", "file:///")) or any(map(str.isspace, url)):
        parser.error("--url begins with https://, http:// or file:/// and has no spaces")
    home: Path = given.gnupg_home.absolute()
    try:
        signer = make_key(home, given.make_key) if given.make_key else find_key(home, given.key)
        build_repository(
            Plan(
                packages=given.packages,
                output=output,
                url=url,
                key=signer,
                epoch=epoch(),
                valid_days=given.valid_days,
                say=say,
            )
        )
    except PackagingError as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
