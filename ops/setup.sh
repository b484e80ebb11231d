#!/bin/sh
# Prepare this checkout: install the system packages it needs, then make .venv (ops/setup.py, which
# gets the same arguments). Takes well under a second when there is nothing to do. PYTHON sets
# another Python. --dev also installs what tests need: curl, Node, the packages of tests/js, the
# Python clients in .venv-clients, caddy, chromium, nginx, prometheus and systemd's checker. SLIM=1
# leaves the neural engines out.
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "setup: $*" >&2
    exit 1
}

install() {
    command -v apt-get >/dev/null || fail "install $* with your package manager, then run this again"
    as_root=""
    if [ "$(id -u)" != 0 ]; then
        # Without a terminal sudo cannot ask for a password.
        if ! command -v sudo >/dev/null || ! { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
            fail "missing: $*; run this as root: apt-get update && apt-get install -y $*"
        fi
        as_root=sudo
    fi
    echo "setup: installing with apt: $*"
    # The package lists of a fresh machine are empty or old, so after a failure update them once.
    set -- env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 install -y \
        --no-install-recommends "$@"
    $as_root "$@" >/dev/null 2>&1 || { $as_root apt-get -qq update && $as_root "$@" >/dev/null; } ||
        fail "apt-get could not install the packages, see above"
}

candidates="${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}"

find_python() {
    python=""
    for name in $candidates; do
        "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        python=$name
        "$name" -c 'import ensurepip, venv' 2>/dev/null && return
    done
    return 1
}

if ! find_python; then
    if [ -n "$python" ]; then
        install "$(basename "$python")-venv" # Debian has venv in a package of its own
    elif command -v python3 >/dev/null; then
        install python3.11 python3.11-venv # beside the system's Python, which is older
    else
        install python3 python3-venv
    fi
    find_python || fail "Python 3.11 or newer with venv is needed; install it or set PYTHON to its path"
fi

if ! [ -f .venv/setup-stamp ]; then
    facts='import sys, sysconfig; print("%d.%d" % sys.version_info[:2], sysconfig.get_path("include"))'
    read -r version include <<END
$("$python" -c "$facts")
END
    case $version in
    3.11 | 3.13) ;; # pocketsphinx has wheels for these only; for others it must be compiled
    *)
        if ! command -v cc >/dev/null || ! [ -f "$include/Python.h" ]; then
            install gcc libc6-dev "python$version-dev"
        fi
        ;;
    esac
fi

if ! command -v flite >/dev/null; then
    if command -v apt-get >/dev/null; then
        install flite
    else
        echo "setup: flite not found: install it, or the minimal voice will not speak" >&2
    fi
fi

case " $* " in
*" --dev "*)
    if ! command -v curl >/dev/null && command -v apt-get >/dev/null; then
        install curl # tests run the examples in the documentation
    fi
    if command -v apt-get >/dev/null; then
        # Tests run these for real, each with its own files and port.
        missing=""
        for name in caddy chromium nginx prometheus; do
            [ -x "/usr/bin/$name" ] || [ -x "/usr/sbin/$name" ] || missing="$missing $name"
        done
        [ -x /usr/bin/systemd-analyze ] || missing="$missing systemd" # it checks the unit
        # shellcheck disable=SC2086  # names of packages, one word each
        if [ -n "$missing" ]; then
            install $missing
            if [ -d /run/systemd/system ]; then # nobody wants them as services of the machine
                $as_root systemctl disable --now caddy nginx prometheus 2>/dev/null || true
            fi
        fi
    fi
    if ! command -v npm >/dev/null && command -v apt-get >/dev/null; then
        # Keep a node that is installed already; Debian has npm in a package of its own.
        if command -v node >/dev/null; then install npm; else install nodejs npm; fi
    elif ! command -v npm >/dev/null; then
        echo "setup: npm not found: install Node and npm, or tests of JavaScript clients fail" >&2
    fi
    ;;
esac

exec "$python" ops/setup.py "$@"
