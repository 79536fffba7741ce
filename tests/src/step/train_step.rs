//! The laws of the loss, the optimizer and the training step.

use schemas::run::{
    ActivationCheckpointing, Dtype, Nonfinite, OptimizerConfig, Spike, SpikeAction,
};
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::weights;
use trainer::model::llama::{Compute, Llama};
use trainer::model::patch;
use trainer::shim::{self, AdamWNumbers, AdamWOperands, ShimError};
use trainer::step::adamw::{self, AdamW};
use trainer::step::loss_guard::LossGuard;
use trainer::step::{StepOutput, UnreadSteps, train_step};

use crate::support::models::{
    RECOMPUTING, adamw_config, assert_close, golden_config, golden_model, golden_model_with,
    max_abs, on_cpu, tokens_btk,
};

fn step_over(
    model: &Llama,
    optimizer: &mut AdamW,
    batches: &[Tensor],
    learning_rate: f64,
) -> StepOutput {
    let batches_in_order =
        batches.iter().map(|tokens_btk| Ok::<_, ShimError>(tokens_btk.shallow_clone()));
    train_step(model, optimizer, batches_in_order, batches.len() as u64, learning_rate).unwrap()
}

fn new_optimizer(model: &Llama) -> AdamW {
    AdamW::new(model.parameters(), &adamw_config()).unwrap()
}

/// A loss given to the loss guard, and whether it would allow the update.
fn judged(guard: &mut LossGuard, loss: f64) -> bool {
    guard.check_step(&Tensor::from(loss as f32), &Tensor::from(1f32)).double_value(&[]) == 1.0
}

fn guard(action: SpikeAction) -> LossGuard {
    let spike = Some(Spike { window_steps: 4, sigma: 3.0, action });
    LossGuard::new(&OptimizerConfig { spike, ..adamw_config() }, Device::Cpu)
}

#[test]
fn a_spike_is_a_loss_far_above_a_full_window() {
    let mut guard = guard(SpikeAction::Skip);
    // Mean 2, deviation 0.5 once four are there: the threshold is 3.5.
    for loss in [99.0, 1.5, 2.5, 1.5, 2.5] {
        assert!(judged(&mut guard, loss));
    }
    assert!(judged(&mut guard, 3.49));
    guard.reset_window();
    assert!(
        [1.5, 2.5, 1.5, 2.5].map(|loss| judged(&mut guard, loss)).iter().all(|applied| *applied)
    );
    assert!(!judged(&mut guard, 3.51), "a spike makes no update");
    assert!(judged(&mut guard, 3.51), "it counts among the losses that follow");
    assert_eq!(guard.stop().double_value(&[0]), 0.0);
}

#[test]
fn behind_a_step_that_stops_no_update_is_applied_and_its_numbers_stay() {
    let mut guard = guard(SpikeAction::Stop);
    for loss in [1.5, 2.5, 1.5, 2.5] {
        assert!(judged(&mut guard, loss));
    }
    for (steps_since, loss) in [(1.0, 9.0), (2.0, 2.0), (3.0, f64::NAN), (4.0, 2.0)] {
        assert!(!judged(&mut guard, loss));
        let stop = guard.stop();
        let found = [0, 1, 2].map(|at| stop.double_value(&[at]));
        assert_eq!(found, [steps_since, 9.0, 1.0]);
    }
}

#[test]
fn a_loss_that_is_not_finite_stops_or_is_skipped_and_is_not_remembered() {
    let skipping = OptimizerConfig { nonfinite: Nonfinite::Skip, ..adamw_config() };
    let mut guard = LossGuard::new(&skipping, Device::Cpu);
    assert!(!judged(&mut guard, f64::INFINITY) && judged(&mut guard, 2.0));
    let mut guard = LossGuard::new(&adamw_config(), Device::Cpu);
    assert!(!judged(&mut guard, f64::NAN) && !judged(&mut guard, 2.0));
    assert!(guard.stop().double_value(&[1]).is_nan());
    let spike = Some(Spike { window_steps: 2, sigma: 1.0, action: SpikeAction::Skip });
    let mut guard = LossGuard::new(&OptimizerConfig { spike, ..skipping }, Device::Cpu);
    for (loss, applied) in [(1.0, true), (f64::NAN, false), (1.0, true), (1.5, false)] {
        assert_eq!(judged(&mut guard, loss), applied, "{loss}");
    }
}

