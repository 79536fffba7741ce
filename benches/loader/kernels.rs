//! The inner loops of reading, each beside what it replaces: `just bench kernels`.
//!
//! Estimate: 2,048 ids are 4 KiB in and 16 KiB out, all in the first two caches; at 32 bytes a
//! store that is some 500 cycles. An index of a permutation of 200,000 takes 32 rounds of some 45
//! cycles one by one, and a sixteenth of a chain together.
//!
//! **Invariant:** both sides of every pair have the same result.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pipeline::corpus::widen::{OutId, largest_id, largest_id_plain, widen, widen_plain};
use plan::permutation::{Permutation, PermutationKey, Purpose};
use schemas::shard::TokenBytes;

const WINDOW_TOKENS: usize = 2048;

fn window() -> Vec<u8> {
    let id = |index: usize| (index as u32).wrapping_mul(2_654_435_761).to_le_bytes();
    (0..WINDOW_TOKENS).flat_map(|index| [id(index)[2], id(index)[3]]).collect()
}

fn widen_to<T: OutId + PartialEq>(criterion: &mut Criterion) {
    let (bytes, zero) = (window(), T::of_u16(0));
    let (mut wide, mut plain) = (vec![zero; WINDOW_TOKENS], vec![zero; WINDOW_TOKENS]);
    let mut group = criterion.benchmark_group(format!("widen u16 to {}", T::NAME));
    group.throughput(Throughput::Elements(WINDOW_TOKENS as u64));
    group.bench_function("chosen", |bencher| {
        bencher.iter(|| widen(black_box(&bytes), TokenBytes::Two, black_box(&mut wide)));
    });
    group.bench_function("plain", |bencher| {
        bencher.iter(|| widen_plain(black_box(&bytes), TokenBytes::Two, black_box(&mut plain)));
    });
    group.finish();
    assert!(wide == plain, "both are the same ids");
}

fn largest(criterion: &mut Criterion) {
    let bytes = window();
    let mut group = criterion.benchmark_group("largest of u16");
    group.throughput(Throughput::Elements(WINDOW_TOKENS as u64));
    group.bench_function("chosen", |bencher| {
        bencher.iter(|| largest_id(black_box(&bytes), TokenBytes::Two));
    });
    group.bench_function("plain", |bencher| {
        bencher.iter(|| largest_id_plain(black_box(&bytes), TokenBytes::Two));
    });
    group.finish();
    assert_eq!(largest_id(&bytes, TokenBytes::Two), largest_id_plain(&bytes, TokenBytes::Two));
}

fn permute(criterion: &mut Criterion) {
    for count in [200_000, 180_000_000] {
        let permutation = Permutation::keyed(PermutationKey::derive(1, Purpose::Subset), count);
        let indexes: Vec<u64> = (0..64).collect();
        let mut group = criterion.benchmark_group(format!("64 indexes of {count}"));
        group.throughput(Throughput::Elements(64));
        group.bench_function("together", |bencher| {
            bencher.iter(|| {
                let mut places = black_box(indexes.clone());
                permutation.apply_all(&mut places);
                places
            });
        });
        group.bench_function("one by one", |bencher| {
            bencher.iter(|| -> Vec<u64> {
                black_box(&indexes).iter().map(|&index| permutation.apply(index)).collect()
            });
        });
        group.finish();
        let mut places = indexes.clone();
        permutation.apply_all(&mut places);
        assert!(
            places.iter().zip(&indexes).all(|(&place, &index)| place == permutation.apply(index))
        );
    }
}

fn kernels(criterion: &mut Criterion) {
    widen_to::<i32>(criterion);
    widen_to::<i64>(criterion);
    largest(criterion);
    permute(criterion);
}

criterion_group!(benches, kernels);
criterion_main!(benches);
