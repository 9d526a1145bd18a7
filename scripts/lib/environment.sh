# Sourced by the scripts here: a virtual environment in the checkout's .venv, from locked wheels.

say() { printf '%s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null 2>&1; then
        sudo "$@"
    else
        say "error: this needs root: $*"
        say "  try: run it as root once, then again as you"
        return 1
    fi
}

# Install Debian packages that are not there yet.
need_packages() {
    missing=""
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    command -v apt-get >/dev/null 2>&1 || { say "error: please install by your package manager:$missing"; return 1; }
    say "installing:$missing"
    apt="as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=5"
    $apt update >&2
    # shellcheck disable=SC2086  # a list of words on purpose
    $apt install --no-install-recommends -y $missing >/dev/null
}

# Install those that can be had: a release of Debian without one of them must not cost the others.
want_packages() {
    need_packages "$@" && return 0
    for wanted in "$@"; do
        need_packages "$wanted" || say "without $wanted the tests that need it are skipped by name"
    done
}

# debian_prometheus DIR: have Debian's Prometheus in DIR/prometheus. Its package is not installed: it would start a
# service that listens to everybody.
debian_prometheus() {
    [ ! -x "$1/prometheus/prometheus" ] || return 0
    command -v apt-get >/dev/null 2>&1 || return 1
    fetched="$(mktemp -d)"
    (
        cd "$fetched"
        apt-get -qq download prometheus 2>/dev/null ||
            { as_root apt-get -qq update >&2 && apt-get -qq download prometheus; }
        dpkg-deb -x prometheus_*.deb unpacked
    ) >&2 || { rm -rf "$fetched"; return 1; }
    mkdir -p "$1/prometheus"
    mv "$fetched/unpacked/usr/bin/promtool" "$fetched/unpacked/usr/bin/prometheus" "$1/prometheus/"
    dpkg-deb -f "$fetched"/prometheus_*.deb Version | sed 's/+.*//' >"$1/prometheus/VERSION"
    rm -rf "$fetched"
}

# The newest Python that the server's lock covers.
find_python() {
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
    done
    say "error: the server needs Python 3.11 or newer"
    return 1
}

PIP_QUIET="--quiet --disable-pip-version-check --no-input"

# install_lock VENV LOCK: install what the lock says, and nothing that was published since. A lock is whole, so pip is
# not let resolve: for a package wanted with an extra (coverage[toml]) it would look at the newest, whose hash no lock
# has. No isolation: what a source distribution is built with is locked, too.
install_lock() {
    # shellcheck disable=SC2086  # a list of words on purpose
    "$1/bin/pip" $PIP_QUIET install --require-hashes --no-deps --no-build-isolation -r "$2"
}

# need_whole VENV: fail where something installed lacks what it needs.
need_whole() {
    lacking="$("$1/bin/pip" --disable-pip-version-check check)" || {
        say "error: $1 is not whole:" "$lacking"
        say "  try: remove it and run this again; if that changes nothing, lock anew as CONTRIBUTING.md says"
        return 1
    }
}

# environment LOCK...: make .venv hold what the locks in requirements/ say, and SIB itself.
environment() {
    stamp=.venv/.installed
    wanted="$(cat requirements/build.txt "$@" pyproject.toml | sha256sum)"
    if [ -x .venv/bin/sib-server ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return 0
    fi
    python="$(find_python)"
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then
        need_packages python3-venv
    fi
    [ -x .venv/bin/pip ] || "$python" -m venv .venv
    say "installing dependencies into .venv (once)"
    install_lock .venv requirements/build.txt
    for lock in "$@"; do
        install_lock .venv "$lock"
    done
    # shellcheck disable=SC2086  # a list of words on purpose
    .venv/bin/pip $PIP_QUIET install --no-deps --no-build-isolation --editable .
    need_whole .venv
    printf '%s\n' "$wanted" >"$stamp"
}