fn random_matrix(rows: i64, columns: i64, seed: u64) -> Tensor {
    let mut values = Tensor::empty([rows, columns], (Kind::Float, Device::Cpu));
    shim::fill_normal(&mut values, 1.0, seed).unwrap();
    values
}

/// Loss and gradients of the shim's chunked form, with chunks of `chunk_rows`.
fn chunked(x_nd: &Tensor, w_vd: &Tensor, y_nk: &Tensor, chunk_rows: i64) -> [Tensor; 3] {
    let [x_nd, w_vd] = [x_nd, w_vd].map(|tensor| tensor.copy().set_requires_grad(true));
    let loss = shim::linear_cross_entropy(&x_nd, &w_vd, y_nk, chunk_rows).unwrap();
    // A factor other than 1 reaches the gradients.
    (&loss * 3.0).backward();
    [loss.detach(), x_nd.grad(), w_vd.grad()]
}

fn plain(x_nd: &Tensor, w_vd: &Tensor, y_nk: &Tensor) -> [Tensor; 3] {
    let [x_nd, w_vd] = [x_nd, w_vd].map(|tensor| tensor.copy().set_requires_grad(true));
    let logp_nv = x_nd.matmul(&w_vd.tr()).log_softmax(-1, Kind::Float);
    let loss = -logp_nv.gather(1, y_nk, false).mean(Kind::Float);
    (&loss * 3.0).backward();
    [loss.detach(), x_nd.grad(), w_vd.grad()]
}

#[test]
fn chunked_loss_and_gradients_equal_the_plain_form_for_any_chunk() {
    let (x_nd, w_vd) = (random_matrix(37, 24, 1), random_matrix(256, 24, 2));
    for k in [1, 4] {
        let y_nk = tokens_btk(37, k, 5).narrow(1, 0, 1).squeeze_dim(1);
        let expected = plain(&x_nd, &w_vd, &y_nk);
        for chunk_rows in [1, 8, 37, 1000] {
            let found = chunked(&x_nd, &w_vd, &y_nk, chunk_rows);
            for (found, expected) in found.iter().zip(&expected) {
                assert_close(
                    "loss or gradient",
                    found,
                    expected,
                    2e-6 * max_abs(expected).max(1.0),
                );
            }
        }
    }
}

#[test]
fn targets_that_repeat_within_a_patch_count_each_time() {
    let (x_nd, w_vd) = (random_matrix(5, 24, 1), random_matrix(256, 24, 2));
    let y_nk = Tensor::from_slice(&[7_i64, 7, 7, 9]).view([1, 4]).repeat([5, 1]);
    let (found, expected) = (chunked(&x_nd, &w_vd, &y_nk, 2), plain(&x_nd, &w_vd, &y_nk));
    for (found, expected) in found.iter().zip(&expected) {
        assert_close("loss or gradient", found, expected, 2e-6 * max_abs(expected).max(1.0));
    }
}

#[test]
fn patch_loss_with_one_token_a_patch_is_cross_entropy() {
    let model = golden_model(Dtype::Fp32);
    let tokens_btk = tokens_btk(3, 1, 11);
    let logits_btv = tch::no_grad(|| model.logits(&model.forward_hidden(&tokens_btk)));
    // In fp64: libtorch's own in fp32 is off by 9e-7.
    let logp_btv = logits_btv.narrow(1, 0, 15).to_kind(Kind::Double).log_softmax(-1, Kind::Double);
    let expected = -logp_btv.gather(2, &tokens_btk.narrow(1, 1, 15), false).mean(Kind::Double);
    assert_close("plain", &patch::patch_loss(&logits_btv, &tokens_btk), &expected, 1e-6);
    assert_close("chunked", &tch::no_grad(|| model.loss(&tokens_btk)), &expected, 1e-6);
}

