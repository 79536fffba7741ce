//! Keyed permutations against true shuffles: the same statistics on both, and the number of rounds
//! the network needs.
//!
//! Each statistic is a distance from a random permutation's mean, in standard deviations. A true
//! shuffle stays below 5 of them, and so must the network; with fewer rounds it goes far beyond.

use plan::permutation::{Permutation, PermutationKey, Purpose};

/// An order of `0..count` for each seed.
type Order<'a> = &'a dyn Fn(u64, u64) -> Box<dyn Fn(u64) -> u64>;

const LIMIT: f64 = 5.0;

fn network(rounds: Option<u32>) -> impl Fn(u64, u64) -> Box<dyn Fn(u64) -> u64> {
    move |seed, count| {
        let key = PermutationKey::derive(seed, Purpose::Order { epoch: 3, level: 0 });
        let permutation = match rounds {
            Some(rounds) => Permutation::with_rounds(key, count, rounds),
            None => Permutation::keyed(key, count),
        };
        Box::new(move |index| permutation.apply(index))
    }
}

/// Fisher and Yates' shuffle, by BLAKE3's stream of bytes.
fn true_shuffle(seed: u64, count: u64) -> Box<dyn Fn(u64) -> u64> {
    let mut stream = blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof();
    let mut places: Vec<u64> = (0..count).collect();
    for end in (1..places.len()).rev() {
        let mut word = [0; 16];
        stream.fill(&mut word);
        // The bias of a remainder of 2^128 is far below the resolution of any test.
        places.swap(end, (u128::from_le_bytes(word) % (end as u128 + 1)) as usize);
    }
    Box::new(move |index| places[usize::try_from(index).unwrap()])
}

/// Chi-square of counts against equal shares.
fn chi_square(counts: &[u64]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let squares: f64 = counts.iter().map(|&count| (count as f64 - expected).powi(2)).sum();
    squares / expected
}

/// A chi-square in standard deviations from its mean.
fn excess(chi_square: f64, freedom: f64) -> f64 {
    (chi_square - freedom) / (2.0 * freedom).sqrt()
}

/// Chi-square over all orders of up to 5 elements.
fn orders(order: Order, count: u64) -> f64 {
    let categories: u64 = (1..=count).product();
    let mut counts = vec![0; usize::try_from(categories).unwrap()];
    for seed in 0..categories * 50 {
        let order = order(seed, count);
        let places: Vec<u64> = (0..count).map(&order).collect();
        let rank = (0..places.len()).fold(0, |rank, i| {
            let smaller = places[i + 1..].iter().filter(|&&place| place < places[i]).count();
            rank * (places.len() - i) + smaller
        });
        counts[rank] += 1;
    }
    excess(chi_square(&counts), categories as f64 - 1.0)
}

/// Chi-square over where each element goes.
fn cells(order: Order, count: u64) -> f64 {
    let n = usize::try_from(count).unwrap();
    let mut counts = vec![0; n * n];
    for seed in 0..count * 40 {
        let order = order(seed, count);
        for index in 0..n {
            counts[index * n + usize::try_from(order(index as u64)).unwrap()] += 1;
        }
    }
    // Rows and columns have fixed sums, which leaves (n - 1)^2 free cells and reduces the variance
    // of each by a factor of 1 - 1/n.
    let others = count as f64 - 1.0;
    excess(chi_square(&counts) * others / count as f64, others.powi(2))
}

/// Chi-square over the places of two elements `lag` apart.
fn pairs(order: Order, count: u64, lag: u64) -> f64 {
    let n = usize::try_from(count).unwrap();
    let mut counts = vec![0; n * n];
    for seed in 0..count * count * 6 {
        let order = order(seed, count);
        let at = seed % (count - lag);
        let [a, b] = [at, at + lag].map(|index| usize::try_from(order(index)).unwrap());
        counts[a * n + b] += 1;
    }
    let counts: Vec<u64> = (0..n * n).filter(|at| at / n != at % n).map(|at| counts[at]).collect();
    excess(chi_square(&counts), counts.len() as f64 - 1.0)
}

