//! The run files we ship: the paper's rows and the fixture run.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helper functions too")]

use std::path::{Path, PathBuf};

use pipeline::run_file::Run;
use schemas::run::{self, ModelConfig, RunFile};

/// File, parameters (reference: the paper's Table 1 and its scripts' configurations), epochs,
/// subset.
const PAPER_ROWS: [(&str, u64, u64, u64); 5] = [
    ("370m-360b.toml", 369_148_928, 1, 360_000_000_000),
    ("780m-360b.toml", 781_395_456, 1, 360_000_000_000),
    ("1.3b-360b.toml", 1_345_423_360, 1, 360_000_000_000),
    ("2.7b-360b.toml", 2_693_696_000, 1, 360_000_000_000),
    ("370m-60bx6.toml", 369_148_928, 6, 60_000_000_000),
];

/// File, patch sizes and steps of the phases on 360B tokens, units per token.
type Recipe = (&'static str, &'static [(u64, u64)], f64);
/// Recipes besides the paper's.
const RECIPES: [Recipe; 2] = [
    ("370m-tst.toml", &[(4, 108_417), (1, 63_244)], 10.0 / 19.0),
    ("370m-ladder.toml", &[(8, 57_220), (4, 57_220), (1, 57_221)], 11.0 / 24.0),
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
    assert_eq!(
        files,
        PAPER_ROWS.len() + RECIPES.len(),
        "every file in {} is in this list",
        folder.display()
    );
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

/// The two descriptions of a run's shape agree: windows and micro-batches divide a step in every
/// phase.
#[test]
fn steps_of_shipped_run_files_split_evenly() {
    let names = PAPER_ROWS.iter().map(|row| row.0).chain(RECIPES.iter().map(|recipe| recipe.0));
    let mut paths: Vec<PathBuf> =
        names.map(|name| root().join("trainer/presets").join(name)).collect();
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

/// Results of `patchmill plan PRESET --assume-tokens 360e9`: 171,661 whole steps of 360B tokens,
/// two thirds of them (rounded down) at patch level, for half the cost.
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

/// The other recipes plan as their comments describe, and train the first row's model on its data.
#[test]
fn other_recipes_plan_and_differ_from_the_first_row_in_their_phases_alone() {
    let folder = root().join("trainer/presets");
    let first = read(&folder.join(PAPER_ROWS[0].0));
    for (name, phases, cost) in RECIPES {
        let run = Run::load(&folder.join(name), &[]).unwrap();
        let plan = run.plan(360_000_000_000, None).unwrap_or_else(|err| panic!("{name}: {err}"));
        let found: Vec<(u64, u64)> =
            plan.phases().iter().map(|phase| (phase.patch_size, phase.steps)).collect();
        assert_eq!(found, phases, "{name}");
        assert!((plan.relative_cost() - cost).abs() < 1e-5, "{name}: {}", plan.relative_cost());
        let mut file = run.file.clone();
        assert_eq!(file.train.output, format!("../../runs/{}", name.trim_end_matches(".toml")));
        file.train.output.clone_from(&first.train.output);
        file.phases.clone_from(&first.phases);
        assert_eq!(file, first, "{name}");
    }
}

/// Three tenths of the units are superposed, the rate does not fall before the second phase, and
/// the optimizer state carries over.
#[test]
fn the_superposition_recipe_is_one_schedule_over_two_phases() {
    let run = read(&root().join("trainer/presets/370m-tst.toml"));
    let [first, second] = &run.phases[..] else { panic!("two phases") };
    let units = |phase: &run::PhaseConfig| {
        phase.share.numer() as f64 / phase.share.denom() as f64 / phase.patch_size as f64
    };
    assert!((units(first) / (units(first) + units(second)) - 0.3).abs() < 1e-12);
    assert_eq!(second.carry, run::Carry::WeightsAndOptimizer);
    assert_eq!((first.schedule.end(), second.schedule.peak()), (3e-4, 3e-4));
    assert_eq!((second.schedule.warmup_steps(), second.schedule.end()), (0, 0.0));
}
