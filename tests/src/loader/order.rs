//! The loader yields the plan's windows in the plan's order, for any workers, ranks, rings and back
//! ends.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use pipeline::corpus::{Corpus, OutId};
use pipeline::loader::{Digest, Loader, LoaderError, LoaderSpec};
use plan::{PhaseSpec, Plan, PlanSpec};
use schemas::run::{ReadBackend, Share, Shuffle};

use crate::support::small_corpus::{Lengths, flip_byte, write_corpus};

const VOCAB_SIZE: u64 = 5000;

/// Shards whose borders no window respects.
const SHARDS: Lengths<'static> = &[&[&[700, 50], &[999]], &[&[9000, 3], &[101], &[2000]]];

/// Windows of 128 tokens, then 64, then 16.
fn corpus_and_plan(dir: &Path, backend: ReadBackend) -> (Arc<Corpus>, Arc<Plan>) {
    if !dir.join("manifest.json").exists() {
        write_corpus(dir, VOCAB_SIZE, SHARDS);
    }
    let corpus = Corpus::open(dir, backend).unwrap();
    let share = |numer| Share::new(numer, 5).unwrap();
    let phase = |patch_size, window_units, numer| PhaseSpec {
        patch_size,
        window_units,
        share: share(numer),
    };
    let plan = Plan::new(&PlanSpec {
        corpus_tokens: corpus.token_count(),
        corpus_fingerprint: Some(corpus.manifest().fingerprint.clone()),
        subset_tokens: Some(11_000),
        step_tokens: 1024,
        epochs: 3,
        seed: 3,
        shuffle: Shuffle::Global,
        sets: Vec::new(),
        phases: vec![phase(8, 16, 2), phase(4, 16, 1), phase(1, 16, 2)],
    });
    (Arc::new(corpus), Arc::new(plan.unwrap()))
}

fn spec(corpus: Arc<Corpus>, plan: Arc<Plan>) -> LoaderSpec {
    LoaderSpec {
        corpus,
        from_step: 0,
        end_step: plan.step_count(),
        plan,
        rank: 0,
        world_size: 1,
        micro_batch_windows: 2,
        workers: 2,
        ring_bytes: 1 << 16,
        read_ahead_bytes: 1 << 20,
        pin: None,
    }
}

/// All ids of a loader in order, with the digest; checks the batches' own metadata.
fn drain(spec: LoaderSpec) -> Result<(Vec<i64>, Digest), LoaderError> {
    drain_as(spec)
}

fn drain_as<T: OutId>(spec: LoaderSpec) -> Result<(Vec<T>, Digest), LoaderError> {
    let plan = spec.plan.clone();
    let mut loader: Loader<T> = Loader::start(spec)?;
    let (mut ids, mut digest, mut place) = (Vec::new(), Digest::default(), None);
    loop {
        let next = loader.next_place();
        let Some(batch) = loader.next_batch()? else {
            assert_eq!(next, None);
            break;
        };
        assert_eq!(
            next,
            Some((batch.step, batch.micro_index)),
            "a run resumes with the next batch"
        );
        let phase = plan.phase_of(batch.step);
        assert_eq!(batch.window_tokens, phase.window_tokens);
        assert_eq!(batch.phase_index, plan.phase_index_of(batch.step));
        assert!(place < Some((batch.step, batch.micro_index)), "batches are in order");
        place = Some((batch.step, batch.micro_index));
        digest.add(&plan, &batch);
        ids.extend_from_slice(&batch.ids);
        loader.recycle(batch);
    }
    Ok((ids, digest))
}

fn direct_read(corpus: &Corpus, plan: &Plan, steps: std::ops::Range<u64>) -> Vec<i64> {
    let mut ids = Vec::new();
    for window in steps.flat_map(|step| plan.step(step)) {
        let first = ids.len();
        ids.resize(first + window.token_count as usize, 0);
        corpus.read(window.first_token, &mut ids[first..]).unwrap();
    }
    ids
}

