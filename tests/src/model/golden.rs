//! The model, the loss, the gradients and the training step against `fixtures/golden`, which agrees
//! with the authors' code (its README describes how it was made and where the tolerances come
//! from).

use schemas::run::{Dtype, Schedule};
use tch::{Kind, Tensor};
use trainer::model::architecture::{INPUT_MAP, OUTPUT_MAP, PatchMaps};
use trainer::model::llama::Llama;
use trainer::model::patch;
use trainer::shim::ShimError;
use trainer::step::adamw::AdamW;
use trainer::step::schedule::PhaseSchedule;
use trainer::step::{StepReport, train_step};

use crate::support::models::{Golden, adamw_config, assert_close, golden_model, max_abs};

fn tokens_btk(ids: &Tensor, patch_size: i64) -> Tensor {
    ids.view([2, -1, patch_size])
}

fn forward_agrees(patch_size: i64) {
    let golden = Golden::open(&format!("k{patch_size}_io.safetensors"));
    let model = golden_model(Dtype::Fp32);
    let tokens_btk = tokens_btk(golden.get("input_ids"), patch_size);
    let _no_grad = tch::no_grad_guard();
    assert_close(
        "patch_embeds",
        &model.embed_patches(&tokens_btk),
        golden.get("patch_embeds"),
        1e-6,
    );
    let hidden_btd = model.forward_hidden(&tokens_btk);
    assert_close("hidden", &hidden_btd, golden.get("hidden"), 2e-5);
    let logits_btv = model.logits(&hidden_btd);
    assert_close("logits", &logits_btv, golden.get("logits"), 2e-5);
    let nll_btk = patch::patch_nll(&logits_btv, &tokens_btk);
    assert_close("nll", &nll_btk, golden.get("nll"), 2e-5);
    assert_close(
        "plain loss",
        &patch::patch_loss(&logits_btv, &tokens_btk),
        golden.get("loss"),
        1e-5,
    );
    assert_close("loss", &model.loss(&tokens_btk), golden.get("loss"), 1e-5);
}

#[test]
fn forward_pass_agrees_for_every_patch_size() {
    for patch_size in [1, 2, 4, 8] {
        forward_agrees(patch_size);
    }
}

fn gradients_agree(patch_size: i64) {
    let golden = Golden::open(&format!("k{patch_size}_grads.safetensors"));
    let io = Golden::open(&format!("k{patch_size}_io.safetensors"));
    let model = golden_model(Dtype::Fp32);
    let loss = model.loss(&tokens_btk(io.get("input_ids"), patch_size));
    loss.backward();
    assert_close("loss", &loss, io.get("loss"), 1e-5);
    assert_eq!(golden.0.len(), model.parameters().iter().count());
    for parameter in model.parameters().iter() {
        let expected = golden.get(parameter.name());
        let found = parameter.view_of(model.parameters().gradients());
        assert_close(parameter.name(), &found, expected, 1e-5 * max_abs(expected) + 1e-7);
    }
}

#[test]
fn all_gradients_agree_for_every_patch_size() {
    for patch_size in [1, 2, 4, 8] {
        gradients_agree(patch_size);
    }
}

/// The golden model between the golden maps of a variant of §3.7.
fn mapped_model(golden: &Golden, input: bool, output: bool) -> Llama {
    let maps = PatchMaps { patch_size: 4, input, output };
    let model = golden_model(Dtype::Fp32).with_maps(maps, 1).unwrap();
    let _no_grad = tch::no_grad_guard();
    for name in [INPUT_MAP, OUTPUT_MAP] {
        if let Some(parameter) = model.parameters().get(name) {
            parameter.leaf().shallow_clone().copy_(golden.get(name));
        }
    }
    model
}

#[test]
fn maps_of_both_ends_agree_in_loss_and_gradients() {
    let golden = Golden::open("variants_k4.safetensors");
    for (variant, input, output) in
        [("input_map", true, false), ("output_map", false, true), ("both", true, true)]
    {
        let expected = |what: &str| golden.get(&format!("{variant}.{what}"));
        let model = mapped_model(&golden, input, output);
        let tokens_btk = tokens_btk(golden.get("input_ids"), 4);
        let (emb_btd, nll_btk) = tch::no_grad(|| {
            let hidden_btd = model.forward_hidden(&tokens_btk);
            let slots_btkd = model.map_slots(&hidden_btd, 4);
            assert_eq!(slots_btkd.is_some(), output);
            let slots_btkd =
                slots_btkd.unwrap_or_else(|| hidden_btd.unsqueeze(2).repeat([1, 1, 4, 1]));
            let logp_btkv = model.logits(&slots_btkd.narrow(1, 0, 15)).log_softmax(-1, Kind::Float);
            let targets_btk1 = tokens_btk.narrow(1, 1, 15).unsqueeze(3);
            (
                model.embed_patches(&tokens_btk),
                -logp_btkv.gather(3, &targets_btk1, false).squeeze_dim(3),
            )
        });
        assert_close(
            "patch_embeds",
            &emb_btd,
            expected("patch_embeds"),
            1e-6 * max_abs(&emb_btd).max(1.0),
        );
        assert_close("nll", &nll_btk, expected("nll"), 2e-5);
        let loss = model.loss(&tokens_btk);
        assert_close("loss", &loss, expected("loss"), 1e-5);
        loss.backward();
        let mut names = vec!["model.norm.weight"];
        names.extend(
            [(input, INPUT_MAP), (output, OUTPUT_MAP)].iter().filter(|map| map.0).map(|map| map.1),
        );
        for name in names {
            let parameter = model.parameters().get(name).unwrap();
            let found = parameter.view_of(model.parameters().gradients());
            let golden = expected(&format!("grad.{name}"));
            assert_close(name, &found, golden, 1e-5 * max_abs(golden) + 1e-7);
        }
    }
}

