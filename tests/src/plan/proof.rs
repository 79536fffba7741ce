//! A run killed and resumed again and again, on changing numbers of ranks, still reads each token
//! of each pass once. The tools that judge plans are checked too: the walk and the comparison.

use std::collections::{BTreeMap, BTreeSet};

use plan::{PhaseSpec, Plan, PlanSpec, Window};
use plan::{compare, proof};
use proptest::prelude::*;
use schemas::run::{Share, Shuffle};

use crate::plan::mixture::mixtures;
use crate::plan::windows::{all_windows, specs};

/// One life of a run: its number of ranks, its steps until it is killed, its saving interval.
#[derive(Clone, Copy, Debug)]
struct Life {
    world_size: u64,
    steps: u64,
    save_every: u64,
}

fn lives() -> impl Strategy<Value = Vec<Life>> {
    let life = (1u64..=8, 0u64..12, 1u64..6).prop_map(|(world_size, steps, save_every)| Life {
        world_size,
        steps,
        save_every,
    });
    prop::collection::vec(life, 0..6)
}

/// Half the corpora are one stream, half are mixtures.
fn any_spec() -> impl Strategy<Value = PlanSpec> {
    prop_oneof![specs(), mixtures()]
}

/// The windows of a step as its ranks read them, one after the other.
fn read_step(plan: &Plan, step: u64, world_size: u64) -> Vec<Window> {
    let windows_per_step = plan.phase_of(step).windows_per_step;
    let cut = |rank: u64| rank * windows_per_step / world_size;
    (0..world_size).flat_map(|rank| plan.windows(step, cut(rank)..cut(rank + 1))).collect()
}

