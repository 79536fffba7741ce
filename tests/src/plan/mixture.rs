//! The laws of mixtures, on random recipes of sets, ladders of phases and shuffles, and answers
//! worked out by hand.

use std::collections::BTreeMap;

use plan::{Plan, PlanError, PlanSpec, Reading, SetSpec, Window};
use proptest::prelude::*;
use schemas::run::{Passes, SetAmount, Share, Shuffle};

use crate::plan::windows::{all_windows, specs};

/// Sizes of a set in blocks, tokens of its tail, and its amount in an epoch: a weight of the
/// shares, or passes.
type Part = (u64, u64, Result<u64, (u64, u64)>);

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let amount = prop_oneof![
        (0u64..=4).prop_map(Ok),
        (0u64..=5, 1u64..=3).prop_map(Err),
        Just(Err((1, 1))),
    ];
    prop::collection::vec((0u64..=20, 0u64..24, amount), 1..=7)
}

/// Random recipes ([`specs`]) with the corpus cut into sets. The weights of the shares add up to 1,
/// or to less than 1 when there are sets with epochs.
pub(crate) fn mixtures() -> impl Strategy<Value = PlanSpec> {
    (specs(), parts(), 0u64..=3, prop::option::of(1u64..=60)).prop_filter_map(
        "a recipe without a plan",
        |(spec, parts, rest_weight, epoch_blocks)| {
            let block_tokens = Plan::new(&spec).ok()?.block_tokens();
            let with_epochs =
                parts.iter().any(|(_, _, amount)| amount.is_err_and(|(numer, _)| numer > 0));
            let weights: u64 = parts.iter().filter_map(|(_, _, amount)| amount.ok()).sum();
            let denom = weights + if with_epochs { rest_weight + 1 } else { 0 };
            let sets = parts.iter().enumerate().map(|(index, &(blocks, tail, amount))| {
                let amount = match amount {
                    Ok(weight) => SetAmount::Share(Share::new(weight, denom).ok()?),
                    Err((numer, denom)) => SetAmount::Epochs(Passes::new(numer, denom)?),
                };
                let tokens = blocks * block_tokens + tail % block_tokens;
                Some(SetSpec { name: format!("set {index}"), tokens, amount })
            });
            let sets = sets.collect::<Option<Vec<SetSpec>>>()?;
            let spec = PlanSpec {
                corpus_tokens: sets.iter().map(|set| set.tokens).sum(),
                subset_tokens: epoch_blocks.map(|blocks| blocks * block_tokens),
                sets,
                ..spec
            };
            Plan::new(&spec).is_ok().then_some(spec)
        },
    )
}