#[test]
fn any_number_of_workers_reads_the_plan_in_order() {
    let dir = tempfile::tempdir().unwrap();
    for backend in [ReadBackend::Mmap, ReadBackend::Pread] {
        let (corpus, plan) = corpus_and_plan(dir.path(), backend);
        let expected = direct_read(&corpus, &plan, 0..plan.step_count());
        assert_eq!(expected.len() as u64, plan.step_count() * 1024);
        for workers in [1, 2, 3, 4, 7] {
            for (micro_batch_windows, ring_bytes) in [(1, 7 * 1024), (8, 1 << 20)] {
                let spec = LoaderSpec {
                    workers,
                    micro_batch_windows,
                    ring_bytes,
                    ..spec(corpus.clone(), plan.clone())
                };
                assert!(
                    drain(spec).unwrap().0 == expected,
                    "{workers} workers, {ring_bytes} bytes"
                );
            }
        }
    }
}

#[test]
fn ids_come_as_the_reader_wants_them() {
    let dir = tempfile::tempdir().unwrap();
    for (vocab_size, backend) in [
        (VOCAB_SIZE, ReadBackend::Mmap),
        (VOCAB_SIZE, ReadBackend::Pread),
        (70_000, ReadBackend::Mmap),
    ] {
        let dir = dir.path().join(format!("{vocab_size}"));
        fs::create_dir_all(&dir).unwrap();
        write_corpus(&dir, vocab_size, SHARDS);
        let (corpus, plan) = corpus_and_plan(&dir, backend);
        let spec = || spec(corpus.clone(), plan.clone());
        let (expected, digest) = drain(spec()).unwrap();
        check_as::<u32>(spec(), &expected, digest);
        check_as::<i32>(spec(), &expected, digest);
        if vocab_size <= 1 << 16 {
            check_as::<u16>(spec(), &expected, digest);
        } else {
            let err = drain_as::<u16>(spec()).unwrap_err();
            assert!(err.is_usage(), "{err}");
            let message = "ids are wanted as u16, which holds 65536 different ones";
            assert!(err.to_string().contains(message), "{err}");
            assert!(err.to_string().ends_with("has a vocabulary of 70000"), "{err}");
        }
    }
}

fn check_as<T: OutId>(spec: LoaderSpec, expected: &[i64], expected_digest: Digest) {
    let (ids, digest) = drain_as::<T>(spec).unwrap();
    assert!(ids.iter().map(|id| id.number()).eq(expected.iter().map(|id| id.number())));
    assert_eq!(digest, expected_digest);
}

/// Any workers, back end, ring, depth of reading ahead, ranks, and any number of stops in between.
#[test]
fn the_digest_is_that_of_the_plan() {
    let dir = tempfile::tempdir().unwrap();
    let (corpus, plan) = corpus_and_plan(dir.path(), ReadBackend::Mmap);
    let (_, expected) = drain(spec(corpus, plan.clone())).unwrap();
    for backend in [ReadBackend::Mmap, ReadBackend::Pread] {
        let (corpus, _) = corpus_and_plan(dir.path(), backend);
        for (case, workers) in [1, 2, 3, 8].into_iter().enumerate() {
            for world_size in [1, 2, 4, 8] {
                let spec = LoaderSpec {
                    micro_batch_windows: 1,
                    workers,
                    world_size,
                    ring_bytes: [8 << 10, 64 << 10, 1 << 20, 16 << 20][case],
                    read_ahead_bytes: [0, 1, 4096, 1 << 20][case],
                    ..spec(corpus.clone(), plan.clone())
                };
                let mut sum = Digest::default();
                for rank in 0..world_size {
                    // Stopped every few steps, with batches read ahead and discarded.
                    let mut from_step = 0;
                    while from_step < plan.step_count() {
                        let part = LoaderSpec { rank, from_step, ..spec.clone() };
                        from_step = read_some(part, 1 + (from_step + rank) % 7, &mut sum);
                    }
                }
                assert_eq!(sum, expected, "{backend:?}, {workers} workers, {world_size} ranks");
            }
        }
    }
}