/// Serial correlation of one long order at `lag`, in standard deviations.
fn correlation(places: &[u64], count: u64, lag: usize) -> f64 {
    let (mean, variance) = ((count - 1) as f64 / 2.0, (count as f64 * count as f64 - 1.0) / 12.0);
    let pairs = places.iter().zip(&places[lag..]);
    let products: f64 = pairs.map(|(&a, &b)| (a as f64 - mean) * (b as f64 - mean)).sum();
    let terms = (places.len() - lag) as f64;
    (products / terms / variance + 1.0 / count as f64) * terms.sqrt()
}

/// Chi-square of the differences of elements `lag` apart in one long order, modulo `count`.
fn differences(places: &[u64], count: u64, lag: usize) -> f64 {
    const BINS: u64 = 64;
    let mut counts = [0; BINS as usize];
    for (&a, &b) in places.iter().zip(&places[lag..]) {
        // One of count - 1 values, all equally likely except 0.
        let difference = (b + count - a) % count;
        counts[usize::try_from(difference * BINS / count).unwrap()] += 1;
    }
    excess(chi_square(&counts), BINS as f64 - 1.0)
}

/// The worst of the statistics for a small count.
fn worst_of_small(order: Order, count: u64) -> f64 {
    let mut worst = cells(order, count).abs();
    if count <= 5 {
        worst = worst.max(orders(order, count).abs());
    }
    for lag in [1, count / 2].into_iter().filter(|&lag| 0 < lag && lag < count) {
        if count > 2 {
            worst = worst.max(pairs(order, count, lag).abs());
        }
    }
    worst
}

/// The worst of the statistics for one order of many elements: neighbours, and elements that differ
/// in one bit.
fn worst_of_large(order: Order, count: u64) -> f64 {
    let order = order(count, count);
    let places: Vec<u64> = (0..count.min(200_000)).map(&order).collect();
    let bits = count.min(places.len() as u64).ilog2();
    let lags =
        (0..bits).map(|bit| 1usize << bit).chain([3, 1000]).filter(|&lag| lag * 2 < places.len());
    lags.map(|lag| {
        correlation(&places, count, lag).abs().max(differences(&places, count, lag).abs())
    })
    .fold(0.0, f64::max)
}

const SMALL: [u64; 11] = [2, 3, 4, 5, 6, 7, 8, 11, 16, 17, 20];
const LARGE: [u64; 7] = [1000, 1023, 4096, 65_537, 1 << 20, 7_324_218, 1_831_054_687];

#[test]
fn orders_of_few_elements_are_those_of_a_true_shuffle() {
    for count in SMALL {
        for order in [&network(None) as Order, &true_shuffle] {
            let worst = worst_of_small(order, count);
            assert!(worst < LIMIT, "{count} elements: {worst} standard deviations");
        }
    }
}

#[test]
fn orders_of_many_elements_are_those_of_a_true_shuffle() {
    for count in LARGE {
        let worst = worst_of_large(&network(None), count);
        assert!(worst < LIMIT, "{count} elements: {worst} standard deviations");
        if count <= 1 << 20 {
            let worst = worst_of_large(&true_shuffle, count);
            assert!(worst < LIMIT, "{count} elements truly shuffled: {worst} standard deviations");
        }
    }
}

/// The smallest number of rounds from which on all statistics stay below the limit, up to 14.
fn rounds_needed(worst: fn(Order, u64) -> f64, count: u64) -> u32 {
    let passes = |rounds: &u32| worst(&network(Some(*rounds)), count) < LIMIT;
    (1..=14).rev().take_while(passes).last().unwrap_or(15)
}

/// Shows that the tests above can fail, and that the network's numbers of rounds have a margin.
/// pipeline/plan/README.md has the table.
#[test]
fn fewer_rounds_are_seen() {
    for (count, at_least) in [(2, 2), (4, 4), (5, 4), (16, 4), (20, 4)] {
        let found = rounds_needed(worst_of_small, count);
        assert!((at_least..=14).contains(&found), "{count} elements need {found} rounds");
    }
    for (count, at_least) in [(1000, 3), (65_537, 3)] {
        let found = rounds_needed(worst_of_large, count);
        assert!((at_least..=6).contains(&found), "{count} elements need {found} rounds");
    }
}

#[test]
#[ignore = "checks nothing; prints figures of pipeline/plan/README.md: just permutation-rounds"]
fn print_the_rounds_needed() {
    for count in SMALL {
        eprintln!("{count}: {}", rounds_needed(worst_of_small, count));
    }
    for count in LARGE {
        eprintln!("{count}: {}", rounds_needed(worst_of_large, count));
    }
}
