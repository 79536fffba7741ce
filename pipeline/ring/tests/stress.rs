//! Real threads on the real queue, many starts and stops: a program of its own, so that
//! ThreadSanitizer sees it alone.
//!
//!     cargo test -p ring            # some
//!     just tsan                     # under ThreadSanitizer
//!     ROUNDS=10000 cargo test -p ring --test stress

#![expect(clippy::print_stdout, reason = "a test program's report")]

/// Without threads of the checkers' there is nothing to run.
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

    use ring::{Parker, lane};

    /// Lanes of `1 + round % 4` slots, read in turn up to a place that changes from round to round,
    /// then dropped.
    pub(super) fn round(round: u64) {
        let (lane_count, slots) = (1 + round % 3, 1 + (round % 4) as usize);
        let (pushed, taken) = (round * 7 % 40, round * 11 % 50);
        let parker = Parker::new();
        let mut lanes = Vec::new();
        let mut workers = Vec::new();
        for first in 0..lane_count {
            let (outlet, lane) = lane(slots, slots + 2, parker.unparker().clone());
            lanes.push(lane);
            workers.push(thread::spawn(move || {
                for index in 0..pushed {
                    let mut item: Vec<u64> = outlet.buffer().unwrap_or_default();
                    item.clear();
                    item.push(index * lane_count + first);
                    if outlet.push(item).is_err() {
                        return;
                    }
                }
            }));
        }
        for expected in 0..taken {
            let lane = &lanes[(expected % lane_count) as usize];
            let Some(item) = lane.wait(&parker) else {
                assert!(expected >= pushed * lane_count, "round {round} ended at {expected}");
                break;
            };
            assert_eq!(item, [expected], "round {round}");
            lane.give_back(item);
        }
        drop(lanes);
        for worker in workers {
            worker.join().expect("a producer ends without a panic");
        }
    }
}
