//! What a plan costs at 360 billion and at 15 trillion tokens: `just bench plan`.
//!
//! Estimate: a plan is a few hundred bytes and some keys; to place a window takes one or two cycle walks of 12 rounds of
//! SipHash each, about a microsecond. Nothing depends on the number of tokens.
//!
//! **Invariant:** every window that is sought is looked up back, and both plans have the sizes worked out by hand.

use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use pipeline::plan::{PhaseSpec, Plan, PlanSpec};
use schemas::run::{Share, Shuffle};

const STEP_TOKENS: u64 = 2_097_152;
const SEEKS: u64 = 2000;
/// What the plan is to keep.
const SEEK_MAX: Duration = Duration::from_millis(5);
const PLAN_FILE_BYTES_MAX: usize = 1024;
const MEMORY_BYTES_MAX: u64 = 1 << 20;

/// The paper's recipe with λ = 2/3 over the whole corpus, six times.
fn spec(corpus_tokens: u64, shuffle: Shuffle) -> PlanSpec {
    let phase = |patch_size, numer| PhaseSpec {
        patch_size,
        window_units: 2048,
        share: Share::new(numer, 3).expect("a fraction"),
    };
    PlanSpec {
        corpus_tokens,
        corpus_fingerprint: Some("0".repeat(64)),
        subset_tokens: None,
        step_tokens: STEP_TOKENS,
        epochs: 6,
        seed: 1,
        shuffle,
        sets: Vec::new(),
        phases: vec![phase(4, 2), phase(1, 1)],
    }
}

/// The plan's file form: what a checkpoint stores of it.
fn plan_file(plan: &Plan) -> String {
    let identity: serde_json::Map<_, _> = plan.identity().into_iter().collect();
    serde_json::Value::from(identity).to_string()
}

/// Resident memory of this process, in bytes; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}

fn median(times: &mut [Duration]) -> (Duration, Duration, Duration) {
    times.sort();
    (times[0], times[times.len() / 2], times[times.len() - 1])
}

fn measure(out: &mut impl std::io::Write, name: &str, spec: &PlanSpec) -> std::io::Result<()> {
    let before = resident_bytes();
    let started = Instant::now();
    let plan = Plan::new(spec).expect("sizes that fit");
    let built = started.elapsed();
    let first: Vec<_> = plan.step(0).collect();
    let first_step = started.elapsed();
    assert_eq!(first.len() as u64, STEP_TOKENS / 8192);
    let blocks = spec.corpus_tokens / 8192;
    assert_eq!(plan.step_count(), 6 * blocks * 8192 / STEP_TOKENS);
    // Seek to steps all over the run: a whole step's windows, and one window alone.
    let (mut steps, mut windows) = (Vec::new(), Vec::new());
    for seek in 0..SEEKS {
        let step = seek * 999_983 % plan.step_count();
        let started = Instant::now();
        let count = plan.step(step).map(black_box).count() as u64;
        steps.push(started.elapsed());
        assert_eq!(count, plan.phase_of(step).windows_per_step);
        let slot = seek % count;
        let started = Instant::now();
        let window = black_box(plan.window(step, slot));
        windows.push(started.elapsed());
        let found = plan.find(window.epoch, window.first_token + window.token_count - 1);
        assert_eq!(found.map(|found| (found.step, found.slot)), Some((step, slot)));
    }
    let (memory, file) = (resident_bytes().saturating_sub(before), plan_file(&plan).len());
    let ((low, mid, high), (one_low, one_mid, one_high)) =
        (median(&mut steps), median(&mut windows));
    writeln!(
        out,
        "{name:22} built {built:?}, first step known after {first_step:?}; all windows of a step: median {mid:?} ({low:?} to \
         {high:?}); one window: {one_mid:?} ({one_low:?} to {one_high:?}); {memory} bytes more resident; plan file {file} bytes"
    )?;
    assert!(mid < SEEK_MAX && one_mid < SEEK_MAX, "a seek takes less than {SEEK_MAX:?}");
    assert!(file < PLAN_FILE_BYTES_MAX && memory < MEMORY_BYTES_MAX);
    Ok(())
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "steps of {STEP_TOKENS} tokens, {SEEKS} seeks each")?;
    for (corpus, tokens) in [("360B", 360_000_000_000), ("15T", 15_000_000_000_000)] {
        for (kind, shuffle) in
            [("global", Shuffle::Global), ("blocked", Shuffle::Blocked { group_blocks: 4096 })]
        {
            measure(&mut out, &format!("{corpus} {kind}"), &spec(tokens, shuffle))?;
        }
    }
    Ok(())
}
