//! The laws of the plan, on random recipes, and answers worked out by hand.

use std::collections::{BTreeMap, BTreeSet};

use plan::{PhaseSpec, Plan, PlanError, PlanSpec, Reading, Window};
use proptest::prelude::*;
use schemas::run::{Share, Shuffle};

fn share(numer: u64, denom: u64) -> Share {
    Share::new(numer, denom).unwrap()
}

/// Recipes of one to four phases, whose windows each divide the one before: ladders such as 8 → 4 →
/// 1, phases with a T of their own, shares of 0 and 1, steps that span epochs.
pub(crate) fn specs() -> impl Strategy<Value = PlanSpec> {
    let ladder = prop::collection::vec((1u64..=4, 0usize..4, 0u64..=3), 1..=4);
    let sizes = (1u64..=4, 1u64..=30, 0u64..24, 1u64..=5, 1u64..=4);
    (ladder, sizes, any::<u64>(), prop::option::of(1u64..=30), shuffles()).prop_filter_map(
        "a share too small for a step",
        |(ladder, sizes, seed, subset, shuffle)| {
            let (last_window, blocks, tail, step_blocks, epochs) = sizes;
            let denom: u64 = ladder.iter().map(|(_, _, weight)| weight).sum();
            let mut window = last_window;
            let mut phases = Vec::new();
            for (ratio, divisor, weight) in ladder.into_iter().rev() {
                window *= ratio;
                let sizes: Vec<u64> = (1..=window).filter(|k| window.is_multiple_of(*k)).collect();
                let patch_size = sizes[divisor % sizes.len()];
                let window_units = window / patch_size;
                let share = Share::new(weight, denom).ok()?;
                phases.insert(0, PhaseSpec { patch_size, window_units, share });
            }
            let spec = PlanSpec {
                corpus_tokens: blocks * window + tail % window,
                corpus_fingerprint: None,
                subset_tokens: subset.map(|subset| subset.min(blocks) * window),
                step_tokens: step_blocks * window,
                epochs,
                seed,
                shuffle,
                sets: Vec::new(),
                phases,
            };
            Plan::new(&spec).is_ok().then_some(spec)
        },
    )
}

fn shuffles() -> impl Strategy<Value = Shuffle> {
    prop_oneof![
        4 => Just(Shuffle::Global),
        4 => (1u64..12).prop_map(|group_blocks| Shuffle::Blocked { group_blocks }),
        1 => Just(Shuffle::None),
    ]
}

pub(crate) fn all_windows(plan: &Plan) -> Vec<Window> {
    (0..plan.step_count()).flat_map(|step| plan.step(step)).collect()
}

/// Tokens read in each epoch, with how often.
fn reads(plan: &Plan) -> Vec<BTreeMap<u64, u64>> {
    let mut reads = vec![BTreeMap::new(); plan.spec().epochs as usize];
    for window in all_windows(plan) {
        for token in window.first_token..window.first_token + window.token_count {
            *reads[window.epoch as usize].entry(token).or_default() += 1;
        }
    }
    reads
}

