//! Cost of a plan at 360 billion and at 15 trillion tokens: `just bench plan`.
//!
//! Estimate: a plan is a few hundred bytes and some keys; to place a window takes one or two cycle
//! walks of 12 rounds of SipHash each, about a microsecond. Nothing depends on the number of
//! tokens.
//!
//! A seek is timed on the wall. Another process may take the core in the middle of one, and on a
//! busy machine that is the maximum; so the maximum is given again over the seeks in which the
//! system took the core from nobody.
//!
//! **Invariant:** every window that is sought is looked up back, and both plans have the sizes
//! worked out by hand.

use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use benches::random::Random;
use plan::{PhaseSpec, Plan, PlanSpec};
use schemas::run::{Share, Shuffle};

const STEP_TOKENS: u64 = 2_097_152;
const SEEKS: usize = 10_000;
/// Bounds the plan must keep.
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

/// A number after `name:` in a file about this thread or process; 0 where the system does not
/// tell.
fn status(file: &str, name: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// Makes the memory that this process has now its peak so far, and returns it in bytes.
fn reset_peak_bytes() -> u64 {
    let _not_on_this_system = std::fs::write("/proc/self/clear_refs", "5");
    1024 * status("/proc/self/status", "VmRSS")
}

/// Times of seeks, and whether the thread kept its core all through each.
struct Seeks {
    times: Vec<(Duration, bool)>,
}

impl Seeks {
    fn new() -> Seeks {
        // Touched now, so that the peak of memory is the plan's.
        let mut times = vec![(Duration::MAX, true); SEEKS];
        times.clear();
        Seeks { times }
    }

    fn time<T>(&mut self, seek: impl FnOnce() -> T) -> T {
        let switches = || {
            status("/proc/thread-self/status", "nonvoluntary_ctxt_switches")
                + status("/proc/thread-self/status", "voluntary_ctxt_switches")
        };
        let before = switches();
        let started = Instant::now();
        let sought = black_box(seek());
        let elapsed = started.elapsed();
        self.times.push((elapsed, switches() == before));
        sought
    }

    /// Median, 99th and 99.9th percentile, maximum, and the maximum and number of those with the
    /// core all through.
    fn sorted(&mut self) -> Percentiles {
        self.times.sort();
        let at =
            |share: f64| self.times[((self.times.len() - 1) as f64 * share).round() as usize].0;
        let kept = || self.times.iter().filter(|(_, kept_core)| *kept_core);
        Percentiles {
            median: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
            kept_core_max: kept().next_back().map_or(Duration::ZERO, |(time, _)| *time),
            kept_core_count: kept().count(),
        }
    }
}

struct Percentiles {
    median: Duration,
    p99: Duration,
    p999: Duration,
    max: Duration,
    kept_core_max: Duration,
    kept_core_count: usize,
}

impl std::fmt::Display for Percentiles {
    fn fmt(&self, out: &mut std::fmt::Formatter) -> std::fmt::Result {
        let Percentiles { median, p99, p999, max, kept_core_max, kept_core_count } = self;
        write!(
            out,
            "median {median:?}, p99 {p99:?}, p99.9 {p999:?}, max {max:?} ({kept_core_max:?} in the \
             {kept_core_count} that kept the core)"
        )
    }
}

fn measure(out: &mut impl std::io::Write, name: &str, spec: &PlanSpec) -> std::io::Result<()> {
    let (mut steps, mut windows) = (Seeks::new(), Seeks::new());
    let before = reset_peak_bytes();
    let started = Instant::now();
    let plan = Plan::new(spec).expect("sizes that fit");
    let built = started.elapsed();
    let first: Vec<_> = plan.step(0).collect();
    let first_step = started.elapsed();
    assert_eq!(first.len() as u64, STEP_TOKENS / 8192);
    let blocks = spec.corpus_tokens / 8192;
    assert_eq!(plan.step_count(), 6 * blocks * 8192 / STEP_TOKENS);
    // Seek to steps all over the run: a whole step's windows, and one window alone.
    let mut random = Random::new(1, spec.corpus_tokens);
    for _ in 0..SEEKS {
        let step = random.below(usize::try_from(plan.step_count()).expect("64 bits")) as u64;
        let count = steps.time(|| plan.step(step).map(black_box).count() as u64);
        assert_eq!(count, plan.phase_of(step).windows_per_step);
        let slot = random.below(count as usize) as u64;
        let window = windows.time(|| plan.window(step, slot));
        let found = plan.find(window.epoch, window.first_token + window.token_count - 1);
        assert_eq!(found.map(|found| (found.step, found.slot)), Some((step, slot)));
    }
    let peak = 1024 * status("/proc/self/status", "VmHWM");
    let (memory, file) = (peak.saturating_sub(before), plan_file(&plan).len());
    let (steps, windows) = (steps.sorted(), windows.sorted());
    writeln!(out, "{name}: built in {built:?}, first step known after {first_step:?}")?;
    writeln!(out, "    all windows of a step: {steps}")?;
    writeln!(out, "    one window: {windows}")?;
    writeln!(
        out,
        "    peak of memory {memory} bytes more than before; identity of the plan {file} bytes"
    )?;
    assert!(steps.kept_core_max < SEEK_MAX, "a seek takes less than {SEEK_MAX:?}");
    assert!(file < PLAN_FILE_BYTES_MAX && memory < MEMORY_BYTES_MAX);
    Ok(())
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "steps of {STEP_TOKENS} tokens, {SEEKS} random ones each")?;
    for (corpus, tokens) in [("360B", 360_000_000_000), ("15T", 15_000_000_000_000)] {
        for (kind, shuffle) in
            [("global", Shuffle::Global), ("blocked", Shuffle::Blocked { group_blocks: 4096 })]
        {
            measure(&mut out, &format!("{corpus} {kind}"), &spec(tokens, shuffle))?;
        }
    }
    Ok(())
}
