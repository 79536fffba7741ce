//! Run files: refusals and their messages, and the schemas that describe accepted files.

use std::path::{Path, PathBuf};

use pipeline::run_file::{Run, RunError};

fn write(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("run.toml");
    std::fs::write(&path, text).unwrap();
    path
}

/// Some ten steps of each phase at a million tokens.
pub(super) const RUN_FILE: &str = r#"
[data]
corpus = "corpora/train"
validation = "/abs/valid"

[plan]
window_units = 128
step_tokens = 65_536
epochs = 2
seed = 1
shuffle = "global"

[[phases]]
patch_size = 4
share = "2/3"
schedule = { kind = "cosine", peak = 3e-4, warmup_steps = 9, final = 0.0 }
carry = "weights"

[[phases]]
patch_size = 1
window_units = 256
share = "1/3"
schedule = { kind = "cosine", peak = 3e-4, warmup_steps = 9, final = 0.0 }
carry = "weights"

[model]
vocab_size = 4096
hidden_size = 64
intermediate_size = 128
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 4
rms_norm_eps = 1e-6
rope_theta = 10000.0
tie_word_embeddings = false
initializer_range = 0.02

[optimizer]
kind = "adamw"
betas = [0.9, 0.95]
eps = 1e-8
weight_decay = 0.1
clip_norm = 1.0
nonfinite = "stop"

[train]
init_seed = 1
device = "cpu"
activation_checkpointing = "none"
dtype = "fp32"
micro_batch_windows = 4
output = "runs/x"
checkpoint_every_steps = 10
keep_checkpoints = 2
keep_every_steps = 0
eval_every_steps = 10
log_every_steps = 1

[loader]
workers = 2
io = "mmap"
ring_bytes = 8_388_608
"#;

fn load(text: &str, overrides: &[&str]) -> Result<Run, RunError> {
    let dir = tempfile::tempdir().unwrap();
    let overrides: Vec<String> = overrides.iter().map(|&text| text.to_owned()).collect();
    Run::load(&write(dir.path(), text), &overrides)
}

fn check_refused(text: &str, overrides: &[&str], expected: &[&str]) {
    let found = load(text, overrides).unwrap_err().to_string();
    for part in expected {
        assert!(found.contains(part), "found {found:?}\nexpected {part:?}");
    }
}

#[test]
fn paths_are_relative_to_the_run_file() {
    let dir = tempfile::tempdir().unwrap();
    let run = Run::load(&write(dir.path(), RUN_FILE), &[]).unwrap();
    assert_eq!(run.corpus_dir(), dir.path().join("corpora/train"));
    assert_eq!(run.validation_dir().unwrap(), Path::new("/abs/valid"));
    assert_eq!(run.output_dir(), dir.path().join("runs/x"));
}

#[test]
fn overrides_are_laid_over_the_file() {
    let set =
        ["plan.epochs=4", "phases.1.share=1/3", "train.dtype=bf16", "data.subset_tokens=600_000"];
    let run = load(RUN_FILE, &set).unwrap();
    assert_eq!((run.file.plan.epochs, run.file.data.subset_tokens), (4, Some(600_000)));
    assert_eq!(run.file.train.dtype, schemas::run::Dtype::Bf16);
    let plan = run.plan(1_000_000, None).unwrap();
    // Blocks of 512 tokens; 600,000 / 512 = 1171.9; the second phase has a T of its own.
    assert_eq!(plan.subset_tokens(), 1171 * 512);
    assert_eq!(
        plan.phases().iter().map(|phase| phase.window_tokens).collect::<Vec<_>>(),
        [512, 256]
    );
}

#[test]
fn overrides_reach_into_lists_and_text_is_never_a_number() {
    let run = load(RUN_FILE, &["optimizer.betas.1=0.99", "train.output=100"]).unwrap();
    assert_eq!(run.file.optimizer.betas[1], 0.99);
    assert_eq!((run.file.train.output.as_str(), run.output_dir().ends_with("100")), ("100", true));
    let run = load(RUN_FILE, &["train.output=\"7\"", "data.corpus=true"]).unwrap();
    assert_eq!((run.file.train.output.as_str(), run.file.data.corpus.as_str()), ("7", "true"));
    check_refused(RUN_FILE, &["optimizer.betas.2=0.9"], &["there is no \"2\" in the run file"]);
    check_refused(RUN_FILE, &["optimizer.betas.x=0.9"], &["there is no \"x\" in the run file"]);
    check_refused(RUN_FILE, &["optimizer.betas.0.1=0.9"], &["there is no \"1\" in the run file"]);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    let text = RUN_FILE.replace("seed = 1\nshuffle", "sed = 1\nshuffle");
    check_refused(
        &text,
        &[],
        &["run.toml", "unknown field `sed`", "did you mean `seed`?", "line 10"],
    );
    check_refused(
        RUN_FILE,
        &["train.dtyp=fp32"],
        &["unknown field `dtyp`", "did you mean `dtype`?"],
    );
}

