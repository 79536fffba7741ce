//! Keyed permutations: bijections with inverses, and no visible pattern even on tiny domains.

use std::collections::BTreeMap;

use plan::permutation::{COUNT_MAX, Permutation, PermutationKey, Purpose};
use proptest::prelude::*;

mod quality;

fn permutation(seed: u64, count: u64) -> Permutation {
    Permutation::keyed(PermutationKey::derive(seed, Purpose::Order { epoch: 0, level: 0 }), count)
}

#[test]
fn every_small_count_is_permuted_and_inverted() {
    for count in (1..=300).chain([511, 512, 513, 1000, 4096, 65_537]) {
        let permutation = permutation(count, count);
        let mut hit = vec![false; count as usize];
        for index in 0..count {
            let place = permutation.apply(index);
            assert!(!hit[place as usize], "count {count}: two indexes go to {place}");
            hit[place as usize] = true;
            assert_eq!(permutation.invert(place), index, "count {count}");
        }
    }
}

proptest! {
    #[test]
    fn large_counts_invert(seed: u64, count in 1u64..=COUNT_MAX, at: u64) {
        let (permutation, index) = (permutation(seed, count), at % count);
        let place = permutation.apply(index);
        prop_assert!(place < count);
        prop_assert_eq!(permutation.invert(place), index);
        prop_assert_eq!(permutation.apply(permutation.invert(index)), index);
    }
}

proptest! {
    /// For every type of permutation, mapping many indexes at once gives the same results as one at
    /// a time.
    #[test]
    fn many_at_once_go_where_each_goes(
        seed: u64,
        count in prop_oneof![1u64..200, 200u64..1 << 21, 1u64..=COUNT_MAX],
        group in 1u64..50,
        at in proptest::collection::vec(any::<u64>(), 0..200),
    ) {
        let key = PermutationKey::derive(seed, Purpose::Subset);
        for permutation in [
            Permutation::keyed(key, count),
            Permutation::blocked(key, count, group),
            Permutation::identity(count),
        ] {
            let mut indexes: Vec<u64> = at.iter().map(|at| at % count).collect();
            let expected: Vec<u64> =
                indexes.iter().map(|&index| permutation.apply(index)).collect();
            permutation.apply_all(&mut indexes);
            prop_assert_eq!(indexes, expected);
        }
    }
}

/// Chi-square of counts against equal shares, in standard deviations from its mean.
fn excess(counts: &BTreeMap<Vec<u64>, u64>, categories: u64) -> f64 {
    let draws: u64 = counts.values().sum();
    let expected = draws as f64 / categories as f64;
    let squares: f64 = counts.values().map(|&count| (count as f64 - expected).powi(2)).sum();
    let missing = (categories - counts.len() as u64) as f64 * expected.powi(2);
    let freedom = (categories - 1) as f64;
    ((squares + missing) / expected - freedom) / (2.0 * freedom).sqrt()
}

#[test]
fn keys_choose_evenly_among_all_permutations_of_few_elements() {
    for (count, categories) in [(2, 2), (3, 6), (4, 24), (5, 120), (6, 720)] {
        let mut counts: BTreeMap<Vec<u64>, u64> = BTreeMap::new();
        for seed in 0..categories * 40 {
            let permutation = permutation(seed, count);
            let order = (0..count).map(|index| permutation.apply(index)).collect();
            *counts.entry(order).or_default() += 1;
        }
        let excess = excess(&counts, categories);
        assert!(excess.abs() < 5.0, "count {count}: {excess} standard deviations from uniform");
    }
}

#[test]
fn two_elements_land_on_every_pair_of_places_evenly() {
    for count in [7, 8, 16, 31, 37] {
        let categories = count * (count - 1);
        let mut counts: BTreeMap<Vec<u64>, u64> = BTreeMap::new();
        for seed in 0..categories * 30 {
            let permutation = permutation(seed, count);
            let places = vec![permutation.apply(count / 2), permutation.apply(count / 2 + 1)];
            *counts.entry(places).or_default() += 1;
        }
        let excess = excess(&counts, categories);
        assert!(excess.abs() < 5.0, "count {count}: {excess} standard deviations from uniform");
    }
}

#[test]
fn purposes_and_seeds_give_other_orders() {
    let order = |seed, purpose| {
        let permutation = Permutation::keyed(PermutationKey::derive(seed, purpose), 1000);
        (0..1000).map(|index| permutation.apply(index)).collect::<Vec<u64>>()
    };
    let orders = [
        order(1, Purpose::Subset),
        order(2, Purpose::Subset),
        order(1, Purpose::Order { epoch: 0, level: 0 }),
        order(1, Purpose::Order { epoch: 1, level: 0 }),
        order(1, Purpose::Order { epoch: 0, level: 1 }),
    ];
    for (index, order) in orders.iter().enumerate() {
        for other in &orders[..index] {
            let same = order.iter().zip(other).filter(|(a, b)| a == b).count();
            // One is expected.
            assert!(same < 12, "{same} of 1000 places are alike");
        }
    }
}

/// The order of a run depends on these numbers: they must never change within an algorithm version.
#[test]
fn orders_are_the_same_for_ever() {
    let permutation = permutation(1, 10);
    let order: Vec<u64> = (0..10).map(|index| permutation.apply(index)).collect();
    assert_eq!(order, ORDER_OF_TEN);
    let permutation = self::permutation(1, 7_324_218);
    assert_eq!([0, 1, 7_324_217].map(|index| permutation.apply(index)), PLACES_OF_SEVEN_MILLION);
}

const ORDER_OF_TEN: [u64; 10] = [0, 5, 9, 1, 4, 2, 8, 6, 3, 7];
const PLACES_OF_SEVEN_MILLION: [u64; 3] = [254_860, 4_646_908, 5_292_718];
