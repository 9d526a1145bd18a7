"""Start @PACKAGE@ from its own tree, as its own user where root asked."""

import importlib
import os
import pwd
import sys

PACKAGE = "@PACKAGE@"
MODULE = "@MODULE@"
# These change or look at what is not the daemon's own, and take care of owners themselves.
AS_ROOT = frozenset(
    (
        "setup",
        "doctor",
        "logs",
        "backup",
        "backup-key",
        "restore",
        "uninstall",
        "drill",
        "disk-guard",
        # `rules test` starts a Falco; the other commands of the group need no root.
        "rules test",
    )
)


def stays_root(arguments: list) -> bool:
    words = iter(arguments)
    for word in words:
        if word == "--config":
            next(words, None)
        elif not word.startswith("-"):
            return word in AS_ROOT or f"{word} {next(words, '')}" in AS_ROOT
    return False


def become_own_user() -> None:
    """Files that root would make in the daemon's directories would lock the daemon out."""
    if os.geteuid() != 0:
        return
    try:
        entry = pwd.getpwnam(PACKAGE)
    except KeyError:
        return
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.umask(0o027)
    os.environ["HOME"] = entry.pw_dir
    os.environ["USER"] = os.environ["LOGNAME"] = entry.pw_name
    try:
        os.getcwd()
        os.scandir(".").close()
    except OSError:
        os.chdir("/")


home = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(home, "%d.%d" % sys.version_info[:2]), os.path.join(home, "common")]
sys.argv[0] = PACKAGE
if not stays_root(sys.argv[1:]):
    become_own_user()
sys.exit(importlib.import_module(MODULE).main())