#[test]
fn embedding_a_patch_is_the_mean_of_its_tokens_forward_and_backward() {
    let tokens_btk = tokens_btk(2, 4, 3);
    let gradient = |embed: &dyn Fn(&Tensor) -> Tensor| {
        let weight_vd = random_matrix(256, 24, 9).set_requires_grad(true);
        let emb_btd = embed(&weight_vd);
        (emb_btd.square() * random_matrix(16, 24, 4)).sum(Kind::Float).backward();
        (emb_btd.detach(), weight_vd.grad())
    };
    let found = gradient(&|weight_vd| patch::embed_patches(weight_vd, &tokens_btk, Kind::Float));
    let expected = gradient(&|weight_vd| {
        let emb_btkd = Tensor::embedding(weight_vd, &tokens_btk, -1, false, false);
        patch::fold_patches(&emb_btkd)
    });
    assert_close("embedding", &found.0, &expected.0, 1e-6);
    assert_close("gradient", &found.1, &expected.1, 1e-5);
}

#[test]
fn a_graph_of_the_chunked_loss_runs_backward_once() {
    let model = golden_model(Dtype::Fp32);
    let loss = model.loss(&tokens_btk(1, 1, 1));
    let hidden = model.parameters().get("model.norm.weight").unwrap().leaf();
    let again = || Tensor::f_run_backward(&[&loss], &[hidden], true, false);
    assert!(again().is_ok());
    assert!(again().unwrap_err().to_string().contains("modified by an inplace operation"));
}

#[test]
fn micro_batches_add_up_to_the_whole_batch() {
    let run = |parts: i64| {
        let model = golden_model(Dtype::Fp32);
        let mut optimizer = new_optimizer(&model);
        let batches = tokens_btk(4, 4, 21).chunk(parts, 0);
        let report = step_over(&model, &mut optimizer, &batches, 1e-3).read();
        (model.parameters().masters().copy(), report)
    };
    let (whole, whole_report) = run(1);
    let (parts, parts_report) = run(4);
    assert!((whole_report.loss - parts_report.loss).abs() < 1e-5);
    assert!((whole_report.grad_norm - parts_report.grad_norm).abs() < 1e-5);
    assert_close("weights", &parts, &whole, 1e-5);
}

#[test]
fn equal_steps_give_equal_bits() {
    let run = || {
        let model = Llama::new(&golden_config(), on_cpu(Dtype::Fp32), 5).unwrap();
        let mut optimizer = new_optimizer(&model);
        for step in 0..3 {
            step_over(
                &model,
                &mut optimizer,
                &[tokens_btk(2, 4, step), tokens_btk(2, 4, 100 + step)],
                1e-2,
            );
        }
        model.parameters().masters().copy()
    };
    assert!(run().equal(&run()));
}

#[test]
fn a_loss_that_is_not_finite_changes_nothing() {
    let model = golden_model(Dtype::Fp32);
    let mut optimizer = new_optimizer(&model);
    step_over(&model, &mut optimizer, &[tokens_btk(2, 1, 1)], 1e-3);
    let gain = model.parameters().get("model.norm.weight").unwrap().leaf();
    tch::no_grad(|| {
        let _ = gain.shallow_clone().narrow(0, 0, 1).fill_(f64::INFINITY);
    });
    let state = |optimizer: &AdamW| -> Vec<Tensor> {
        let moments = optimizer.export(model.parameters()).into_iter();
        moments
            .map(|(_, tensor)| tensor.copy())
            .chain([model.parameters().masters().copy()])
            .collect()
    };
    let before = state(&optimizer);
    let report = step_over(&model, &mut optimizer, &[tokens_btk(2, 1, 2)], 1e-3).read();
    assert!(!report.updated);
    assert!(!report.loss.is_finite() || !report.grad_norm.is_finite());
    assert!(before.iter().zip(&state(&optimizer)).all(|(a, b)| a.equal(b)));
}

#[test]
fn an_optimizer_taken_over_goes_on_bit_for_bit() {
    let model = golden_model(Dtype::Fp32);
    let mut optimizer = new_optimizer(&model);
    step_over(&model, &mut optimizer, &[tokens_btk(2, 4, 1)], 1e-3);
    let folder = tempfile::tempdir().unwrap();
    let notes = trainer::checkpoint::hf_config::ModelNotes {
        position_count: 16,
        patch_size: 4,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
    };
    weights::save_model(folder.path(), &model, &notes).unwrap();
    let state_path = folder.path().join("optimizer.safetensors");
    trainer::checkpoint::tensor_file::write(&state_path, &optimizer.export(model.parameters()))
        .unwrap();

    let (resumed, _) = weights::load_model(folder.path(), Dtype::Fp32, Device::Cpu).unwrap();
    let mut resumed_optimizer = new_optimizer(&resumed);
    let state = trainer::checkpoint::tensor_file::TensorFile::open(&state_path)
        .unwrap()
        .read_all()
        .unwrap();
    resumed_optimizer.import(resumed.parameters(), &state).unwrap();
    for step in 2..5 {
        let a = step_over(&model, &mut optimizer, &[tokens_btk(2, 4, step)], 1e-3).read();
        let b = step_over(&resumed, &mut resumed_optimizer, &[tokens_btk(2, 4, step)], 1e-3).read();
        assert_eq!(a, b);
    }
    assert!(model.parameters().masters().equal(resumed.parameters().masters()));
}