/// Reads so many steps and drops the loader; returns the step to resume from.
fn read_some(spec: LoaderSpec, steps: u64, sum: &mut Digest) -> u64 {
    let (plan, end) = (spec.plan.clone(), (spec.from_step + steps).min(spec.end_step));
    let mut loader: Loader<u16> = Loader::start(spec).unwrap();
    while loader.next_place().is_some_and(|(step, _)| step < end) {
        let batch = loader.next_batch().unwrap().unwrap();
        sum.add(&plan, &batch);
        loader.recycle(batch);
    }
    end
}

#[test]
fn the_ranks_of_any_world_size_read_each_step_between_them() {
    let dir = tempfile::tempdir().unwrap();
    let (corpus, plan) = corpus_and_plan(dir.path(), ReadBackend::Mmap);
    let (_, whole) = drain(spec(corpus.clone(), plan.clone())).unwrap();
    for world_size in [1, 2, 4, 8] {
        let mut sum = Digest::default();
        for step in [0, plan.phases()[1].first_step, plan.step_count() - 1] {
            let mut ids = Vec::new();
            for rank in 0..world_size {
                let part = LoaderSpec {
                    rank,
                    world_size,
                    micro_batch_windows: 1,
                    from_step: step,
                    end_step: step + 1,
                    ..spec(corpus.clone(), plan.clone())
                };
                ids.extend(drain(part).unwrap().0);
            }
            assert!(
                ids == direct_read(&corpus, &plan, step..step + 1),
                "{world_size} ranks, step {step}"
            );
        }
        for rank in 0..world_size {
            let part = LoaderSpec {
                rank,
                world_size,
                micro_batch_windows: 1,
                ..spec(corpus.clone(), plan.clone())
            };
            sum.0 = sum.0.wrapping_add(drain(part).unwrap().1.0);
        }
        assert_eq!(sum, whole, "{world_size} ranks");
    }
}

#[test]
fn a_loader_that_starts_later_reads_what_one_from_the_start_reads_then() {
    let dir = tempfile::tempdir().unwrap();
    let (corpus, plan) = corpus_and_plan(dir.path(), ReadBackend::Mmap);
    for from_step in
        [0, 1, plan.phases()[1].first_step - 1, plan.phases()[2].first_step, plan.step_count()]
    {
        let late = LoaderSpec { from_step, workers: 3, ..spec(corpus.clone(), plan.clone()) };
        assert!(
            drain(late).unwrap().0 == direct_read(&corpus, &plan, from_step..plan.step_count())
        );
    }
}

/// Drains a loader over a damaged corpus: the steps delivered complete, and the error.
fn steps_before_error(spec: LoaderSpec) -> (u64, String) {
    let mut loader: Loader<i64> = Loader::start(spec).unwrap();
    let mut batches = 0;
    loop {
        match loader.next_batch() {
            Ok(Some(_)) => batches += 1,
            Ok(None) => panic!("the damage was not found"),
            Err(err) => {
                assert!(loader.next_batch().unwrap().is_none(), "nothing comes after an error");
                let cause = std::error::Error::source(&err).map(ToString::to_string);
                assert!(err.to_string().ends_with(&cause.unwrap()), "{err}");
                return (batches, err.to_string());
            }
        }
    }
}

