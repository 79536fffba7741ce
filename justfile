# The only list of commands. `./bootstrap.sh RECIPE` runs them where `just` is not installed.

set positional-arguments := true

target := env("CARGO_TARGET_DIR", justfile_directory() / "target")
patchmill := target / "release/patchmill"
patchmill_train := target / "release/patchmill-train"

[private]
default:
    @"{{ just_executable() }}" --justfile "{{ justfile() }}" --list --unsorted

# Install libtorch 2.13.0 into the cache, unless LIBTORCH names one
setup:
    @trainer/libtorch.sh

# Build both binaries into target/release
build: setup
    cargo build --release --package pipeline --package trainer --bins

# Train by a run file; without one on the fixtures, a few minutes on 2 cores
[no-cd]
pretrain *arguments: build
    #!/bin/sh
    set -eu
    fixtures="{{ justfile_directory() }}/fixtures/pretrain.toml"
    case ${1:--} in -*) set -- "$fixtures" "$@" ;; esac
    if [ "$1" -ef "$fixtures" ]; then
        "{{ just_executable() }}" --justfile "{{ justfile() }}" corpora
    fi
    exec "{{ patchmill_train }}" pretrain "$@"

# Tokenize the fixtures into corpora/fixtures/{train,valid}, unless that is done
corpora: build (tokenize-fixture "train") (tokenize-fixture "valid")

[private]
tokenize-fixture split:
    #!/bin/sh
    set -eu
    out="corpora/fixtures/$1"
    # Done means finished, and with today's tokenizer.
    if [ -e "$out/manifest.json" ] \
        && cmp -s fixtures/tokenizer/tokenizer.json "$out/tokenizer/tokenizer.json"; then
        exit 0
    fi
    "{{ patchmill }}" tokenize --force --tokenizer fixtures/tokenizer --out "$out" \
        "fixtures/text/$1"

# Check that the run on the fixtures learned: validation perplexity at most a quarter of the unigram
# model's
check-learned: build
    #!/bin/sh
    set -eu
    "{{ patchmill_train }}" pretrain fixtures/pretrain.toml --json | tail -n 1 | python3 -c '
    import json, sys
    report = json.load(sys.stdin)
    found, unigram = report["validation"]["perplexity"], report["unigram_perplexity"]
    fresh, carried = (phase["first_eval_loss"] for phase in report["phases"])
    print(f"perplexity {found:.2f}, unigram {unigram:.2f}, ratio {found / unigram:.3f}")
    print(f"token-level loss at the switch {carried:.4f}, of a fresh model {fresh:.4f}")
    sys.exit(not (found <= unigram / 4 and carried < fresh))
    '

# All tests, those that train included
test *arguments: setup
    cargo test --workspace --features tests/trainer --no-fail-fast "$@"

# The tests that need no libtorch: schemas, pipeline and their cross-crate tests
test-core *arguments:
    cargo test "$@"

# All that CI runs but for `pretrain`: formatting, lints, tests, model checks, documentation,
# dependencies
check: fmt clippy test loom shuttle doc deny

# Check the formatting
fmt:
    cargo fmt --all --check

# Lint everything; a warning is an error
clippy: setup
    cargo clippy --workspace --all-targets --features tests/trainer,benches/trainer -- -D warnings

# Build the documentation, private items included; a warning is an error
doc: setup
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items

# Check licences and sources of all dependencies
deny:
    "$(python3 tools/fetch.py cargo-deny)/cargo-deny" --all-features check bans licenses sources

# Does the trainer build and link against the CUDA libtorch, start, and refuse a GPU that is not
# there? Needs no GPU; downloads 2.5 GB, takes 4 GB in the cache and 2 GB in target/cuda. Not part
# of CI
check-cuda:
    #!/bin/sh
    set -eu
    libtorch=$(python3 tools/fetch.py libtorch-cuda)
    export LIBTORCH="$libtorch/torch" CARGO_TARGET_DIR="{{ target }}/cuda"
    export CARGO_PROFILE_DEV_DEBUG=none CARGO_INCREMENTAL=0
    cargo build --package trainer --bins
    train="$CARGO_TARGET_DIR/debug/patchmill-train"
    report=$("$train" doctor)
    printf '%s\n' "$report"
    fail() { echo "error: $*" >&2; exit 1; }
    case $report in
    *"cuda code          built in"*) ;;
    *) fail "the CUDA part of the shim is not built in" ;;
    esac
    case $report in
    *"libtorch_cuda      $LIBTORCH/lib/libtorch_cuda.so"*) ;;
    *) fail "libtorch_cuda.so of $LIBTORCH is not loaded" ;;
    esac
    case $report in
    *"cuda devices       0"*)
        if message=$("$train" eval --model fixtures --data fixtures --device cuda 2>&1); then
            fail "a GPU that is not there was not refused"
        fi
        printf '%s\n' "$message"
        case $message in
        *"sees 0 CUDA devices: "*) ;;
        *) fail "expected a message that says how many CUDA devices there are" ;;
        esac
        ;;
    *) echo "there is a GPU here: just test-cuda" ;;
    esac