#[test]
fn an_optimizer_state_of_another_model_is_refused_by_tensor() {
    let model = golden_model(Dtype::Fp32);
    let mut optimizer = new_optimizer(&model);
    let mut state = optimizer.export(model.parameters());
    let place = state.iter().position(|(name, _)| name == "exp_avg.model.norm.weight").unwrap();
    state[place].0 = "exp_avg.other".to_owned();
    let error = optimizer.import(model.parameters(), &state).unwrap_err();
    assert_eq!(
        error.to_string(),
        "optimizer state does not fit the model: \
         exp_avg.model.norm.weight is missing; exp_avg.other is unexpected"
    );
}

#[test]
fn a_fresh_optimizer_and_a_reset_one_are_alike() {
    let model = golden_model(Dtype::Fp32);
    let mut optimizer = new_optimizer(&model);
    step_over(&model, &mut optimizer, &[tokens_btk(2, 4, 1)], 1e-3);
    optimizer.reset();
    let fresh = new_optimizer(&model).export(model.parameters());
    for ((name, found), (_, expected)) in optimizer.export(model.parameters()).iter().zip(&fresh) {
        assert!(found.equal(expected), "{name}");
    }
}

/// The update by its definition in fp64, for sizes no vector width divides, clipped and unclipped,
/// and with no update where it is refused.
#[test]
fn an_update_is_adamw_of_the_clipped_gradient() {
    let numbers =
        AdamWNumbers { learning_rate: 3e-3, betas: [0.9, 0.95], weight_decay: 0.1, eps: 1e-8 };
    let [beta1, beta2] = numbers.betas;
    for (size, steps_before, clip) in [(1, 0.0, 1.0), (37, 4.0, 0.125), (40_003, 900.0, 1.0)] {
        let random = |seed| {
            let mut values = Tensor::empty([size], (Kind::Float, Device::Cpu));
            shim::fill_normal(&mut values, 0.5, seed).unwrap();
            values
        };
        let [mut param, mut grad, mut exp_avg] = [1, 2, 3].map(random);
        let mut exp_avg_sq = random(4).square();
        let number = |value: f64| Tensor::from_slice(&[value as f32]).squeeze();
        let mut step = number(steps_before + 1.0);
        let before = [&param, &exp_avg, &exp_avg_sq].map(|tensor| tensor.to_kind(Kind::Double));
        let g = grad.to_kind(Kind::Double) * clip;
        let m = &before[1] * beta1 + &g * (1.0 - beta1);
        let v = &before[2] * beta2 + g.square() * (1.0 - beta2);
        let m_hat = &m / (1.0 - beta1.powf(steps_before + 1.0));
        let v_hat = &v / (1.0 - beta2.powf(steps_before + 1.0));
        let kept = &before[0] * (1.0 - numbers.learning_rate * numbers.weight_decay);
        let updated = kept - m_hat / (v_hat.sqrt() + numbers.eps) * numbers.learning_rate;
        for (found_inf, expected) in [(1.0, before), (0.0, [updated, m, v])] {
            let operands = AdamWOperands {
                param: &mut param,
                grad: &mut grad,
                exp_avg: &mut exp_avg,
                exp_avg_sq: &mut exp_avg_sq,
                step: &mut step,
                clip: &number(clip),
                found_inf: &number(found_inf),
            };
            shim::adamw(operands, numbers).unwrap();
            for (found, expected) in [&param, &exp_avg, &exp_avg_sq].into_iter().zip(&expected) {
                assert_close("state", &found.to_kind(Kind::Double), expected, 1e-6);
            }
        }
    }
}

