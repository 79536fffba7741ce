#!/usr/bin/env bash
# Builds a fuzz target with libFuzzer's instrumentation on stable Rust and runs it:
#
#   run.sh TARGET [SECONDS] [OPTION...]
#
# Findings are kept below $CARGO_TARGET_DIR/fuzz; the seeds are in fuzz/seeds/TARGET.
set -euo pipefail
cd "$(dirname "$0")"
target=$1 seconds=${2:-60}
shift; shift || true
out=${CARGO_TARGET_DIR:-../target}/fuzz
# The pass is the compiler's own, its options are not stable: that is what RUSTC_BOOTSTRAP is for.
export RUSTC_BOOTSTRAP=1
export RUSTFLAGS="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1 --cfg fuzzing"
# With a target named, build scripts and macros are built without the instrumentation.
triple=$(rustc -vV | sed -n 's/^host: //p')
CARGO_TARGET_DIR=$out cargo build --release --locked --target "$triple" --bin "$target"
corpus=$out/corpus/$target
mkdir -p "$corpus" "$out/artifacts"
exec "$out/$triple/release/$target" "$corpus" "seeds/$target" -max_total_time="$seconds" \
    -artifact_prefix="$out/artifacts/$target-" -print_final_stats=1 "$@"