# The first checks on a machine with a GPU: parity in fp32 and bf16, updates, graphs, copies,
# waits, speed and MFU of 370M
test-cuda:
    #!/bin/sh
    set -eu
    libtorch=$(python3 tools/fetch.py libtorch-cuda)
    export LIBTORCH="$libtorch/torch" CARGO_TARGET_DIR="{{ target }}/cuda"
    exec cargo test --release --package tests --features trainer -- \
        --test-threads=1 --nocapture cuda::

# Print how many rounds of the permutation each statistic needs: the table of
# pipeline/plan/README.md
permutation-rounds:
    cargo test --package tests --test tests -- --ignored --nocapture print_the_rounds_needed

# Run a bench, or all of them
bench name="*" *arguments: setup
    shift; cargo bench --package benches --features trainer --bench "{{ name }}" "$@"

# Do all ids equal those of the tokenizers crate? On inputs and on a set of awkward documents, in
# release
exactness tokenizer +inputs:
    #!/bin/sh
    set -eu
    tokenizer=$1; shift
    cargo run --release --package benches --example exactness -- \
        --adversarial --tokenizer "$tokenizer" "$@"

# The same for random inputs: 10^7 of up to 128 bytes and 10^4 of up to 64 KiB, with slices of the
# given inputs
fuzz-encoder tokenizer +inputs:
    #!/bin/sh
    set -eu
    tokenizer=$1; shift
    cargo run --release --package benches --example fuzz_encoder -- --tokenizer "$tokenizer" "$@"

# Encoder and whole stage beside other people's tokenizers in interleaved rounds;
# benches/peers/tokenizers/README.md
[no-cd]
bench-peers work *corpus:
    "{{ justfile_directory() }}/benches/peers/tokenizers/run.sh" "$@"

# Loaders beside other people's in interleaved rounds, and what memory allows;
# benches/peers/loaders/README.md
[no-cd]
bench-loaders work *options:
    "{{ justfile_directory() }}/benches/peers/loaders/run.sh" "$@"

# A training step beside PyTorch's in interleaved rounds: speed, memory, products alone;
# benches/peers/trainer/README.md
[no-cd]
bench-trainer work *options: setup
    "{{ justfile_directory() }}/benches/peers/trainer/run.sh" "$@"

# PEERS_VENV as made by bench-loaders.
# Tokens read twice and never at a switch of window length, ours and peers'
bench-overlap *options: build-patchmill
    #!/bin/sh
    set -eu
    python="${PEERS_VENV:?the venv made by bench-loaders}/bin/python"
    exec "$python" benches/plan/overlap.py --patchmill "{{ patchmill }}" "$@"

# PEERS_VENV as above.
# Cost of a plan: ours at 360B and 15T tokens, then peers' at sizes that fit
bench-plans *options:
    #!/bin/sh
    set -eu
    cargo bench --package benches --bench plan
    exec "${PEERS_VENV:?the venv made by bench-loaders}/bin/python" \
        benches/plan/cost_of_peers.py "$@"

# From nothing open to the first batch of a corpus of 720 GB in 1,000 shards (sparse files, 1.9 GB),
# and at 50 %
bench-open work *options: build-patchmill
    #!/bin/sh
    set -eu
    work=$1; shift
    cargo build --release --package benches --example make_corpus --example open_corpus
    exec python3 benches/loader/open_at_scale.py --patchmill "{{ patchmill }}" \
        --examples "{{ target }}/release/examples" --work "$work" "$@"

# Does the NumPy reader of docs/shards.md agree with patchmill? Needs NumPy
check-read-shards: build-patchmill
    "${PYTHON:-python3}" benches/corpus/check_read_shards.py --patchmill "{{ patchmill }}"