/// The sum of squares is exact to the rounding of its fp32 result, for sizes around those of blocks
/// and for values of unlike magnitude.
#[test]
fn a_norm_is_that_of_fp64_on_any_number_of_threads() {
    for size in [1, 7, 65_535, 65_536, 700_001] {
        let mut values = Tensor::empty([size], (Kind::Float, Device::Cpu));
        shim::fill_normal(&mut values, 1e-3, 9).unwrap();
        let _ = values.narrow(0, 0, size.min(5)).fill_(3.0);
        let expected = values.to_kind(Kind::Double).square().sum(Kind::Double).sqrt();
        let expected = expected.double_value(&[]);
        let found = [1, 2, 3].map(|threads| {
            tch::set_num_threads(threads);
            adamw::norm(&values).unwrap().double_value(&[])
        });
        tch::set_num_threads(1);
        assert!((found[0] / expected - 1.0).abs() < 1e-7, "{size}: {found:?}, {expected}");
        assert!(found.iter().all(|norm| norm.to_bits() == found[0].to_bits()), "{found:?}");
    }
}

#[test]
fn an_update_is_the_same_on_any_number_of_threads() {
    let on = |threads: i32| {
        tch::set_num_threads(threads);
        let model = golden_model(Dtype::Fp32);
        let mut optimizer = new_optimizer(&model);
        for _ in 0..2 {
            let mut gradients = model.parameters().gradients().shallow_clone();
            shim::fill_normal(&mut gradients, 0.1, 5).unwrap();
            let clip = optimizer.clip(model.parameters()).unwrap();
            let finite = clip.norm.ones_like();
            optimizer.update(model.parameters(), 1e-3, &clip, &finite).unwrap();
        }
        tch::set_num_threads(1);
        model.parameters().masters().copy()
    };
    let (one, many) = (on(1), on(3));
    assert!(one.equal(&many) && !one.equal(golden_model(Dtype::Fp32).parameters().masters()));
}

/// On a GPU each of these operations would make the host wait for the device. The numbers of
/// several steps are read at once.
#[test]
fn a_step_calls_nothing_that_waits_for_the_device() {
    let keeping = |dtype| (dtype, ActivationCheckpointing::None);
    let recomputing = RECOMPUTING.map(|setting| (Dtype::Fp32, setting));
    for (dtype, activation_checkpointing) in
        [Dtype::Fp32, Dtype::Bf16].map(keeping).into_iter().chain(recomputing)
    {
        for patch_size in [1, 4] {
            let model = golden_model_with(Compute { activation_checkpointing, ..on_cpu(dtype) });
            let mut optimizer = new_optimizer(&model);
            let batches = [tokens_btk(2, patch_size, 1), tokens_btk(2, patch_size, 2)];
            let mut unread = UnreadSteps::default();
            unread.push(step_over(&model, &mut optimizer, &batches, 1e-3));
            let step = || unread.push(step_over(&model, &mut optimizer, &batches, 1e-3));
            let ((), counts) = shim::ops::count_ops(step).unwrap();
            let waits = counts.waits();
            assert!(waits.is_empty(), "{dtype:?}, K = {patch_size}: {waits:?}");
            let (read, counts) = shim::ops::count_ops(|| unread.read()).unwrap();
            assert!(!counts.waits().is_empty(), "reading the numbers waits, and is seen");
            assert!(read.is_some_and(|(report, skipped)| report.updated && skipped == 0));
            assert_eq!(unread.read(), None);
        }
    }
}

#[test]
fn steps_that_were_skipped_between_two_readings_are_counted() {
    let model = golden_model(Dtype::Fp32);
    let config = OptimizerConfig { nonfinite: Nonfinite::Skip, ..adamw_config() };
    let mut optimizer = AdamW::new(model.parameters(), &config).unwrap();
    let mut unread = UnreadSteps::default();
    let gain = model.parameters().get("model.norm.weight").unwrap().leaf().shallow_clone();
    let before = gain.copy();
    for broken in [false, true, true, false] {
        let value = if broken { before.full_like(f64::INFINITY) } else { before.shallow_clone() };
        tch::no_grad(|| gain.shallow_clone().copy_(&value));
        unread.push(step_over(&model, &mut optimizer, &[tokens_btk(2, 1, 1)], 1e-3));
    }
    let (report, skipped_steps) = unread.read().unwrap();
    assert!(report.updated && report.stop.is_none());
    assert_eq!(skipped_steps, 2);
}