fn subset_of(plan: &Plan) -> BTreeSet<u64> {
    reads(plan).iter().flat_map(|epoch| epoch.keys().copied()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// So the windows of different phases share no token within an epoch.
    #[test]
    fn epochs_read_every_token_of_the_subset_once(spec in specs()) {
        let plan = Plan::new(&spec).unwrap();
        let reads = reads(&plan);
        let mut unread = 0;
        for (epoch, reads) in reads.iter().enumerate() {
            let are_once = reads.values().all(|&times| times == 1);
            prop_assert!(are_once, "epoch {epoch} reads a token twice");
            let whole = spec.corpus_tokens - plan.tail_tokens();
            prop_assert!(reads.keys().all(|&token| token < whole));
            let missing = plan.subset_tokens() - reads.len() as u64;
            let is_last_read =
                (epoch as u64 + 1) * plan.subset_tokens() + spec.step_tokens > plan.run_tokens();
            prop_assert!(missing == 0 || is_last_read, "epoch {epoch} misses {missing} tokens");
            unread += missing;
        }
        prop_assert_eq!(unread, plan.unread_tokens());
        prop_assert!(unread < spec.step_tokens);
        let subset = subset_of(&plan).len() as u64;
        prop_assert!(subset <= plan.subset_tokens(), "epochs read different subsets");
    }

    #[test]
    fn steps_and_phases_add_up(spec in specs()) {
        let plan = Plan::new(&spec).unwrap();
        let (mut steps, mut windows, mut run_share) = (0, 0, 0.0);
        for (phase_index, phase) in plan.phases().iter().enumerate() {
            prop_assert_eq!(phase.first_step, steps);
            prop_assert_eq!(phase.first_window, windows);
            prop_assert_eq!(phase.windows_per_step * phase.window_tokens, spec.step_tokens);
            prop_assert_eq!(phase.tokens, phase.windows * phase.window_tokens);
            prop_assert_eq!(phase.windows, phase.steps * phase.windows_per_step);
            prop_assert_eq!(phase.steps == 0, phase.share.numer() == 0);
            for step in phase.step_range() {
                prop_assert_eq!(plan.phase_index_of(step), phase_index);
                let read: Vec<Window> = plan.step(step).collect();
                prop_assert_eq!(read.len() as u64, phase.windows_per_step);
                let expected = (phase_index, phase.window_tokens);
                prop_assert!(read.iter().all(|w| (w.phase_index, w.token_count) == expected));
                let are_aligned = read.iter().all(|w| w.first_token % w.token_count == 0);
                prop_assert!(are_aligned, "windows are aligned");
            }
            steps += phase.steps;
            windows += phase.windows;
            run_share += phase.share.numer() as f64 / phase.share.denom() as f64;
            let asked = run_share * plan.run_tokens() as f64 / spec.step_tokens as f64;
            let is_rounded_down =
                steps as f64 <= asked + 1e-9 && asked - 1.0 < steps as f64 + 1e-9;
            prop_assert!(is_rounded_down, "{steps} of {asked} steps");
        }
        prop_assert_eq!(steps, plan.step_count());
        prop_assert_eq!(windows, plan.window_count());
        prop_assert_eq!(steps * spec.step_tokens + plan.unread_tokens(), plan.run_tokens());
        prop_assert_eq!(plan.run_tokens(), spec.epochs * plan.subset_tokens());
    }

    /// Windows looked up together equal those looked up one by one.
    #[test]
    fn windows_of_a_step_are_those_of_its_slots(spec in specs(), step: u64) {
        let plan = Plan::new(&spec).unwrap();
        let step = step % plan.step_count();
        let expected: Vec<Window> = plan.step(step).collect();
        let mut cursor = plan.cursor();
        // Its old contents are discarded.
        let mut found = vec![expected[0]; 3];
        for first in [0, expected.len() / 2] {
            cursor.windows(step, first as u64..expected.len() as u64, &mut found);
            prop_assert_eq!(&found[..], &expected[first..]);
        }
    }

    #[test]
    fn a_seek_gives_what_iteration_gives(spec in specs()) {
        let plan = Plan::new(&spec).unwrap();
        let mut number = 0;
        for step in 0..plan.step_count() {
            for (slot, window) in (0..).zip(plan.step(step)) {
                prop_assert_eq!(plan.window(step, slot), window);
                prop_assert_eq!(plan.window_number(step, slot), number);
                number += 1;
            }
        }
    }

    #[test]
    fn ranks_of_any_world_size_read_the_step_together(spec in specs(), world_size in 1u64..=8) {
        let plan = Plan::new(&spec).unwrap();
        for step in 0..plan.step_count() {
            let windows_per_step = plan.phase_of(step).windows_per_step;
            let cut = |rank: u64| rank * windows_per_step / world_size;
            let parts: Vec<Window> =
                (0..world_size)
                    .flat_map(|rank| plan.windows(step, cut(rank)..cut(rank + 1)))
                    .collect();
            prop_assert_eq!(parts, plan.step(step).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_look_up_is_the_inverse(spec in specs()) {
        let plan = Plan::new(&spec).unwrap();
        let mut readings = BTreeMap::new();
        for step in 0..plan.step_count() {
            for (slot, window) in (0..).zip(plan.step(step)) {
                for token in window.first_token..window.first_token + window.token_count {
                    let phase_index = window.phase_index;
                    readings.insert((window.epoch, token), Reading { phase_index, step, slot });
                }
            }
        }
        for epoch in 0..=spec.epochs {
            for token in 0..spec.corpus_tokens {
                prop_assert_eq!(plan.find(epoch, token), readings.get(&(epoch, token)).copied());
            }
        }
    }

    #[test]
    fn without_shuffle_an_epoch_reads_in_file_order(spec in specs()) {
        let plan = Plan::new(&PlanSpec { shuffle: Shuffle::None, ..spec }).unwrap();
        let mut next_token = BTreeMap::new();
        for window in all_windows(&plan) {
            let next = next_token.entry(window.epoch).or_insert(0);
            prop_assert_eq!(window.first_token, *next);
            *next += window.token_count;
        }
    }

    #[test]
    fn another_order_has_another_fingerprint(spec in specs()) {
        let plan = Plan::new(&spec).unwrap();
        prop_assert_eq!(plan.fingerprint(), Plan::new(&spec).unwrap().fingerprint());
        let changes: [fn(&mut PlanSpec); 7] = [
            |spec| spec.shuffle = match spec.shuffle {
                Shuffle::Blocked { group_blocks } => {
                    Shuffle::Blocked { group_blocks: group_blocks + 1 }
                }
                _ => Shuffle::Blocked { group_blocks: 2 },
            },
            |spec| spec.seed = spec.seed.wrapping_add(1),
            |spec| spec.epochs += 1,
            |spec| spec.corpus_fingerprint = Some("other".to_owned()),
            |spec| spec.corpus_tokens += 1,
            |spec| spec.step_tokens *= 2,
            |spec| spec.phases.push(PhaseSpec { share: share(0, 1), ..spec.phases[0] }),
        ];
        for change in changes {
            let mut spec = spec.clone();
            change(&mut spec);
            if let Ok(other) = Plan::new(&spec) {
                prop_assert_ne!(other.fingerprint(), plan.fingerprint());
                prop_assert_ne!(other.identity(), plan.identity());
            }
        }
    }
}

/// The paper's 370M row of six epochs over 60 billion tokens.
fn paper_spec(patch_share: Share, token_share: Share) -> PlanSpec {
    PlanSpec {
        corpus_tokens: 360_000_000_000,
        corpus_fingerprint: None,
        subset_tokens: Some(60_000_000_000),
        step_tokens: 2_097_152,
        epochs: 6,
        seed: 1,
        shuffle: Shuffle::Global,
        sets: Vec::new(),
        phases: vec![
            PhaseSpec { patch_size: 4, window_units: 2048, share: patch_share },
            PhaseSpec { patch_size: 1, window_units: 2048, share: token_share },
        ],
    }
}

/// Window of the patch phase and block: 4 * 2048 = 8192 tokens; of the token phase 2048. Blocks of
/// the subset: 60e9 / 8192 = 7,324,218.75, so 7,324,218 blocks of 8192 = 59,999,993,856 tokens. Six
/// epochs: 359,999,963,136 tokens = 171,661 steps of 2,097,152 (= 359,999,209,472) and 753,664
/// left. Two thirds of the run: 239,999,975,424 tokens = 114,440 steps (= 239,998,074,880) and
/// 1,900,544 more. So 171,661 - 114,440 = 57,221 token steps. A step has 256 patch windows or 1024
/// token windows. Three epochs are 179,999,981,568 tokens; the switch lies 59,998,093,312 tokens
/// into the fourth, 1,900,544 before its end: those last 232 blocks are read as 928 windows of
/// 2048.
#[test]
fn six_epochs_of_60_billion_with_two_thirds_as_patches() {
    let plan = Plan::new(&paper_spec(share(2, 3), share(1, 3))).unwrap();
    assert_eq!(plan.block_tokens(), 8192);
    assert_eq!(plan.subset_tokens(), 59_999_993_856);
    assert_eq!(plan.run_tokens(), 359_999_963_136);
    assert_eq!(plan.step_count(), 171_661);
    assert_eq!(plan.unread_tokens(), 753_664);
    assert_eq!(plan.tail_tokens(), 4096); // the corpus: 360e9 / 8192 = 43,945,312.5
    let [patch, token] = *plan.phases() else { panic!("two phases") };
    assert_eq!((patch.first_step, patch.steps, patch.windows_per_step), (0, 114_440, 256));
    assert_eq!((patch.windows, patch.tokens), (29_296_640, 239_998_074_880));
    assert_eq!((token.first_step, token.steps, token.windows_per_step), (114_440, 57_221, 1024));
    assert_eq!((token.windows, token.tokens), (58_594_304, 120_001_134_592));
    // (239,998,074,880 / 4 + 120,001,134,592) / 359,999,209,472
    assert!((plan.relative_cost() - 0.500_002_2).abs() < 1e-6);

    // Step 114,440 begins with the 928 windows of the fourth epoch, then the fifth begins.
    let first = plan.step(114_440).collect::<Vec<_>>();
    assert_eq!(first.iter().filter(|window| window.epoch == 3).count(), 928);
    assert!(first[928..].iter().all(|window| window.epoch == 4) && first[927].epoch == 3);
    assert_eq!(plan.window(114_439, 255).epoch, 3);
    // The last window of the run lies in the sixth epoch, and every reading can be looked up.
    let last = plan.window(171_660, 1023);
    assert_eq!((last.epoch, last.phase_index), (5, 1));
    let reading = Reading { phase_index: 1, step: 171_660, slot: 1023 };
    assert_eq!(plan.find(5, last.first_token + 2047), Some(reading));
}

/// Four fifths of 359,999,963,136 are 287,999,970,508.8 tokens = 137,329 steps (= 287,999,787,008).
/// Four epochs are 239,999,975,424 tokens, so the switch lies 47,999,811,584 tokens (5,859,352
/// blocks) into the fifth, and 12,000,182,272 tokens of that epoch (5,859,464 windows of 2048) are
/// read as tokens.
#[test]
fn six_epochs_of_60_billion_with_the_switch_inside_the_fifth() {
    let plan = Plan::new(&paper_spec(share(4, 5), share(1, 5))).unwrap();
    let [patch, token] = *plan.phases() else { panic!("two phases") };
    assert_eq!((patch.steps, token.steps), (137_329, 34_332));
    assert_eq!((patch.tokens, token.tokens), (287_999_787_008, 71_999_422_464));
    assert_eq!(token.windows, 35_155_968);
    // 5,859,464 windows = 5722 steps of 1024 and 136 more.
    assert_eq!(plan.window(137_329, 0).epoch, 4);
    let border = 137_329 + 5722;
    assert_eq!((plan.window(border, 135).epoch, plan.window(border, 136).epoch), (4, 5));
    // The fifth epoch reads no token both as patches and as tokens.
    for slot in (0..256).step_by(17) {
        let window = plan.window(137_328, slot);
        assert_eq!((window.epoch, window.token_count), (4, 8192));
        for token in [0, 2048, 8191] {
            let reading = plan.find(4, window.first_token + token).unwrap();
            assert_eq!((reading.step, reading.slot), (137_328, slot));
        }
        let window = plan.window(137_329 + slot, slot);
        let reading = plan.find(4, window.first_token).unwrap();
        assert_eq!((reading.phase_index, reading.step, reading.slot), (1, 137_329 + slot, slot));
    }
}

/// Blocks of 8 tokens: a corpus of 27 has 3 and a tail of 3. Two epochs are 48 tokens, 6 steps of
/// 8. One third (16 tokens, 2 steps) in windows of 8, one third (2 steps) in windows of 4, one
/// third in windows of 1.
#[test]
fn a_ladder_of_three_composes_in_file_order() {
    let third = share(1, 3);
    let plan = Plan::new(&PlanSpec {
        corpus_tokens: 27,
        corpus_fingerprint: None,
        subset_tokens: None,
        step_tokens: 8,
        epochs: 2,
        seed: 0,
        shuffle: Shuffle::None,
        sets: Vec::new(),
        phases: [8, 4, 1]
            .map(|patch_size| PhaseSpec { patch_size, window_units: 1, share: third })
            .to_vec(),
    })
    .unwrap();
    assert_eq!((plan.tail_tokens(), plan.unread_tokens(), plan.step_count()), (3, 0, 6));
    let starts = |step| plan.step(step).map(|w| (w.epoch, w.first_token)).collect::<Vec<_>>();
    assert_eq!(starts(0), [(0, 0)]);
    assert_eq!(starts(1), [(0, 8)]);
    assert_eq!(starts(2), [(0, 16), (0, 20)]);
    assert_eq!(starts(3), [(1, 0), (1, 4)]);
    assert_eq!(starts(4), (8..16).map(|token| (1, token)).collect::<Vec<_>>());
    assert_eq!(starts(5), (16..24).map(|token| (1, token)).collect::<Vec<_>>());
}

/// The reading order of a run depends on it: it must never change within an algorithm version.
#[test]
fn fingerprint_and_order_are_the_same_for_ever() {
    let plan = Plan::new(&paper_spec(share(4, 5), share(1, 5))).unwrap();
    assert_eq!(plan.fingerprint(), FINGERPRINT);
    let places = [(0, 0), (137_328, 255), (137_329, 0), (171_660, 1023)];
    assert_eq!(places.map(|(step, slot)| plan.window(step, slot).first_token), FIRST_TOKENS);
}

const FINGERPRINT: &str = "5d543a07a0d81639bd809dad5170804b20d1d5ac1c7ff7574afd6816327d365f";
const FIRST_TOKENS: [u64; 4] = [57_313_886_208, 324_350_238_720, 15_626_059_776, 62_175_741_952];

#[test]
fn shares_of_zero_and_one_keep_the_subset() {
    let all_patches = Plan::new(&paper_spec(share(1, 1), share(0, 1))).unwrap();
    let all_tokens = Plan::new(&paper_spec(share(0, 1), share(1, 1))).unwrap();
    assert_eq!(all_patches.subset_tokens(), all_tokens.subset_tokens());
    assert_eq!(all_patches.phases()[1].steps, 0);
    assert_eq!((all_tokens.phases()[0].steps, all_tokens.phases()[1].first_step), (0, 0));
    assert_eq!((all_patches.relative_cost(), all_tokens.relative_cost()), (0.25, 1.0));
    assert_eq!(all_tokens.phase_index_of(0), 1);
}

#[test]
fn windows_may_grow_at_the_border_of_an_epoch_only() {
    let spec = |first: Share, second: Share| PlanSpec {
        corpus_tokens: 96,
        corpus_fingerprint: None,
        subset_tokens: None,
        step_tokens: 24,
        epochs: 2,
        seed: 7,
        shuffle: Shuffle::Global,
        sets: Vec::new(),
        phases: vec![
            PhaseSpec { patch_size: 1, window_units: 4, share: first },
            PhaseSpec { patch_size: 2, window_units: 4, share: second },
        ],
    };
    let plan = Plan::new(&spec(share(1, 2), share(1, 2))).unwrap();
    let reads = reads(&plan);
    assert!(reads.iter().all(|epoch| epoch.len() == 96 && epoch.values().all(|&times| times == 1)));
    let err = Plan::new(&spec(share(1, 4), share(3, 4))).unwrap_err();
    assert_eq!(
        err,
        PlanError::Switch { phase_index: 1, step: 2, epoch: 0, window_tokens: 8, before_tokens: 4 }
    );
}

fn check_refused(change: impl FnOnce(&mut PlanSpec), expected: &str) {
    let mut spec = paper_spec(share(2, 3), share(1, 3));
    change(&mut spec);
    let found = Plan::new(&spec).unwrap_err().to_string();
    assert!(found.contains(expected), "found {found:?}\nexpected {expected:?}");
}

#[test]
fn numbers_that_do_not_fit_are_named() {
    check_refused(
        |spec| spec.step_tokens = 2_000_000,
        "step_tokens is 2000000, which is not a multiple of the 8192-token windows of phase 0; \
         the nearest values that suit every phase are 1998848 and 2007040",
    );
    check_refused(
        |spec| spec.step_tokens = 100,
        "the nearest values that suit every phase are 8192",
    );
    check_refused(
        |spec| spec.phases[1].share = share(1, 4),
        "shares add up to 11/12; expected exactly 1 (2/3 + 1/4)",
    );
    check_refused(
        |spec| spec.corpus_tokens = 10_000,
        "subset_tokens is 60000000000; the corpus has 10000 tokens",
    );
    check_refused(
        |spec| (spec.corpus_tokens, spec.subset_tokens) = (100_000, None),
        "the run has 589824 tokens (6 epochs of 98304), less than one step of 2097152",
    );
    check_refused(
        |spec| (spec.corpus_tokens, spec.subset_tokens) = (8191, None),
        "the corpus has 8191 tokens, less than one block of 8192",
    );
    check_refused(
        |spec| spec.subset_tokens = Some(1),
        "the subset has 1 tokens, less than one block",
    );
    check_refused(
        |spec| {
            spec.phases[0].share = share(999_999, 1_000_000);
            spec.phases[1].share = share(1, 1_000_000);
            spec.subset_tokens = Some(8_192_000);
        },
        "phase 1 has share 1/1000000 of 49152000 tokens, which comes to no step of 2097152",
    );
    check_refused(|spec| spec.epochs = 0, "plan.epochs is 0; expected at least 1");
    check_refused(|spec| spec.phases[1].window_units = 0, "phases.1.window_units is 0");
    check_refused(|spec| spec.phases[0].patch_size = 0, "phases.0.patch_size is 0");
    check_refused(|spec| spec.phases.clear(), "there are no phases");
    check_refused(|spec| spec.epochs = u64::MAX, "epochs * subset exceeds 2^62 tokens");
    check_refused(
        |spec| spec.phases[0].patch_size = u64::MAX,
        "window_units of phase 0 exceeds 2^62",
    );
    check_refused(
        |spec| spec.phases[1].window_units = 3000,
        "phase 1 has windows of 3000 tokens, which do not divide the largest window, 8192 tokens",
    );
    check_refused(
        |spec| {
            spec.phases[0].share = share(1, u64::MAX);
            spec.phases[1].share = share(1, u64::MAX - 1);
        },
        "shares have no common denominator below 2^64",
    );
}
