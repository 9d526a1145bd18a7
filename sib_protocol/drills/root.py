"""The throw-away root: the host's own programs, read-only below a layer in memory, and nothing
of the host's data.

Everything here runs in a process that already has a mount namespace of its own.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sib_protocol.drills import linux

if TYPE_CHECKING:
    from collections.abc import Iterable

TOOLS: Final = "/opt/drill"
SIZE: Final = "64m"
_INODES: Final = 20_000

_PROGRAM_FOLDERS: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
_FOLDERS: Final = (
    "boot", "dev", "etc", "home", "home/user", "media", "mnt", "opt", "proc", "root", "run", "srv",
    "sys", "tmp", "var", "var/backups", "var/cache", "var/lib", "var/log", "var/mail", "var/spool",
    "var/spool/cron", "var/spool/cron/crontabs", "var/tmp", "var/www", "var/www/html",
    "run/lock", "run/user", "etc/cron.d", "etc/systemd/system", "etc/ssh", "etc/profile.d",
    "etc/pam.d", "etc/apt/apt.conf.d", "etc/sudoers.d", "etc/init.d",
)  # fmt: skip
# What programs cannot start or name users without; no secret is among them.
_COPIED: Final = (
    "alternatives", "bash.bashrc", "debian_version", "group", "host.conf", "hosts", "ld.so.cache",
    "ld.so.conf", "ld.so.conf.d", "localtime", "login.defs", "nsswitch.conf", "os-release",
    "passwd", "profile", "protocols", "redhat-release", "services", "shells", "python3",
    "python3.9", "python3.10", "python3.11", "python3.12", "python3.13", "perl",
    "ssl/openssl.cnf", "pki/tls/openssl.cnf", "crypto-policies",
)  # fmt: skip
_MADE_UP: Final = {
    "etc/hostname": "drill\n",
    "etc/shadow": "root:*:20000:0:99999:7:::\nuser:*:20000:0:99999:7:::\n",
    "etc/gshadow": "root:*::\n",
    "etc/crontab": "# drill\n",
    "etc/resolv.conf": "nameserver 127.0.0.1\n",
    "etc/sudoers": "root ALL=(ALL:ALL) ALL\n",
    "etc/ssh/sshd_config": "# drill\n",
    "etc/environment": "",
    "root/.bashrc": "# drill\n",
    "root/.profile": "# drill\n",
    "home/user/.bashrc": "# drill\n",
    "home/user/.profile": "# drill\n",
}
_DEVICES: Final = ("full", "null", "random", "tty", "urandom", "zero")
_MASKED: Final = ("kcore", "kmsg", "kallsyms", "sysrq-trigger", "kpagecount", "mtrr")
_SHOWN: Final = ("cpuinfo", "filesystems", "loadavg", "meminfo", "modules", "uptime", "version")
_SETTINGS: Final = (
    "fs/binfmt_misc/register", "fs/file-max", "fs/suid_dumpable", "fs/protected_symlinks",
    "kernel/core_pattern", "kernel/dmesg_restrict", "kernel/hostname", "kernel/hotplug",
    "kernel/kexec_load_disabled", "kernel/kptr_restrict", "kernel/modprobe",
    "kernel/modules_disabled", "kernel/ngroups_max", "kernel/osrelease", "kernel/ostype",
    "kernel/perf_event_paranoid", "kernel/pid_max", "kernel/poweroff_cmd", "kernel/printk",
    "kernel/randomize_va_space", "kernel/sysrq", "kernel/unprivileged_bpf_disabled",
    "kernel/yama/ptrace_scope", "kernel/ftrace_enabled", "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/accept_redirects", "vm/drop_caches",
    "vm/overcommit_memory", "vm/swappiness",
)  # fmt: skip
_MAX_COPY: Final = 4 * 1024 * 1024

_HELPERS: Final = {
    # standin NAME|PATH...: a harmless program in the place of each real one.
    "standin": "#!/bin/sh\nset -e\nfor place; do\n"
    'case "$place" in */*) ;; *) place="/usr/local/bin/$place" ;; esac\n'
    '[ -d "${place%/*}" ] || mkdir -p "${place%/*}"\n'
    f'cp {TOOLS}/program "$place"\ndone\n',
    # as UID COMMAND...: as another user, without a login.
    "as": '#!/bin/sh\nuid="$1"\nshift\n'
    'exec setpriv --reuid "$uid" --regid "$uid" --clear-groups -- "$@"\n',
}


def build(base: Path, program: bytes) -> None:  # pragma: no cover
    """Make the root below a folder and move into it; what was the root before is gone.

    Raises:
        OSError: a step was refused; then nothing of the host was changed, since the mount
            namespace ends with this process.
    """
    linux.mount("none", "/", "", linux.MS_PRIVATE | linux.MS_REC)
    root = str(base)
    flags = linux.MS_NOSUID | linux.MS_NODEV
    linux.mount("sib-drill", root, "tmpfs", flags, f"size={SIZE},nr_inodes={_INODES},mode=755")
    layers = base / ".layers"
    layers.mkdir()
    # A file system of its own, which is taken away once the layers are in place.
    linux.mount("sib-layers", str(layers), "tmpfs", flags, f"size={SIZE},mode=755")
    for name in _PROGRAM_FOLDERS:
        _programs(base, layers, name)
    for name in _FOLDERS:
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "root").chmod(0o700)
    for name in ("tmp", "var/tmp"):
        (base / name).chmod(0o1777)
    _copy_settings(base)
    _devices(base)
    _proc(base)
    _tools(base, program)
    linux.unmount(str(layers))
    layers.rmdir()
    os.chdir(root)
    (base / ".old").mkdir()
    linux.pivot_root(".", ".old")
    os.chdir("/")
    linux.unmount("/.old")
    Path("/.old").rmdir()


def _programs(base: Path, layers: Path, name: str) -> None:  # pragma: no cover
    source = Path("/", name)
    if source.is_symlink():
        (base / name).symlink_to(source.readlink())
        return
    if not source.is_dir():
        return
    for layer in (f"{name}-upper", f"{name}-work"):
        (layers / layer).mkdir()
    (base / name).mkdir()
    options = f"lowerdir=/{name},upperdir={layers}/{name}-upper,workdir={layers}/{name}-work"
    linux.mount("sib-drill", f"{base}/{name}", "overlay", linux.MS_NOSUID | linux.MS_NODEV, options)


def _copy_settings(base: Path) -> None:  # pragma: no cover - in a process that leaves its root
    for name in _COPIED:
        source, target = Path("/etc", name), base / "etc" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir() and not source.is_symlink():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        elif source.is_symlink() and name != "localtime":
            target.symlink_to(source.readlink())
        elif source.is_file() and source.stat().st_size <= _MAX_COPY:
            shutil.copyfile(source, target)
            target.chmod(0o644)
    for name, content in _MADE_UP.items():
        (base / name).write_text(content)
    for name in ("etc/shadow", "etc/gshadow"):
        (base / name).chmod(0o640)
    for name in ("home/user", "home/user/.bashrc", "home/user/.profile"):
        os.chown(base / name, 1000, 1000)


def _devices(base: Path) -> None:  # pragma: no cover - in a process that leaves its root
    # Nodes of a file system without devices do nothing, so the host's own are bound.
    for name in _DEVICES:
        place = base / "dev" / name
        place.touch()
        linux.mount(f"/dev/{name}", str(place), "", linux.MS_BIND)
    for name, target in (("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1")):
        (base / "dev" / name).symlink_to(target)
    (base / "dev/pts").mkdir()
    options = "newinstance,ptmxmode=0666,mode=620"
    linux.mount("devpts", str(base / "dev/pts"), "devpts", linux.MS_NOSUID, options)
    (base / "dev/ptmx").symlink_to("pts/ptmx")
    (base / "dev/shm").mkdir(mode=0o1777)
    (base / "dev/shm").chmod(0o1777)


def _proc(base: Path) -> None:  # pragma: no cover - in a process that leaves its root
    """What of ``/proc`` is shown, or is put over the real one: plain files, whose writing is
    harmless and looks the same."""
    shown = base / ".proc"
    shown.mkdir()
    for name in (*_SHOWN, *_MASKED):
        (shown / name).write_bytes(_content(Path("/proc", name)) if name in _SHOWN else b"")
    for name in _SETTINGS:
        (shown / "sys" / name).parent.mkdir(parents=True, exist_ok=True)
        (shown / "sys" / name).write_bytes(_content(Path("/proc/sys", name)) or b"0\n")
    for name in ("sys/fs/cgroup", "sys/kernel/debug", "sys/class/net", "sys/devices"):
        (base / name).mkdir(parents=True, exist_ok=True)
    (base / "sys/kernel/uevent_helper").touch()


def _content(path: Path) -> bytes:  # pragma: no cover - in a process that leaves its root
    try:
        with path.open("rb") as file:
            return file.read(64 * 1024)
    except OSError:
        return b""


def show_proc(*, contained: bool) -> None:  # pragma: no cover - in a process that leaves its root
    """Put ``/proc`` in place, inside the root: the drill's own, or a still picture of the host's.

    Raises:
        OSError: it cannot be mounted.
    """
    if not contained:
        linux.mount("/.proc", "/proc", "", linux.MS_BIND)
        return
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    linux.mount("proc", "/proc", "proc", flags)
    for name in ("sys", *_MASKED):
        if Path("/proc", name).exists():
            linux.mount(f"/.proc/{name}", f"/proc/{name}", "", linux.MS_BIND)


def _tools(base: Path, program: bytes) -> None:  # pragma: no cover
    tools = base / TOOLS.lstrip("/")
    (tools / "bin").mkdir(parents=True)
    files: Iterable[tuple[str, bytes]] = [
        ("program", program),
        *((f"bin/{name}", text.encode()) for name, text in _HELPERS.items()),
    ]
    for name, content in files:
        (tools / name).write_bytes(content)
        (tools / name).chmod(0o755)