#[test]
fn missing_keys_are_refused_because_nothing_has_a_default() {
    check_refused(&RUN_FILE.replace("epochs = 2\n", ""), &[], &["missing field `epochs`"]);
    check_refused(&RUN_FILE.replace("clip_norm = 1.0\n", ""), &[], &["missing field `clip_norm`"]);
}

#[test]
fn shares_that_are_no_fraction_are_refused() {
    for share in ["0.66", "4/3", "1/0", "-1/3", ""] {
        let text = RUN_FILE.replace("\"2/3\"", &format!("{share:?}"));
        check_refused(&text, &[], &["share is", "expected a fraction from \"0/1\" to \"1/1\""]);
    }
}

#[test]
fn overrides_that_lead_nowhere_are_refused() {
    for (set, expected) in [
        ("train.dtype", "override \"train.dtype\" is not of the form section.key=value"),
        ("epochs=3", "is not of the form section.key=value"),
        ("trian.dtype=fp32", "there is no \"trian\" in the run file"),
        ("phases.7.share=1/2", "there is no \"7\" in the run file"),
        ("plan.epochs=many", "invalid type: string \"many\""),
        ("plan.epochs=-1", "invalid value: integer `-1`"),
    ] {
        check_refused(RUN_FILE, &[set], &[expected]);
    }
}

#[test]
fn values_that_make_no_sense_are_refused_by_name() {
    for (set, expected) in [
        ("train.micro_batch_windows=0", "train.micro_batch_windows is 0; expected at least 1"),
        ("train.keep_checkpoints=0", "train.keep_checkpoints is 0"),
        ("loader.workers=0", "loader.workers is 0"),
        (
            "optimizer.betas=[0.9, 1.0]",
            "optimizer.betas.1 is 1; expected a number from 0 to below 1",
        ),
        ("optimizer.eps=0.0", "optimizer.eps is 0; expected a finite number above 0"),
        ("optimizer.clip_norm=inf", "optimizer.clip_norm is inf"),
        ("optimizer.weight_decay=nan", "optimizer.weight_decay is NaN"),
        (
            "optimizer.spike={ window_steps = 1, sigma = 6.0, action = \"stop\" }",
            "optimizer.spike.window_steps is 1; expected 2 to 65536",
        ),
        (
            "optimizer.spike={ window_steps = 9, sigma = -1.0, action = \"skip\" }",
            "optimizer.spike.sigma is -1",
        ),
        (
            "optimizer.spike={ window_steps = 9, sigma = 6.0, action = \"warn\" }",
            "unknown variant `warn`",
        ),
        (
            "optimizer.spike={ window_steps = 9, sigma = 6.0, action = \"stop\", factor = 2 }",
            "unknown field `factor`",
        ),
    ] {
        check_refused(RUN_FILE, &[set], &[expected]);
    }
}

/// Two epochs of 1953 blocks of 512 tokens are 1,999,872 tokens: 30 steps, of which 20 are in the
/// first phase.
#[test]
fn a_warm_up_as_long_as_its_phase_is_refused() {
    let warmup = |steps: u64| {
        let text = RUN_FILE.replacen("warmup_steps = 9", &format!("warmup_steps = {steps}"), 1);
        load(&text, &[]).unwrap().plan(1_000_000, None)
    };
    assert_eq!(warmup(19).unwrap().phases()[0].steps, 20);
    let err = warmup(20).unwrap_err().to_string();
    assert!(err.contains("phase 0 has 20 steps; its schedule.warmup_steps is 20"), "{err}");
}