#[test]
fn a_damaged_block_is_an_error_after_the_good_batches() {
    let dir = tempfile::tempdir().unwrap();
    let (corpus, plan) = corpus_and_plan(dir.path(), ReadBackend::Pread);
    drop(corpus);
    flip_byte(&dir.path().join("01-00002.tok"), 4096);
    for backend in [ReadBackend::Mmap, ReadBackend::Pread] {
        let (corpus, _) = corpus_and_plan(dir.path(), backend);
        let shard = corpus.shard_tokens(4);
        let bad = (0..plan.step_count()).flat_map(|step| plan.step(step)).position(|window| {
            window.first_token < shard.end && shard.start < window.first_token + window.token_count
        });
        for workers in [1, 2, 5] {
            let spec = LoaderSpec {
                workers,
                micro_batch_windows: 1,
                ..spec(corpus.clone(), plan.clone())
            };
            let (batches, err) = steps_before_error(spec);
            assert_eq!(Some(batches as usize), bad, "{err}");
            for part in ["step ", "window ", "01-00002.tok", "block 0 (bytes 4096..8096)"] {
                assert!(err.contains(part), "found {err:?}\nexpected {part:?}");
            }
        }
    }
}

/// Possible changes to a file a run has open.
#[derive(Clone, Copy, Debug)]
enum Change {
    Cut(u64),
    /// Cut, then extended to its old length: zeros replace ids.
    Zeroed(u64),
    /// One byte is different.
    Overwritten,
    Replaced,
    Removed,
}

impl Change {
    fn apply(self, path: &Path) {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        let byte_count = file.metadata().unwrap().len();
        match self {
            Change::Cut(len) => file.set_len(len).unwrap(),
            Change::Zeroed(len) => {
                file.set_len(len).unwrap();
                file.set_len(byte_count).unwrap();
            }
            Change::Overwritten => file.write_all_at(&[7], byte_count / 2).unwrap(),
            Change::Replaced => {
                let other = path.with_extension("other");
                fs::copy(path, &other).unwrap();
                fs::rename(&other, path).unwrap();
            }
            Change::Removed => fs::remove_file(path).unwrap(),
        }
    }

    fn message(self) -> String {
        match self {
            Change::Cut(len) => format!("the file was cut to {len} bytes"),
            Change::Zeroed(_) | Change::Overwritten => "the file was written to while".to_owned(),
            Change::Replaced | Change::Removed => "the file was removed or replaced".to_owned(),
        }
    }
}

const CHANGES: [Change; 9] = [
    Change::Cut(0),
    Change::Cut(4096),
    Change::Cut(4096 + 100),
    Change::Cut(4096 + 4096 + 1),
    Change::Zeroed(4096),
    Change::Zeroed(4096 + 5001),
    Change::Overwritten,
    Change::Replaced,
    Change::Removed,
];

/// Holds for any change to a file after it was opened, also after its checksums were verified.
#[test]
fn a_shard_that_changes_under_the_loader_is_an_error() {
    for vocab_size in [VOCAB_SIZE, 70_000] {
        for backend in [ReadBackend::Mmap, ReadBackend::Pread] {
            for (change, read_before) in
                CHANGES.into_iter().flat_map(|change| [(change, true), (change, false)])
            {
                let dir = tempfile::tempdir().unwrap();
                write_corpus(dir.path(), vocab_size, SHARDS);
                let (corpus, plan) = corpus_and_plan(dir.path(), backend);
                if read_before {
                    direct_read(&corpus, &plan, 0..plan.step_count());
                }
                change.apply(&dir.path().join("01-00000.tok"));
                let (_, err) = steps_before_error(spec(corpus, plan));
                let is_named = err.contains("01-00000.tok") && err.contains("bytes ");
                // The checksum may be first to reveal an overwritten block not yet checked.
                let is_said = err.contains(&change.message())
                    || (!read_before && err.contains("block 0 (bytes 4096..20480)"));
                assert!(is_named && is_said, "{change:?}: {err}");
            }
        }
    }
}