/// How often each pass over each stream reads each token.
fn reads(plan: &Plan) -> Vec<Vec<BTreeMap<u64, u64>>> {
    let passes = |stream| vec![BTreeMap::new(); usize::try_from(plan.pass_count(stream)).unwrap()];
    let mut reads: Vec<Vec<BTreeMap<u64, u64>>> = (0..plan.streams().len()).map(passes).collect();
    for window in all_windows(plan) {
        let pass = &mut reads[window.stream_index][usize::try_from(window.epoch).unwrap()];
        for token in window.first_token..window.first_token + window.token_count {
            *pass.entry(token).or_default() += 1;
        }
    }
    reads
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// This includes the switch law: windows of different phases share no token within a pass.
    #[test]
    fn every_pass_over_a_set_reads_each_token_of_its_subset_once(spec in mixtures()) {
        let plan = Plan::new(&spec).unwrap();
        let mut read_tokens = 0;
        for (index, (stream, passes)) in plan.streams().iter().zip(reads(&plan)).enumerate() {
            let whole = stream.tokens().end - stream.tail_tokens();
            let mut of_stream = 0;
            for (pass, reads) in passes.iter().enumerate() {
                let are_once = reads.values().all(|&times| times == 1);
                prop_assert!(are_once, "pass {pass} of {index} reads a token twice");
                let readable = stream.tokens().start..whole;
                prop_assert!(reads.keys().all(|token| readable.contains(token)));
                let count = reads.len() as u64;
                // Passes are read one after the other, each to its end except the last.
                let left = plan.stream_read_tokens(index).saturating_sub(of_stream);
                let expected = left.min(stream.subset_tokens());
                prop_assert_eq!(count, expected, "pass {} of stream {}", pass, index);
                of_stream += count;
            }
            let distinct: std::collections::BTreeSet<u64> =
                passes.iter().flat_map(|pass| pass.keys().copied()).collect();
            let is_one_subset = distinct.len() as u64 <= stream.subset_tokens();
            prop_assert!(is_one_subset, "passes read different subsets");
            prop_assert_eq!(of_stream, plan.stream_read_tokens(index));
            prop_assert!(of_stream <= spec.epochs * stream.epoch_tokens());
            read_tokens += of_stream;
        }
        prop_assert_eq!(read_tokens + plan.unread_tokens(), plan.run_tokens());
        prop_assert!(plan.unread_tokens() < spec.step_tokens);
    }

    /// Steps hold the streams in proportion, to within a few blocks, and every epoch exactly.
    #[test]
    fn streams_stand_in_their_proportion_at_every_step(spec in mixtures()) {
        let plan = Plan::new(&spec).unwrap();
        let mut so_far = vec![0u64; plan.streams().len()];
        for step in 0..plan.step_count() {
            for window in plan.step(step) {
                so_far[window.stream_index] += window.token_count;
            }
            for (tokens, stream) in so_far.iter().zip(plan.streams()) {
                let position = (step + 1) * spec.step_tokens;
                let share =
                    position as f64 * stream.epoch_tokens() as f64 / plan.subset_tokens() as f64;
                let blocks = (*tokens as f64 - share) / plan.block_tokens() as f64;
                // 7 streams: 3 splits.
                prop_assert!(blocks.abs() <= 3.0, "{blocks} blocks from the share at step {step}");
                if position.is_multiple_of(plan.subset_tokens()) {
                    let epochs = position / plan.subset_tokens();
                    prop_assert_eq!(*tokens, epochs * stream.epoch_tokens());
                }
            }
        }
    }

    #[test]
    fn a_look_up_is_the_inverse_in_every_pass(spec in mixtures()) {
        let plan = Plan::new(&spec).unwrap();
        let mut readings = BTreeMap::new();
        for step in 0..plan.step_count() {
            for (slot, window) in (0..).zip(plan.step(step)) {
                prop_assert_eq!(plan.window(step, slot), window);
                for token in window.first_token..window.first_token + window.token_count {
                    let phase_index = window.phase_index;
                    readings.insert((window.epoch, token), Reading { phase_index, step, slot });
                }
            }
        }
        let passes = (0..plan.streams().len()).map(|stream| plan.pass_count(stream)).max().unwrap();
        let mut cursor = plan.cursor();
        for epoch in 0..=passes {
            for token in 0..=spec.corpus_tokens {
                prop_assert_eq!(cursor.find(epoch, token), readings.get(&(epoch, token)).copied());
            }
        }
    }

    #[test]
    fn a_mixture_of_one_set_read_once_is_a_plan_of_the_corpus(spec in specs()) {
        let tokens = spec.corpus_tokens;
        let once = SetAmount::Epochs(Passes::new(1, 1).unwrap());
        let sets = vec![SetSpec { name: "all".to_owned(), tokens, amount: once }];
        let mixture = Plan::new(&PlanSpec { sets, ..spec.clone() }).unwrap();
        let plan = Plan::new(&spec).unwrap();
        prop_assert_eq!(plan.phases(), mixture.phases());
        prop_assert_eq!(plan.subset_tokens(), mixture.subset_tokens());
        prop_assert_eq!(plan.tail_tokens(), mixture.tail_tokens());
        prop_assert_ne!(plan.fingerprint(), mixture.fingerprint());
        if spec.shuffle == Shuffle::None {
            prop_assert_eq!(all_windows(&plan), all_windows(&mixture));
        }
    }

    /// A set's order within a pass does not depend on the amounts of the others.
    #[test]
    fn without_phases_a_set_keeps_its_order_in_any_mixture(spec in mixtures(), more in 1u64..4) {
        let order = |spec: &PlanSpec, set: usize| -> Option<Vec<u64>> {
            let first_token = spec.sets[..set].iter().map(|set| set.tokens).sum::<u64>();
            let plan = Plan::new(spec).ok()?;
            let mine = all_windows(&plan)
                .into_iter()
                .filter(|window| window.stream_index == set && window.epoch == 0);
            Some(mine.map(|window| window.first_token - first_token).collect())
        };
        let phase = plan::PhaseSpec { share: Share::new(1, 1).unwrap(), ..spec.phases[0] };
        let spec = PlanSpec { phases: vec![phase], subset_tokens: None, ..spec };
        let mut other = spec.clone();
        let last = other.sets.len() - 1;
        other.sets[last].tokens += more * spec.step_tokens;
        other.corpus_tokens += more * spec.step_tokens;
        for set in 0..last {
            // A share's subset follows the size of an epoch; a set with epochs is always whole.
            if matches!(spec.sets[set].amount, SetAmount::Epochs(_))
                && let (Some(a), Some(b)) = (order(&spec, set), order(&other, set))
            {
                let common = a.len().min(b.len());
                prop_assert_eq!(&a[..common], &b[..common]);
            }
        }
    }
}

