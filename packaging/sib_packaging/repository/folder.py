"""Lay the repository out: packages, indices, signatures, and how to install from it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from sib_packaging.errors import PackagingError
from sib_packaging.fetch import checksum
from sib_packaging.repository import apt, snippets
from sib_packaging.repository.signing import Key, clearsign, detached, public_key, run


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make.

    Attributes:
        packages: folder of .deb and .rpm files, left as they are.
        output: the repository; replaced as a whole when the new one is complete.
        url: where hosts will find it, for the install snippets.
        key: signs it.
        epoch: its date.
        valid_days: see :func:`apt.release`.
        say: told what happens.
    """

    packages: Path
    output: Path
    url: str
    key: Key
    epoch: int
    valid_days: int | None
    say: Callable[[str], None]


def build_repository(plan: Plan) -> None:
    """Make it.

    Raises:
        PackagingError: nothing to publish, two packages of one name differ, a tool fails.
    """
    debs, rpms = sorted(plan.packages.glob("*.deb")), sorted(plan.packages.glob("*.rpm"))
    if not debs and not rpms:
        raise PackagingError(f"{plan.packages} has no packages: scripts/build-packages makes them")
    partial = plan.output.with_name(plan.output.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    published = snippets.Published(
        plan.url.rstrip("/"), plan.key.fingerprint, public_key(plan.key).decode()
    )
    (partial / "sib.asc").write_text(published.key)
    (partial / "README.html").write_text(snippets.page(published))
    if debs:
        _apt(plan, debs, partial / "deb")
        (partial / "deb/sib.sources").write_text(snippets.sources(published))
        (partial / "deb/install.txt").write_text(snippets.apt_commands(published, "sib-agent"))
    if rpms:
        _dnf(plan, rpms, partial / "rpm")
        (partial / "rpm/sib.repo").write_text(snippets.repo(published))
        (partial / "rpm/install.txt").write_text(snippets.dnf_commands(published, "sib-agent"))
    _replace(partial, plan.output)
    plan.say(f"{plan.output}: {len(debs)} deb, {len(rpms)} rpm, signed by {plan.key.fingerprint}")


def read_deb(path: Path) -> apt.Deb:
    """A package's own description.

    Raises:
        PackagingError: it is no package.
    """
    control = run(["dpkg-deb", "--field", str(path)]).decode()
    fields = dict(
        line.split(": ", 1) for line in control.splitlines() if ": " in line and line[0] != " "
    )
    try:
        return apt.Deb(
            control=control,
            name=fields["Package"],
            version=fields["Version"],
            architecture=fields["Architecture"],
            size=path.stat().st_size,
            sha256=checksum(path),
        )
    except KeyError as error:
        raise PackagingError(f"{path} does not say its {error.args[0]}") from error


def _apt(plan: Plan, paths: Iterable[Path], home: Path) -> None:
    packages = []
    for path in paths:
        deb = read_deb(path)
        packages.append(deb)
        _place(path, home / deb.place)
    files = apt.indices(packages)
    text = apt.release(files, packages, plan.epoch, plan.valid_days)
    signed = {
        "Release": text,
        "Release.gpg": detached(plan.key, text, plan.epoch),
        "InRelease": clearsign(plan.key, text, plan.epoch),
    }
    for name, content in {**files, **apt.by_hash(files), **signed}.items():
        place = home / "dists" / apt.SUITE / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def _dnf(plan: Plan, paths: Iterable[Path], home: Path) -> None:
    folders = set()
    for path in paths:
        said = run(
            [
                "rpm",
                "-qp",
                "--nosignature",
                "--qf",
                "%{ARCH} %{NAME}-%{VERSION}-%{RELEASE}",
                str(path),
            ]
        ).decode()
        architecture, _, name = said.partition(" ")
        folder = home / architecture
        place = folder / f"{name}.{architecture}.rpm"
        _place(path, place)
        _sign_rpm(plan, place)
        os.utime(place, (plan.epoch, plan.epoch))
        folders.add(folder)
    for folder in sorted(folders):
        run(
            [
                *("createrepo_c", "--quiet", "--no-database", "--general-compress-type=gz"),
                *(f"--revision={plan.epoch}", "--set-timestamp-to-revision", str(folder)),
            ]
        )
        index = folder / "repodata/repomd.xml"
        signature = detached(plan.key, index.read_bytes(), plan.epoch)
        index.with_name("repomd.xml.asc").write_bytes(signature)


def _sign_rpm(plan: Plan, path: Path) -> None:
    clock = plan.key.command(plan.epoch)
    at = clock.index("--faked-system-time")
    run(
        [
            *("rpmsign", "--define", f"_gpg_name {plan.key.fingerprint}"),
            *("--define", f"__gpg {shutil.which('gpg')}", "--define", "_gpg_digest_algo sha256"),
            *("--define", f"_gpg_sign_cmd_extra_args {' '.join(clock[at : at + 2])}"),
            *("--addsign", str(path)),
        ],
        home=plan.key.home,
    )


def _place(source: Path, target: Path) -> None:
    if target.exists():
        raise PackagingError(f"{source} is a second {target.name}: which one is meant?")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _replace(new: Path, place: Path) -> None:
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        # Whoever points --output at their files must not lose them.
        if not (place / "sib.asc").is_file():
            raise PackagingError(f"{place} is there and is no repository of this program's")
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
