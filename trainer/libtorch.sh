#!/bin/sh
# Makes libtorch 2.13.0 ready for `cargo build -p trainer`: target/libtorch becomes a link to a
# folder in the cache, and .cargo/config.toml points LIBTORCH at target/libtorch/torch. A LIBTORCH
# that the caller has set wins. PATCHMILL_LIBTORCH=cpu|cuda chooses the flavour; without it the one
# that is linked now stays, at first cpu.
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
        echo "error: LIBTORCH is $LIBTORCH, which has no lib/libtorch_cpu.so; correct it, or unset it to have libtorch installed" >&2
        exit 1
    fi
    if [ "$flavour" = cuda ] && [ ! -e "$LIBTORCH/lib/libtorch_cuda.so" ]; then
        echo "error: --cuda was asked for, but LIBTORCH is $LIBTORCH, which has no lib/libtorch_cuda.so; unset it to have libtorch installed" >&2
        exit 1
    fi
    version=$(cat "$LIBTORCH/build-version" 2>/dev/null || echo unknown)
    case $version in
    2.13.0*) ;;
    *) echo "warning: LIBTORCH is $LIBTORCH, of version $version; this project is built for 2.13.0" >&2 ;;
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
    # torch-sys looks at the value of LIBTORCH, which stays the same: what was linked for the other
    # flavour has to go.
    cd "$root"
    for profile in dev release; do
        cargo clean --quiet --profile "$profile" -p torch-sys -p trainer -p tests -p benches
    done
    ;;
esac
