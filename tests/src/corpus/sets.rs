//! A corpus with separate sets, read as one stream for each set.

use std::path::Path;
use std::sync::Arc;

use pipeline::corpus::sets::set_streams;
use pipeline::corpus::{Corpus, read_manifest};
use pipeline::loader::{Loader, LoaderSpec};
use plan::{PhaseSpec, Plan, PlanSpec, SetSpec};
use schemas::manifest::{FILE_NAME, SetTotals};
use schemas::run::{Passes, ReadBackend, SetAmount, Share, Shuffle};

use crate::support::small_corpus::write_corpus;

/// Four series of the sets "b", "a", "b" and none; returns the ids in the manifest's order.
fn write_by_set(dir: &Path) -> Vec<u32> {
    let ids = write_corpus(
        dir,
        5000,
        &[&[&[70, 31], &[900]], &[&[300], &[200, 1]], &[&[40]], &[&[10, 20], &[500]]],
    );
    let mut manifest = read_manifest(dir).unwrap();
    let mut totals = Vec::new();
    for (series, name) in manifest.series.iter_mut().zip([Some("b"), Some("a"), Some("b"), None]) {
        series.sets[0].set_name = name.map(str::to_owned);
    }
    for name in [None, Some("a"), Some("b")] {
        let of_set = manifest.series.iter().flat_map(|series| &series.sets);
        let of_set = of_set.filter(|set| set.set_name.as_deref() == name);
        let mut sum =
            SetTotals { set_name: name.map(str::to_owned), documents: 0, text_bytes: 0, tokens: 0 };
        for set in of_set {
            (sum.documents, sum.tokens) = (sum.documents + set.documents, sum.tokens + set.tokens);
        }
        totals.push(sum);
    }
    manifest.sets = totals;
    std::fs::write(dir.join(FILE_NAME), manifest.seal().1).unwrap();
    ids
}

/// The ids of the streams, one after the other: none, "a", "b".
fn by_set(ids: &[u32]) -> Vec<u32> {
    let (b1, rest) = ids.split_at(1001);
    let (a, rest) = rest.split_at(501);
    let (b2, none) = rest.split_at(40);
    [none, a, b1, b2].concat()
}

#[test]
fn the_shards_of_a_set_stand_together_and_documents_keep_their_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let ids = write_by_set(dir.path());
    let (plain, sets) = (
        Corpus::open(dir.path(), ReadBackend::Pread).unwrap(),
        Corpus::open_by_set(dir.path(), ReadBackend::Pread).unwrap(),
    );
    let names: Vec<_> = sets.sets().iter().map(|set| (set.name.as_str(), set.tokens)).collect();
    assert_eq!(names, [("", 530), ("a", 501), ("b", 1041)]);
    assert!(plain.sets().is_empty());
    let mut found = vec![0u32; ids.len()];
    sets.read(0, &mut found).unwrap();
    assert_eq!(found, by_set(&ids));
    for document in 0..plain.document_count() {
        let read = |corpus: &Corpus| {
            let tokens = corpus.document_tokens(document).unwrap();
            assert_eq!(corpus.document_at(tokens.start).unwrap(), document);
            assert_eq!(corpus.document_at(tokens.end - 1).unwrap(), document);
            let mut ids = vec![0u32; (tokens.end - tokens.start) as usize];
            corpus.read(tokens.start, &mut ids).unwrap();
            ids
        };
        assert_eq!(read(&plain), read(&sets), "document {document}");
    }
    // Tokens 520..540 are the last 10 of the series without a set and the first 10 of "a".
    let parts = sets.parts(520, 20).unwrap();
    let parts: Vec<_> =
        parts.iter().map(|p| (p.first_token, p.token_count, p.file_offset())).collect();
    assert_eq!(parts, [(490, 10, 4096 + 980), (0, 10, 4096)]);
}

fn plan(corpus: &Corpus) -> Plan {
    let passes = |numer, denom| SetAmount::Epochs(Passes::new(numer, denom).unwrap());
    let amounts = [passes(1, 1), passes(3, 2), passes(1, 1)];
    let sets = corpus.sets().iter().zip(amounts).map(|(set, amount)| SetSpec {
        name: set.name.clone(),
        tokens: set.tokens,
        amount,
    });
    let phase =
        |patch_size| PhaseSpec { patch_size, window_units: 8, share: Share::new(1, 2).unwrap() };
    Plan::new(&PlanSpec {
        corpus_tokens: corpus.token_count(),
        corpus_fingerprint: Some(corpus.manifest().fingerprint.clone()),
        subset_tokens: None,
        step_tokens: 64,
        epochs: 2,
        seed: 9,
        shuffle: Shuffle::Blocked { group_blocks: 3 },
        sets: sets.collect(),
        phases: vec![phase(4), phase(1)],
    })
    .unwrap()
}

fn spec(corpus: Corpus, plan: &Arc<Plan>) -> LoaderSpec {
    LoaderSpec {
        corpus: Arc::new(corpus),
        plan: plan.clone(),
        from_step: 0,
        end_step: plan.step_count(),
        rank: 0,
        world_size: 1,
        micro_batch_windows: 1,
        workers: 2,
        ring_bytes: 1 << 16,
        read_ahead_bytes: 0,
        pin: None,
    }
}

#[test]
fn the_loader_reads_a_mixture_as_planned() {
    let dir = tempfile::tempdir().unwrap();
    let ids = by_set(&write_by_set(dir.path()));
    let corpus = Corpus::open_by_set(dir.path(), ReadBackend::Mmap).unwrap();
    let plan = Arc::new(plan(&corpus));
    let mut loader: Loader<i64> = Loader::start(spec(corpus, &plan)).unwrap();
    for step in 0..plan.step_count() {
        for window in plan.step(step) {
            let batch = loader.next_batch().unwrap().unwrap();
            let tokens = window.first_token..window.first_token + window.token_count;
            let expected = &ids[tokens.start as usize..tokens.end as usize];
            assert!(batch.ids.iter().copied().eq(expected.iter().map(|&id| i64::from(id))));
            loader.recycle(batch);
        }
    }
    assert!(loader.next_batch().unwrap().is_none());
}

#[test]
fn a_mixture_is_not_read_from_a_corpus_in_another_order() {
    let dir = tempfile::tempdir().unwrap();
    write_by_set(dir.path());
    let corpus = Corpus::open_by_set(dir.path(), ReadBackend::Mmap).unwrap();
    let plan = Arc::new(plan(&corpus));
    let plain = Corpus::open(dir.path(), ReadBackend::Mmap).unwrap();
    let err = Loader::<i64>::start(spec(plain, &plan)).unwrap_err();
    assert!(err.is_mismatch());
    let expected = "sets \"\" 530, \"a\" 501, \"b\" 1041; ";
    assert!(err.to_string().contains(expected), "found {err}");
    assert!(err.to_string().ends_with("(all in one stream)"), "found {err}");
}

#[test]
fn a_series_of_several_sets_is_no_part_of_a_mixture() {
    let dir = tempfile::tempdir().unwrap();
    write_by_set(dir.path());
    let mut manifest = read_manifest(dir.path()).unwrap();
    let half = SetTotals { tokens: 1, ..manifest.series[1].sets[0].clone() };
    manifest.series[1].sets.push(SetTotals { set_name: Some("c".to_owned()), ..half });
    let err = set_streams(&manifest).unwrap_err().to_string();
    assert!(err.contains("the series of input-1.jsonl holds 2 sets (a, c)"), "found {err}");
    assert!(err.contains("--by-set"), "found {err}");
}