#[test]
fn every_schedule_is_written_in_one_way_and_fits_its_phase() {
    use schemas::run::{Carry, Decay, Schedule};
    let with = |schedule: &str| {
        let set = format!("phases.1.schedule={{ peak = 3e-4, warmup_steps = 2, {schedule} }}");
        load(RUN_FILE, &[&set, "phases.1.carry=weights+optimizer"])
    };
    let (peak, warmup_steps, end) = (3e-4, 2, 1e-5);
    let wsd = |decay| Schedule::Wsd { peak, warmup_steps, decay_steps: 8, decay, end };
    for (text, expected) in [
        ("kind = \"cosine\", final = 1e-5", Schedule::Cosine { peak, warmup_steps, end }),
        ("kind = \"linear\", final = 1e-5", Schedule::Linear { peak, warmup_steps, end }),
        ("kind = \"constant\"", Schedule::Constant { peak, warmup_steps }),
        ("kind = \"wsd\", decay_steps = 8, decay = \"linear\", final = 1e-5", wsd(Decay::Linear)),
        ("kind = \"wsd\", decay_steps = 8, decay = \"cosine\", final = 1e-5", wsd(Decay::Cosine)),
        (
            "kind = \"wsd\", decay_steps = 8, decay = \"1-sqrt\", final = 1e-5",
            wsd(Decay::OneMinusSqrt),
        ),
    ] {
        let run = with(text).unwrap();
        assert_eq!(run.file.phases[1].schedule, expected, "{text}");
        assert_eq!(run.file.phases[1].carry, Carry::WeightsAndOptimizer);
        assert_eq!(run.plan(1_000_000, None).unwrap().phases()[1].steps, 10);
        assert_eq!(load(&toml::to_string(&run.file).unwrap(), &[]).unwrap().file, run.file);
    }
    for (text, expected) in [
        ("kind = \"constant\", final = 0.0", "unknown field `final`"),
        ("kind = \"linear\"", "missing field `final`"),
        ("kind = \"linear\", decay_steps = 3, final = 0.0", "unknown field `decay_steps`"),
        ("kind = \"wsd\", decay_steps = 3, final = 0.0", "missing field `decay`"),
        (
            "kind = \"wsd\", decay_steps = 3, decay = \"sqrt\", final = 0.0",
            "unknown variant `sqrt`",
        ),
        (
            "kind = \"wsd\", decay_steps = 0, decay = \"linear\", final = 0.0",
            "phases.1.schedule.decay_steps is 0; expected at least 1",
        ),
        ("kind = \"linear\", final = -1.0", "phases.1.schedule.final is -1"),
        ("kind = \"steps\", final = 0.0", "unknown variant `steps`"),
    ] {
        let found = with(text).unwrap_err().to_string();
        assert!(found.contains(expected), "found {found:?}\nexpected {expected:?}");
    }
    let too_long =
        with("kind = \"wsd\", decay_steps = 9, decay = \"linear\", final = 0.0").unwrap();
    let err = too_long.plan(1_000_000, None).unwrap_err().to_string();
    assert!(
        err.contains("phase 1 has 10 steps, 2 of them warm-up; its schedule.decay_steps is 9"),
        "{err}"
    );
    assert!(err.contains("expected at most the 8 that are left"), "{err}");
}

#[test]
fn a_missing_run_file_is_named() {
    let err = Run::load(Path::new("no/such/run.toml"), &[]).unwrap_err().to_string();
    assert!(err.contains("cannot read run file no/such/run.toml"), "{err}");
}

/// After a change of the types, `PATCHMILL_WRITE_SCHEMAS=1 cargo test -p tests schemas` rewrites
/// them.
#[test]
fn the_order_of_the_data_is_written_in_one_way() {
    use schemas::run::{Passes, SetAmount, Share, Shuffle};
    let blocked = "plan.shuffle={ kind = \"blocked\", group_blocks = 4096 }";
    let sets = "data.sets={ Github = { epochs = 2 }, \"Books3\" = { share = \"1/10\" }, \
                \"\" = { epochs = \"3/2\" } }";
    let run = load(RUN_FILE, &[blocked, sets]).unwrap();
    assert_eq!(run.file.plan.shuffle, Shuffle::Blocked { group_blocks: 4096 });
    let amounts = run.file.data.sets.clone().unwrap();
    assert_eq!(amounts["Github"], SetAmount::Epochs(Passes::new(2, 1).unwrap()));
    assert_eq!(amounts["Books3"], SetAmount::Share(Share::new(1, 10).unwrap()));
    assert_eq!(amounts[""], SetAmount::Epochs(Passes::new(3, 2).unwrap()));
    let text = toml::to_string(&run.file).unwrap();
    assert_eq!(load(&text, &[]).unwrap().file, run.file);

    let refused = |change: &str, expected: &str| {
        let found = load(RUN_FILE, &[change]).unwrap_err().to_string();
        assert!(found.contains(expected), "found {found:?}\nexpected {expected:?}");
    };
    refused("plan.shuffle=local", "shuffle is \"local\", expected \"global\", \"none\" or {");
    refused("plan.shuffle={ kind = \"blocked\", group_blocks = 0 }", "group_blocks is 0");
    refused("plan.shuffle={ kind = \"rows\", group_blocks = 2 }", "shuffle has kind \"rows\"");
    refused("plan.shuffle={ kind = \"blocked\" }", "missing field `group_blocks`");
    refused("data.sets={ a = { epochs = -1 } }", "epochs is -1");
    refused("data.sets={ a = { epochs = \"2\" } }", "expected a whole number such as 2");
    refused("data.sets={ a = { share = \"3/2\" } }", "share is \"3/2\"");
    refused("data.sets={ a = { part = 1 } }", "unknown variant `part`");
}

#[test]
fn the_committed_json_schemas_are_those_of_the_types() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas/json");
    for (name, expected) in [
        ("run.schema.json", schemas::run::json_schema()),
        ("manifest.schema.json", schemas::manifest::json_schema()),
    ] {
        let path = dir.join(name);
        if std::env::var_os("PATCHMILL_WRITE_SCHEMAS").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap();
        assert!(found == expected, "{name} is not what the types say; write it anew");
    }
}
