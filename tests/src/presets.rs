//! Run files that ship: the paper's rows and the fixture run.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helper functions too")]

use std::path::{Path, PathBuf};

use pipeline::run_file::Run;
use schemas::run::{self, ModelConfig, RunFile};

/// File, parameters (reference: the paper's Table 1 and its scripts' configurations), epochs, subset.
const PAPER_ROWS: [(&str, u64, u64, u64); 5] = [
    ("370m-360b.toml", 369_148_928, 1, 360_000_000_000),
    ("780m-360b.toml", 781_395_456, 1, 360_000_000_000),
    ("1.3b-360b.toml", 1_345_423_360, 1, 360_000_000_000),
    ("2.7b-360b.toml", 2_693_696_000, 1, 360_000_000_000),
    ("370m-60bx6.toml", 369_148_928, 6, 60_000_000_000),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &Path) -> RunFile {
    let text = std::fs::read_to_string(path).unwrap();
    run::parse(&text, &[]).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
}

/// Parameters of an untied LLaMA without biases.
fn parameters(model: &ModelConfig) -> u64 {
    let (width, layers) = (model.hidden_size, model.num_hidden_layers);
    let key_value_width = width / model.num_attention_heads * model.num_key_value_heads;
    let attention = 2 * width * width + 2 * width * key_value_width;
    let mlp = 3 * width * model.intermediate_size;
    2 * model.vocab_size * width + layers * (attention + mlp + 2 * width) + width
}

#[test]
fn presets_are_the_papers_rows() {
    let folder = root().join("trainer/presets");
    for (name, parameter_count, epochs, subset_tokens) in PAPER_ROWS {
        let preset = read(&folder.join(name));
        assert_eq!(parameters(&preset.model), parameter_count, "{name}");
        assert_eq!(preset.plan.epochs, epochs, "{name}");
        assert_eq!(preset.data.subset_tokens, Some(subset_tokens), "{name}");
        assert_eq!(preset.plan.step_tokens, 2_097_152, "{name}");
        assert_eq!(preset.plan.window_units, 2048, "{name}");
        let phases: Vec<(u64, String)> =
            preset.phases.iter().map(|p| (p.patch_size, p.share.to_string())).collect();
        assert_eq!(phases, [(4, "2/3".to_owned()), (1, "1/3".to_owned())], "{name}");
    }
    let files = std::fs::read_dir(&folder).unwrap().count();
    assert_eq!(files, PAPER_ROWS.len(), "every file in {} is in this list", folder.display());
}

#[test]
fn presets_differ_only_in_what_the_papers_rows_vary() {
    let folder = root().join("trainer/presets");
    let first = read(&folder.join(PAPER_ROWS[0].0));
    for (name, ..) in PAPER_ROWS {
        let mut preset = read(&folder.join(name));
        assert_eq!(
            preset.train.output,
            format!("../../runs/{}", name.trim_end_matches(".toml")),
            "each has an output folder of its own"
        );
        preset.data.subset_tokens = first.data.subset_tokens;
        preset.plan.epochs = first.plan.epochs;
        preset.train.output.clone_from(&first.train.output);
        preset.train.micro_batch_windows = first.train.micro_batch_windows;
        preset.model.hidden_size = first.model.hidden_size;
        preset.model.intermediate_size = first.model.intermediate_size;
        preset.model.num_hidden_layers = first.model.num_hidden_layers;
        preset.model.num_attention_heads = first.model.num_attention_heads;
        preset.model.num_key_value_heads = first.model.num_key_value_heads;
        assert_eq!(preset, first, "{name}");
    }
}

/// The two ways of writing a run's shape down agree: windows and micro-batches divide a step in every phase.
#[test]
fn steps_of_shipped_run_files_split_evenly() {
    let mut paths: Vec<PathBuf> =
        PAPER_ROWS.iter().map(|row| root().join("trainer/presets").join(row.0)).collect();
    paths.push(root().join("fixtures/pretrain.toml"));
    for path in paths {
        let run = read(&path);
        for phase in &run.phases {
            let window_tokens = phase.patch_size * run.plan.window_units;
            assert_eq!(run.plan.step_tokens % window_tokens, 0, "{}", path.display());
            let windows = run.plan.step_tokens / window_tokens;
            assert_eq!(windows % run.train.micro_batch_windows, 0, "{}", path.display());
        }
    }
}

/// What `patchmill plan PRESET --assume-tokens 360e9` computes: 171,661 whole steps of 360B tokens, two thirds of them
/// (rounded down) at patch level, for half the cost.
#[test]
fn presets_plan_the_papers_budget() {
    for (name, _, epochs, subset_tokens) in PAPER_ROWS {
        let run = Run::load(&root().join("trainer/presets").join(name), &[]).unwrap();
        let plan = run.plan(360_000_000_000, None).unwrap_or_else(|err| panic!("{name}: {err}"));
        assert_eq!(plan.subset_tokens(), subset_tokens / 8192 * 8192, "{name}");
        assert_eq!(plan.run_tokens(), epochs * (subset_tokens / 8192 * 8192), "{name}");
        let steps: Vec<u64> = plan.phases().iter().map(|phase| phase.steps).collect();
        assert_eq!(steps, [114_440, 57_221], "{name}");
        assert!((plan.relative_cost() - 0.5).abs() < 1e-5, "{name}: {}", plan.relative_cost());
    }
}