fn set(name: &str, tokens: u64, amount: SetAmount) -> SetSpec {
    SetSpec { name: name.to_owned(), tokens, amount }
}

fn epochs(numer: u64, denom: u64) -> SetAmount {
    SetAmount::Epochs(Passes::new(numer, denom).unwrap())
}

fn share(numer: u64, denom: u64) -> SetAmount {
    SetAmount::Share(Share::new(numer, denom).unwrap())
}

/// Blocks of 4 tokens, steps of 2 blocks.
fn spec(sets: Vec<SetSpec>) -> PlanSpec {
    PlanSpec {
        corpus_tokens: sets.iter().map(|set| set.tokens).sum(),
        corpus_fingerprint: None,
        subset_tokens: None,
        step_tokens: 8,
        epochs: 1,
        seed: 1,
        shuffle: Shuffle::None,
        sets,
        phases: vec![plan::PhaseSpec {
            patch_size: 2,
            window_units: 2,
            share: Share::new(1, 1).unwrap(),
        }],
    }
}

/// 2 blocks twice and 4 blocks once are 8 slots, alternating; the tail of the second set is unread.
#[test]
fn a_small_set_is_read_twice_while_a_large_one_is_read_once() {
    let plan =
        Plan::new(&spec(vec![set("a", 8, epochs(2, 1)), set("b", 19, epochs(1, 1))])).unwrap();
    assert_eq!((plan.subset_tokens(), plan.tail_tokens(), plan.step_count()), (32, 3, 4));
    let found: Vec<(u64, u64)> =
        all_windows(&plan).iter().map(|window| (window.epoch, window.first_token)).collect();
    assert_eq!(
        found,
        [(0, 8), (0, 0), (0, 12), (0, 4), (0, 16), (1, 0), (0, 20), (1, 4)],
        "sets a and b in turn, a twice"
    );
    assert_eq!((plan.pass_count(0), plan.pass_count(1)), (2, 1));
}

