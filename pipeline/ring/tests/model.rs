//! The protocol under a checker: every schedule of small cases with loom, many of larger ones with
//! shuttle.
//!
//!     just loom
//!     just shuttle
#![cfg(any(loom, shuttle))]

#[cfg(loom)]
use loom::thread;
use ring::{Consumer, Parker, Producer, ring};
#[cfg(shuttle)]
use shuttle::thread;

/// Larger cases where schedules are drawn at random, not enumerated.
const ITEMS: u32 = if cfg!(loom) { 3 } else { 12 };

#[cfg(loom)]
fn check(case: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    // Leaves out schedules with more switches than this away from a thread that could continue.
    model.preemption_bound = Some(3);
    model.check(case);
}

/// Runs as many schedules as the variable SCHEDULES gives; each is random, and a failure prints how
/// to run it again.
#[cfg(shuttle)]
fn check(case: impl Fn() + Sync + Send + 'static) {
    let schedules = std::env::var("SCHEDULES").map_or(1000, |text| text.parse().expect("a number"));
    shuttle::check_random(case, schedules);
}

/// Pushes `first`, `first + step`, … until `count` of them are in or the reader wants no more.
fn produce(producer: Producer<u32, u32>, first: u32, step: u32, count: u32) {
    for index in 0..count {
        if producer.push(first + index * step).is_err() {
            return;
        }
    }
}

fn everything_arrives_in_order_and_then_the_end(slots: usize) {
    check(move || {
        let parker = Parker::new();
        let (producer, consumer) = ring(slots, 1, parker.unparker().clone());
        let worker = thread::spawn(move || produce(producer, 0, 1, ITEMS));
        for expected in 0..ITEMS {
            assert_eq!(consumer.wait(&parker), Some(expected));
        }
        assert_eq!(consumer.wait(&parker), None);
        worker.join().expect("the producer ends");
    });
}

#[test]
fn everything_arrives_through_one_slot() {
    everything_arrives_in_order_and_then_the_end(1);
}

#[test]
fn everything_arrives_through_two_slots() {
    everything_arrives_in_order_and_then_the_end(2);
}

#[test]
fn two_rings_are_read_in_turn_by_one_parker() {
    let items = if cfg!(loom) { 1 } else { ITEMS };
    check(move || {
        let parker = Parker::new();
        let (rings, workers): (Vec<_>, Vec<_>) = (0..2)
            .map(|first| {
                let (producer, consumer) = ring(1, 1, parker.unparker().clone());
                (consumer, thread::spawn(move || produce(producer, first, 2, items)))
            })
            .unzip();
        for expected in 0..2 * items {
            assert_eq!(rings[expected as usize % 2].wait(&parker), Some(expected));
        }
        for worker in workers {
            worker.join().expect("the producer ends");
        }
    });
}

/// However many items were taken, a producer that waits for room, or is about to, ends.
fn a_reader_that_wants_no_more_ends_the_producer(taken: u32) {
    check(move || {
        let parker = Parker::new();
        let (producer, consumer) = ring(1, 1, parker.unparker().clone());
        let worker = thread::spawn(move || produce(producer, 0, 1, u32::MAX));
        for expected in 0..taken {
            assert_eq!(consumer.wait(&parker), Some(expected));
        }
        drop(consumer);
        worker.join().expect("the producer ends");
    });
}

#[test]
fn a_reader_that_takes_nothing_ends_the_producer() {
    a_reader_that_wants_no_more_ends_the_producer(0);
}

#[test]
fn a_reader_that_takes_one_ends_the_producer() {
    a_reader_that_wants_no_more_ends_the_producer(1);
}

#[test]
fn a_producer_that_ends_at_once_ends_the_reader() {
    check(|| {
        let parker = Parker::new();
        let (producer, consumer): (Producer<u32, u32>, Consumer<u32, u32>) =
            ring(1, 1, parker.unparker().clone());
        let worker = thread::spawn(move || drop(producer));
        assert_eq!(consumer.wait(&parker), None);
        worker.join().expect("the producer ends");
    });
}

#[test]
fn a_buffer_comes_back_once_or_not_yet() {
    check(|| {
        let parker = Parker::new();
        let (producer, consumer) = ring(1, 2, parker.unparker().clone());
        let worker = thread::spawn(move || {
            assert!(producer.push(0).is_ok());
            let mut found = Vec::new();
            for _ in 0..2 {
                found.extend(producer.buffer());
            }
            assert!(found.is_empty() || found == [7], "{found:?}");
        });
        assert_eq!(consumer.wait(&parker), Some(0));
        consumer.give_back(7);
        worker.join().expect("the producer ends");
    });
}
