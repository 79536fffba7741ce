#!/bin/sh
# Sets up a fresh machine: finds or installs `just`, then runs one of its recipes.
#
# usage: ./bootstrap.sh [--cuda|--cpu] [RECIPE [ARGUMENTS…]]     without a recipe: lists them
#
# Needs Rust, a C++ compiler and python3 with pip. Changes nothing outside this folder and the cache
# (${XDG_CACHE_HOME:-~/.cache}/patchmill). --cuda takes the CUDA flavour of libtorch; later runs
# keep it until --cpu.
set -eu

root=$(cd "$(dirname "$0")" && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

case ${1:-} in
-h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
--cuda | --cpu)
    PATCHMILL_LIBTORCH=${1#--}
    export PATCHMILL_LIBTORCH
    shift
    ;;
-*)
    echo "error: unknown option $1; usage: ./bootstrap.sh [--cuda|--cpu] [RECIPE [ARGUMENTS…]]" >&2
    exit 2
    ;;
esac

# Set but empty, it would hide the libtorch installed by set-up.
[ -n "${LIBTORCH:-}" ] || unset LIBTORCH

# A shell opened before rustup ran does not have cargo on its PATH.
if ! command -v cargo >/dev/null 2>&1 && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
    PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
    export PATH
fi
command -v cargo >/dev/null 2>&1 || fail "cargo was not found; install Rust: https://rustup.rs"
version=$(rustc --version) || fail "rustc does not run (see above)"
oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
echo "$version" | awk -v oldest="$oldest" '{
    split($2, found, "."); split(oldest, want, ".")
    exit !(found[1] > want[1] || (found[1] == want[1] && found[2] >= want[2]))
}' || fail "$version is too old; Patchmill needs Rust $oldest or newer: rustup update stable"
command -v "${CXX:-c++}" >/dev/null 2>&1 ||
    fail "no C++ compiler (${CXX:-c++}) was found; install one (Debian: apt install g++; Fedora:" \
        "dnf install gcc-c++)"

# A `just` too old for the justfile is ignored.
if ! just=$(command -v just) \
    || ! "$just" --justfile "$root/justfile" --summary >/dev/null 2>&1; then
    just=${XDG_CACHE_HOME:-$HOME/.cache}/patchmill/just-1.59.0/just
    if [ ! -x "$just" ]; then
        command -v python3 >/dev/null 2>&1 ||
            fail "neither just nor python3 was found; install python3 with pip (Debian: apt" \
                "install python3-pip), or just: https://just.systems"
        just=$(python3 "$root/tools/fetch.py" just)/just
    fi
fi
exec "$just" --justfile "$root/justfile" "$@"