/// The windows that reached the model. A step done twice, because the run was killed after it and
/// before it was saved, counts only the second time; both times must have been the same.
fn consumed(spec: &PlanSpec, lives: &[Life]) -> Vec<Vec<Window>> {
    let fingerprint = Plan::new(spec).unwrap().fingerprint();
    let forever = Life { world_size: 1, steps: u64::MAX, save_every: 1 };
    let mut done: Vec<Vec<Window>> = Vec::new();
    let mut saved_step: u64 = 0;
    for life in lives.iter().copied().chain([forever]) {
        // Another process.
        let plan = Plan::new(spec).unwrap();
        assert_eq!(plan.fingerprint(), fingerprint);
        let first = saved_step;
        let end = first.saturating_add(life.steps).min(plan.step_count());
        for step in first..end {
            let windows = read_step(&plan, step, life.world_size);
            match done.get_mut(usize::try_from(step).unwrap()) {
                Some(before) => assert_eq!(*before, windows, "step {step} is done again alike"),
                None => done.push(windows),
            }
            if (step + 1).is_multiple_of(life.save_every) {
                saved_step = step + 1;
            }
        }
    }
    done
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// 0 % seen twice within a pass, in every phase; 0 % unread except the tails and the rest.
    #[test]
    fn killed_and_resumed_runs_read_each_token_of_a_pass_once(
        spec in any_spec(), lives in lives(),
    ) {
        let plan = Plan::new(&spec).unwrap();
        // By stream, pass and token.
        let mut reads: BTreeMap<(usize, u64, u64), u64> = BTreeMap::new();
        for window in consumed(&spec, &lives).into_iter().flatten() {
            for token in window.first_token..window.first_token + window.token_count {
                *reads.entry((window.stream_index, window.epoch, token)).or_default() += 1;
            }
        }
        let seen_twice = reads.values().filter(|&&times| times > 1).count();
        prop_assert_eq!(seen_twice, 0);
        prop_assert_eq!(reads.len() as u64 + plan.unread_tokens(), plan.run_tokens());
        // In a corpus of one stream, read whole, only its tail and the rest of the last pass are
        // missing.
        if spec.sets.is_empty() && spec.subset_tokens.is_none() {
            let once: BTreeSet<u64> = reads.keys().map(|(_, _, token)| *token).collect();
            let never = spec.corpus_tokens - once.len() as u64;
            let rest = if spec.epochs == 1 { plan.unread_tokens() } else { 0 };
            let tail = plan.tail_tokens();
            prop_assert!(tail <= never && never <= tail + plan.unread_tokens().max(rest));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn a_walk_proves_every_plan_and_counts_its_tokens(spec in any_spec(), threads in 1usize..4) {
        let plan = Plan::new(&spec).unwrap();
        let proof = proof::walk(&plan, threads, &|_steps| {}).unwrap();
        prop_assert_eq!(proof.tokens + plan.unread_tokens(), plan.run_tokens());
        prop_assert_eq!(proof.windows, plan.window_count());
        let streams = plan.streams().iter().zip(&proof.whole_passes);
        let of_passes: u64 = streams.map(|(stream, passes)| passes * stream.subset_tokens()).sum();
        let of_partial_passes = proof.partial_tokens.iter().sum::<u64>();
        prop_assert_eq!(of_passes + of_partial_passes, proof.tokens);
    }

    /// Steps called the same by a comparison are the same. The plans differ in the fields that
    /// change when a run is extended, and in others.
    #[test]
    fn steps_that_are_called_the_same_are(
        spec in any_spec(),
        epochs in 1u64..=5,
        weights in prop::collection::vec(0u64..=3, 4),
        other_seed: bool,
    ) {
        let first = Plan::new(&spec).unwrap();
        let mut changed = PlanSpec { epochs, ..spec.clone() };
        let denom: u64 = weights[..changed.phases.len()].iter().sum();
        for (phase, weight) in changed.phases.iter_mut().zip(&weights) {
            phase.share = Share::new(*weight, denom.max(1)).unwrap();
        }
        if other_seed {
            changed.seed = changed.seed.wrapping_add(1);
        }
        if let Ok(second) = Plan::new(&changed) {
            let found = compare::compare(&first, &second);
            let is_same = first.fingerprint() == second.fingerprint();
            prop_assert_eq!(found.differences.is_empty(), is_same);
            prop_assert!(found.same_steps <= first.step_count().min(second.step_count()));
            for step in 0..found.same_steps {
                prop_assert_eq!(first.phase_of(step).patch_size, second.phase_of(step).patch_size);
                let places = |plan: &Plan| {
                    let windows = plan.step(step);
                    windows.map(|w| (w.epoch, w.first_token, w.token_count)).collect::<Vec<_>>()
                };
                prop_assert_eq!(places(&first), places(&second), "step {}", step);
            }
            if other_seed && spec.shuffle != Shuffle::None {
                prop_assert_eq!(found.same_steps, 0);
            } else if other_seed {
                // A seed that shuffles nothing makes no difference.
                let unchanged = PlanSpec { seed: spec.seed, ..changed };
                let second = Plan::new(&unchanged).unwrap();
                prop_assert_eq!(found.same_steps, compare::compare(&first, &second).same_steps);
            }
        }
        prop_assert_eq!(compare::compare(&first, &first).same_steps, first.step_count());
    }
}

/// Two epochs of 1003 blocks of 64 tokens in groups of 10: as patches, then from the middle of an
/// epoch as tokens.
fn blocked(subset_blocks: Option<u64>, patch_share: Share, token_share: Share) -> Plan {
    let phase = |patch_size, share| PhaseSpec { patch_size, window_units: 16, share };
    let spec = PlanSpec {
        corpus_tokens: 1003 * 64 + 5,
        corpus_fingerprint: None,
        subset_tokens: subset_blocks.map(|blocks| blocks * 64),
        step_tokens: 64,
        epochs: 2,
        seed: 5,
        shuffle: Shuffle::Blocked { group_blocks: 10 },
        sets: Vec::new(),
        phases: vec![phase(4, patch_share), phase(1, token_share)],
    };
    Plan::new(&spec).unwrap()
}

/// Groups of the corpus the windows lie in, in reading order.
fn groups(windows: &[Window]) -> Vec<u64> {
    windows.iter().map(|window| window.first_token / 640).collect()
}

#[test]
fn a_blocked_epoch_of_the_whole_corpus_finishes_each_group_before_the_next() {
    let plan = blocked(None, Share::new(1, 1).unwrap(), Share::new(0, 1).unwrap());
    let windows = all_windows(&plan);
    for epoch in windows.chunks(1003) {
        let groups = groups(epoch);
        assert_eq!(groups.chunk_by(|a, b| a == b).count(), 101);
        assert!(!groups.is_sorted(), "groups are permuted");
        let inside = epoch.iter().filter(|window| window.first_token / 640 == 7);
        assert!(!inside.is_sorted_by_key(|window| window.first_token), "so are their blocks");
    }
    let starts = |epoch: &[Window]| epoch.iter().map(|w| w.first_token).collect::<Vec<_>>();
    assert_ne!(starts(&windows[..1003]), starts(&windows[1003..]), "each epoch has its own order");
}

/// A group of the order lies in at most 3 groups below it (two, and the last one if it is smaller).
/// So a group's worth of tokens, starting anywhere, comes from at most 9 groups, or 27 after a
/// switch or in a subset, and usually from far fewer. A global order takes them from nearly as many
/// groups as there are blocks.
#[test]
fn a_blocked_order_stays_in_few_groups_behind_a_switch_and_in_a_subset() {
    let half = || Share::new(1, 2).unwrap();
    let quarter = || Share::new(1, 4).unwrap();
    let three = || Share::new(3, 4).unwrap();
    for (subset, patch_share, token_share) in
        [(None, quarter(), three()), (Some(601), half(), half()), (Some(601), quarter(), three())]
    {
        let plan = blocked(subset, patch_share, token_share);
        for phase_windows in all_windows(&plan).chunk_by(|a, b| a.token_count == b.token_count) {
            let per_group = usize::try_from(640 / phase_windows[0].token_count).unwrap();
            let mut counts = Vec::new();
            for part in groups(phase_windows).windows(per_group) {
                counts.push(part.iter().collect::<BTreeSet<_>>().len());
            }
            let mean = counts.iter().sum::<usize>() as f64 / counts.len() as f64;
            assert!(*counts.iter().max().unwrap() <= 9 && mean < 5.0, "{mean} groups");
        }
    }
}