# The parts of tokenize alone, and the most one core can reach with them
stage-floor tokenizer +inputs:
    #!/bin/sh
    set -eu
    tokenizer=$1; shift
    cargo run --release --package benches --example stage_floor -- --tokenizer "$tokenizer" "$@"

# Where a running tokenize spends its time; needs perf
profile tokenizer work +inputs: build-patchmill
    #!/bin/sh
    set -eu
    tokenizer=$1; work=$2; shift 2
    exec python3 benches/write/perf_profile.py --patchmill "{{ patchmill }}" \
        --tokenizer "$tokenizer" --work "$work" "$@"

# Peak memory of tokenize on inputs and on ten times of them
bench-memory tokenizer work +inputs: build-patchmill
    #!/bin/sh
    set -eu
    tokenizer=$1; work=$2; shift 2
    exec python3 benches/write/memory.py --patchmill "{{ patchmill }}" \
        --tokenizer "$tokenizer" --work "$work" "$@"

# Does bf16 track fp32, and fp32 itself? 200 steps of the fixtures' run at two rates, losses
# compared step by step; --peer PYTHON for PyTorch's
bench-bf16 work *arguments: corpora
    #!/bin/sh
    set -eu
    work=$1; shift
    exec python3 benches/step/bf16_fp32.py --train "{{ patchmill_train }}" \
        --patchmill "{{ patchmill }}" --work "$work" "$@"

# Kill tokenize and merge 200 times and fill the disk 20 times (as root); resumed runs must end the
# same, byte for byte
faults work *arguments: build-patchmill
    #!/bin/sh
    set -eu
    work=$1; shift
    exec python3 benches/faults/faults.py --patchmill "{{ patchmill }}" --work "$work" "$@"

# As root; skips what is not installed. HF_VENV names a folder made by benches/hf_venv.sh, for its
# torchrun. Not part of CI.
# Run every cluster command of the documents on two machines made of namespaces
check-cluster work *names: setup
    #!/bin/sh
    set -eu
    work=$1; shift
    cargo build --package pipeline --package trainer --bins
    [ -z "${HF_VENV:-}" ] || set -- --torchrun "$HF_VENV/bin/torchrun" "$@"
    exec python3 tools/cluster/check.py --programs "{{ target }}/debug" --work "$work" "$@"

# The protocol of the loader's rings under every schedule of small cases (loom)
loom:
    RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR="{{ target }}/loom" \
        cargo test --release --package ring --test model

# The same under many random schedules of larger cases (shuttle)
shuttle schedules="5000":
    SCHEDULES="{{ schedules }}" RUSTFLAGS="--cfg shuttle" \
        CARGO_TARGET_DIR="{{ target }}/shuttle" \
        cargo test --release --package ring --test model

# Real threads on real rings under ThreadSanitizer, with the stable compiler
tsan rounds="2000":
    ROUNDS="{{ rounds }}" RUSTC_BOOTSTRAP=1 \
        TSAN_OPTIONS="halt_on_error=1 suppressions={{ justfile_directory() }}/tools/tsan.supp" \
        RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer" \
        CARGO_TARGET_DIR="{{ target }}/tsan" cargo test --release --package ring --test stress \
        --target "$(rustc -vV | sed -n 's/^host: //p')"

# Does loom notice when any part of that protocol is taken away?
ring-mutants work:
    python3 tools/ring_mutants.py "$1"

# Start and stop a loader so many times: no thread, descriptor or mapping may be left, and nothing
# is allocated per batch
loader-cycles cycles="10000":
    CYCLES="{{ cycles }}" cargo test --release --package pipeline --test loader_life -- --nocapture

# Do Megatron-core, OLMo-core, nanoGPT and datatrove read our exports, and is what comes back the
# same? Python with them in PYTHON
exchange work *arguments: build-patchmill
    #!/bin/sh
    set -eu
    work=$1; shift
    exec "${PYTHON:-python3}" benches/exchange/round_trip.py --patchmill "{{ patchmill }}" \
        --work "$work" "$@"

[private]
build-patchmill:
    cargo build --release --package pipeline --bins

# Fuzz one of our own parsers: json, shard, manifest or record, with libFuzzer on the stable
# compiler
fuzz target seconds="60" *options:
    fuzz/run.sh "$@"