/// 9 blocks of "a" with share 1/4 and 6 of "b" with 3/4: the most without repeats is 8 blocks, 2 of
/// "a", 6 of "b". With 40 blocks an epoch "a" gives 10, its 9 and one of the next pass, and "b"
/// gives 30, five passes.
#[test]
fn shares_are_of_an_epoch() {
    let sets = vec![set("a", 36, share(1, 4)), set("b", 24, share(3, 4))];
    let parts = |spec: &PlanSpec| -> Vec<(u64, u64, u64)> {
        let plan = Plan::new(spec).unwrap();
        let parts = plan.streams().iter().enumerate();
        parts
            .map(|(i, s)| (s.subset_tokens() / 4, s.epoch_tokens() / 4, plan.pass_count(i)))
            .collect()
    };
    assert_eq!(parts(&spec(sets.clone())), [(2, 2, 1), (6, 6, 1)]);
    let large = PlanSpec { subset_tokens: Some(160), ..spec(sets) };
    assert_eq!(parts(&large), [(9, 10, 2), (6, 30, 5)]);
    // 3/2 of 6 blocks are 9, three quarters of the epoch; so the epoch has 12 and "a" gives 3 of
    // them.
    let sets = vec![set("a", 36, share(1, 4)), set("b", 24, epochs(3, 2))];
    assert_eq!(parts(&spec(sets)), [(3, 3, 1), (6, 9, 2)]);
    // Half of everything: 4 of 8 blocks "a", 4 of 8 slots of "b", 2 blocks twice.
    let sets = vec![set("a", 32, epochs(1, 1)), set("b", 16, epochs(2, 1))];
    let half = PlanSpec { subset_tokens: Some(32), ..spec(sets) };
    assert_eq!(parts(&half), [(4, 4, 1), (2, 4, 2)]);
}

fn check_refused(spec: &PlanSpec, expected: &str) {
    let found = Plan::new(spec).unwrap_err().to_string();
    assert!(found.contains(expected), "found {found:?}\nexpected {expected:?}");
}

#[test]
fn mixtures_that_do_not_add_up_are_named() {
    let (a, b) = (|amount| set("a", 36, amount), |amount| set("b", 24, amount));
    check_refused(
        &spec(vec![a(share(1, 4)), b(share(1, 2))]),
        "the shares of data.sets add up to 3/4; expected exactly 1, as no set has epochs",
    );
    check_refused(
        &spec(vec![a(share(1, 1)), b(epochs(1, 1))]),
        "the shares of data.sets add up to 1/1; expected less than 1",
    );
    check_refused(&spec(vec![a(epochs(0, 1)), b(epochs(0, 1))]), "expected exactly 1");
    check_refused(
        &spec(vec![a(epochs(1, 1)), set("b", 3, epochs(1, 1))]),
        "data.sets.\"b\" comes to no block of 4 tokens an epoch (the set has 3 tokens)",
    );
    check_refused(&spec(vec![b(epochs(1, 1)), a(epochs(1, 1))]), "in byte order of their names");
    check_refused(
        &PlanSpec { subset_tokens: Some(64), ..spec(vec![a(epochs(1, 1)), b(epochs(1, 1))]) },
        "subset_tokens leaves 64 tokens an epoch to the sets with epochs; they come to 60",
    );
    check_refused(
        &PlanSpec { epochs: u64::MAX, ..spec(vec![a(epochs(1, 1)), b(epochs(1, 1))]) },
        "epochs * subset exceeds 2^62 tokens",
    );
    check_refused(&spec(vec![a(epochs(u64::MAX, 1)), b(epochs(1, 1))]), "exceeds 2^62 tokens");
    let err =
        Plan::new(&PlanSpec { corpus_tokens: 61, ..spec(vec![a(epochs(1, 1)), b(share(0, 1))]) });
    assert!(matches!(
        err.unwrap_err(),
        PlanError::Sets { found_tokens: 60, corpus_tokens: 61, .. }
    ));
}

/// The window's stream is the set its tokens belong to.
#[test]
fn windows_name_their_set() {
    let plan =
        Plan::new(&spec(vec![set("", 40, epochs(1, 1)), set("Github", 80, epochs(1, 1))])).unwrap();
    for Window { stream_index, first_token, token_count, .. } in all_windows(&plan) {
        let tokens = plan.streams()[stream_index].tokens();
        assert!(tokens.start <= first_token && first_token + token_count <= tokens.end);
        assert_eq!(plan.stream_index_of(first_token), Some(stream_index));
    }
    assert_eq!(plan.streams()[1].name(), Some("Github"));
    assert_eq!(plan.stream_index_of(120), None);
}