/// Changes under a running loader: no id is ever wrong, and the error comes.
#[test]
fn changes_while_batches_are_read_give_right_ids_or_an_error() {
    for round in 0..40 {
        let backend = if round % 2 == 0 { ReadBackend::Mmap } else { ReadBackend::Pread };
        let dir = tempfile::tempdir().unwrap();
        let (corpus, plan) = corpus_and_plan(dir.path(), backend);
        let expected = direct_read(&corpus, &plan, 0..plan.step_count());
        let path = dir.path().join("01-00000.tok");
        let mut loader: Loader<i64> = Loader::start(LoaderSpec {
            micro_batch_windows: 1,
            workers: 1 + round % 3,
            ..spec(corpus, plan)
        })
        .unwrap();
        let (mut seen, taken_before) = (0, round * 3);
        let err = loop {
            if seen / 128 == taken_before {
                // The changes that remove ids.
                CHANGES[round % 6].apply(&path);
            }
            match loader.next_batch() {
                Ok(Some(batch)) => {
                    assert!(batch.ids[..] == expected[seen..seen + batch.ids.len()], "{round}");
                    seen += batch.ids.len();
                    loader.recycle(batch);
                }
                // The workers had read everything before.
                Ok(None) => break None,
                Err(err) => break Some(err.to_string()),
            }
        };
        let is_named = |err: String| err.contains("01-00000.tok") && err.contains("bytes ");
        assert!(err.is_none_or(is_named) || seen == expected.len(), "round {round}");
    }
}

#[test]
fn dropping_a_loader_in_the_middle_ends_its_threads() {
    let dir = tempfile::tempdir().unwrap();
    for (workers, taken) in [(1, 0), (2, 1), (4, 3), (8, 20)] {
        let (corpus, plan) = corpus_and_plan(dir.path(), ReadBackend::Mmap);
        let mut loader: Loader<i64> = Loader::start(LoaderSpec {
            workers,
            // One slot each: workers wait for room.
            ring_bytes: workers as u64 * 2 * 128 * 8,
            ..spec(corpus.clone(), plan.clone())
        })
        .unwrap();
        for _ in 0..taken {
            loader.next_batch().unwrap().unwrap();
        }
        drop(loader);
        assert_eq!(Arc::strong_count(&corpus), 1, "a thread still holds the corpus");
    }
}

#[test]
fn what_does_not_fit_is_refused_with_its_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let (corpus, plan) = corpus_and_plan(dir.path(), ReadBackend::Mmap);
    let check = |change: fn(&mut LoaderSpec), expected: &str| {
        let mut spec = spec(corpus.clone(), plan.clone());
        change(&mut spec);
        let found = Loader::<i64>::start(spec).unwrap_err().to_string();
        assert!(found.contains(expected), "found {found:?}\nexpected {expected:?}");
    };
    check(
        |spec| spec.micro_batch_windows = 3,
        "a step of phase 0 has 8 windows, which do not split into micro-batches of 3 windows",
    );
    check(|spec| (spec.world_size, spec.micro_batch_windows) = (8, 2), "on 8 ranks");
    check(|spec| spec.rank = 1, "rank is 1; the world has 1 ranks");
    check(|spec| spec.workers = 0, "loader.workers is 0");
    check(|spec| spec.workers = 1025, "loader.workers is 1025; expected at most 1024");
    check(|spec| spec.micro_batch_windows = 0, "train.micro_batch_windows is 0");
    check(
        |spec| spec.ring_bytes = 4095,
        "loader.ring_bytes is 4095; 2 workers with batches of 2048 bytes need at least 4096",
    );
    check(|spec| spec.end_step += 1, "the plan has");
    check(|spec| (spec.from_step, spec.end_step) = (2, 1), "steps 2..1 are wanted");
}

#[test]
fn a_plan_of_another_corpus_is_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (corpus, plan) = corpus_and_plan(dir.path(), ReadBackend::Mmap);
    write_corpus(other.path(), VOCAB_SIZE + 1, &[&[&[12_853]]]);
    let other = Arc::new(Corpus::open(other.path(), ReadBackend::Mmap).unwrap());
    assert_eq!(other.token_count(), corpus.token_count());
    let err = Loader::<i64>::start(spec(other.clone(), plan)).unwrap_err().to_string();
    for fingerprint in [&corpus.manifest().fingerprint, &other.manifest().fingerprint] {
        assert!(err.contains(fingerprint.as_str()), "{err}");
    }
}
