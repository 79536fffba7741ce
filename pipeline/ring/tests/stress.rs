//! Real threads on the real queue, many starts and stops: a program of its own, so that
//! ThreadSanitizer sees it alone.
//!
//!     cargo test -p ring            # some
//!     just tsan                     # under ThreadSanitizer
//!     ROUNDS=10000 cargo test -p ring --test stress

#![expect(clippy::print_stdout, reason = "a test program's report")]

/// A checker's build has no real threads to run.
#[cfg(any(loom, shuttle))]
fn main() {}

#[cfg(not(any(loom, shuttle)))]
fn main() {
    let rounds = std::env::var("ROUNDS").map_or(500, |text| text.parse().expect("a number"));
    for round in 0..rounds {
        real::round(round);
    }
    println!("{rounds} rounds of starts and stops, no hang and nothing lost");
}

#[cfg(not(any(loom, shuttle)))]
mod real {
    use std::thread;

    use ring::{Parker, ring};

    /// Rings of `1 + round % 4` slots, read in turn up to a place that changes from round to round,
    /// then dropped.
    pub(super) fn round(round: u64) {
        let (ring_count, slots) = (1 + round % 3, 1 + (round % 4) as usize);
        let (pushed, taken) = (round * 7 % 40, round * 11 % 50);
        let parker = Parker::new();
        let mut rings = Vec::new();
        let mut workers = Vec::new();
        for first in 0..ring_count {
            let (producer, consumer) = ring(slots, slots + 2, parker.unparker().clone());
            rings.push(consumer);
            workers.push(thread::spawn(move || {
                for index in 0..pushed {
                    let mut item: Vec<u64> = producer.buffer().unwrap_or_default();
                    item.clear();
                    item.push(index * ring_count + first);
                    if producer.push(item).is_err() {
                        return;
                    }
                }
            }));
        }
        for expected in 0..taken {
            let consumer = &rings[(expected % ring_count) as usize];
            let Some(item) = consumer.wait(&parker) else {
                assert!(expected >= pushed * ring_count, "round {round} ended at {expected}");
                break;
            };
            assert_eq!(item, [expected], "round {round}");
            consumer.give_back(item);
        }
        drop(rings);
        for worker in workers {
            worker.join().expect("a producer ends without a panic");
        }
    }
}