/// Token-level evaluation in a phase with maps, and every other patch size, is the model's own.
#[test]
fn maps_take_part_in_their_own_patch_size_alone() {
    let mapped = mapped_model(&Golden::open("variants_k4.safetensors"), true, true);
    let plain = golden_model(Dtype::Fp32);
    let ids = Golden::open("variants_k4.safetensors");
    for patch_size in [1, 2, 8] {
        let ids = ids.get("input_ids").narrow(1, 0, 16);
        let tokens_btk = ids.reshape([2, 16 / patch_size, patch_size]);
        let [found, expected] =
            [&mapped, &plain].map(|model| tch::no_grad(|| model.loss(&tokens_btk)));
        assert!(found.equal(&expected), "K = {patch_size}");
    }
}

#[test]
fn rotary_tables_agree() {
    let golden = Golden::open("rope.safetensors");
    let model = golden_model(Dtype::Fp32);
    let (cos_te, sin_te) = model.rotary_tables();
    let both_halves = |table_te: &Tensor| Tensor::cat(&[table_te, table_te], 1);
    assert_close("cos", &both_halves(cos_te), golden.get("cos"), 1e-6);
    assert_close("sin", &both_halves(sin_te), golden.get("sin"), 1e-6);
}

/// Five steps of one phase of the golden run through the real training step, with fresh moments.
fn train_phase(model: &Llama, phase: usize, patch_size: i64) -> AdamW {
    let batches = Golden::open("train_batches.safetensors");
    let log = Golden::open("train_log.safetensors");
    let logged =
        |what: &str, step: i64| log.get(&format!("phase{phase}.{what}")).double_value(&[step]);
    let schedule = Schedule::Cosine { peak: 3e-3, warmup_steps: 2, end: 0.0 };
    let schedule = PhaseSchedule::new(schedule, 5).unwrap();
    let mut optimizer = AdamW::new(model.parameters(), &adamw_config()).unwrap();
    for step in 0..5 {
        let learning_rate = schedule.learning_rate(step as u64);
        assert!(
            (learning_rate - logged("lr", step)).abs() <= 1e-12,
            "rate of step {step}: {learning_rate}"
        );
        let ids = batches.get(&format!("phase{phase}.step{step}"));
        let batch = std::iter::once(Ok::<_, ShimError>(tokens_btk(ids, patch_size)));
        let StepReport { loss, grad_norm, updated, .. } =
            train_step(model, &mut optimizer, batch, 1, learning_rate).unwrap().read();
        assert!(updated);
        assert!((loss - logged("loss", step)).abs() <= 1e-5, "loss of step {step}: {loss}");
        let norm = logged("grad_norm", step);
        assert!((grad_norm - norm).abs() <= 1e-5 * norm, "norm of step {step}: {grad_norm}");
        let weight_l2 = model.parameters().masters().to_kind(Kind::Double).norm().double_value(&[]);
        assert!((weight_l2 - logged("weight_l2", step)).abs() <= 1e-5, "weights of step {step}");
    }
    optimizer
}

fn assert_phase_end(model: &Llama, optimizer: &AdamW, phase: usize) {
    let weights = Golden::open(&format!("train_phase{phase}_final.safetensors"));
    for parameter in model.parameters().iter() {
        assert_close(parameter.name(), parameter.leaf(), weights.get(parameter.name()), 3e-6);
    }
    let moments = Golden::open("train_moments.safetensors");
    let state = optimizer.export(model.parameters());
    let mut compared = 0;
    for (name, found) in &state {
        let golden = format!("phase{phase}.{name}");
        if let Some((_, expected)) = moments.0.iter().find(|(other, _)| *other == golden) {
            assert_close(name, found, expected, 1e-5 * max_abs(expected) + 1e-9);
            compared += 1;
        }
    }
    assert_eq!(compared, 4);
    let step_count = state.iter().find(|(name, _)| name == "step").unwrap();
    assert_eq!(step_count.1.double_value(&[]), 5.0);
}

#[test]
fn two_phases_of_five_steps_agree_through_the_real_training_step() {
    let model = golden_model(Dtype::Fp32);
    let optimizer = train_phase(&model, 1, 4);
    assert_phase_end(&model, &optimizer, 1);
    let optimizer = train_phase(&model, 2, 1);
    assert_phase_end(&model, &optimizer, 2);
}

#[test]
fn bf16_tracks_fp32_within_the_measured_spread() {
    for patch_size in [1, 4] {
        let golden = Golden::open(&format!("k{patch_size}_grads.safetensors"));
        let io = Golden::open(&format!("k{patch_size}_io.safetensors"));
        let tokens_btk = tokens_btk(io.get("input_ids"), patch_size);
        let model = golden_model(Dtype::Bf16);
        let loss = model.loss(&tokens_btk);
        loss.backward();
        assert_close("loss", &loss, io.get("loss"), 5e-3);
        let logits_btv = tch::no_grad(|| model.logits(&model.forward_hidden(&tokens_btk)));
        assert_eq!(logits_btv.kind(), Kind::Float);
        assert_close("logits", &logits_btv, io.get("logits"), 1e-1);
        for parameter in model.parameters().iter() {
            let found = parameter.view_of(model.parameters().gradients()).flatten(0, -1);
            let expected = golden.get(parameter.name()).flatten(0, -1);
            let cosine = found.dot(&expected) / (found.norm() * expected.norm());
            assert!(cosine.double_value(&[]) >= 0.999, "{}: {cosine}", parameter.name());
        }
    }
}
