//! One training step: rate, zero, micro-batches, clip, update. The run loop and the parity test
//! share it.
//!
//! **Invariant:** no host-device synchronisation inside a step; the host reads its numbers from
//! [`StepOutput`], as late as it can.

use tch::{Kind, Tensor};

use crate::device::timing::{Part, StepTimer};
use crate::model::llama::Llama;
use crate::ranks::process_group::ProcessGroup;
use crate::shim::ShimError;
use crate::step::adamw::AdamW;

pub mod schedule;

pub mod loss_guard;

pub mod adamw;

pub mod graph;

/// The results of a step, still on the device.
#[derive(Debug)]
pub struct StepOutput {
    /// Mean loss over the step's micro-batches, before the update; fp32, `[]`.
    pub loss: Tensor,
    /// Global L2 norm of the gradient, before clipping; fp32, `[]`.
    pub grad_norm: Tensor,
    /// 1 if the loss guard allowed the update, else 0 and nothing changed; fp32, `[]`.
    pub finite: Tensor,
    /// As [`crate::step::loss_guard::LossGuard::stop`].
    pub stop: Tensor,
}

/// The results of a step, on the host.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepReport {
    /// Mean loss over the step's micro-batches, before the update.
    pub loss: f64,
    /// Global L2 norm of the gradient, before clipping.
    pub grad_norm: f64,
    /// Whether the update was applied.
    pub updated: bool,
    /// The step that stops the run, this one or one before.
    pub stop: Option<StopReport>,
}

/// A step that stops the run; no update was applied from it on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopReport {
    /// How many steps before the one read here.
    pub steps_ago: u64,
    /// Its loss.
    pub loss: f64,
    /// Its gradient norm.
    pub grad_norm: f64,
}

impl StepOutput {
    /// Waits for the device (host-device synchronisation) and reads the numbers, in one copy.
    pub fn read(&self) -> StepReport {
        let numbers = Tensor::stack(&[&self.loss, &self.grad_norm, &self.finite], 0);
        let numbers = Tensor::cat(&[&numbers, &self.stop], 0).to_device(tch::Device::Cpu);
        let since = numbers.double_value(&[3]) as u64;
        StepReport {
            loss: numbers.double_value(&[0]),
            grad_norm: numbers.double_value(&[1]),
            updated: numbers.double_value(&[2]) == 1.0,
            stop: since.checked_sub(1).map(|steps_ago| StopReport {
                steps_ago,
                loss: numbers.double_value(&[4]),
                grad_norm: numbers.double_value(&[5]),
            }),
        }
    }
}

/// The outputs of the steps the host has not looked at. Everything it keeps of them is on the
/// device.
#[derive(Debug, Default)]
pub struct UnreadSteps {
    last: Option<StepOutput>,
    steps: u64,
    // fp32, `[]`: exact below 2^24 steps.
    updates: Option<Tensor>,
}

impl UnreadSteps {
    /// Adds the output of the next step, without waiting for it.
    pub fn push(&mut self, output: StepOutput) {
        self.steps += 1;
        self.updates = Some(match self.updates.take() {
            Some(updates) => updates + &output.finite,
            None => output.finite.shallow_clone(),
        });
        self.last = Some(output);
    }

    /// Waits for the device. Returns the last step's report, and how many of the steps since the
    /// last reading made no update. `None` if there was no step.
    pub fn read(&mut self) -> Option<(StepReport, u64)> {
        let UnreadSteps { last, steps, updates } = std::mem::take(self);
        let report = last?.read();
        Some((report, steps - updates?.double_value(&[]) as u64))
    }
}

/// Trains `model` on one step's micro-batches, each `[b, t, k]` on the model's device and all of
/// one size.
///
/// `micro_batch_count` is the number of `micro_batches`; each loss is weighted by its inverse. If
/// the loss guard refuses a step, weights, moments and step count stay unchanged; the device
/// decides this. The caller must check for a stop before saving anything. An error of the iterator
/// ends the step before its update.
pub fn train_step<E: From<ShimError>>(
    model: &Llama,
    optimizer: &mut AdamW,
    micro_batches: impl Iterator<Item = Result<Tensor, E>>,
    micro_batch_count: u64,
    learning_rate: f64,
) -> Result<StepOutput, E> {
    let (group, timer) = (&ProcessGroup::single(), &mut StepTimer::off());
    train_step_timed(
        model,
        optimizer,
        micro_batches,
        micro_batch_count,
        learning_rate,
        group,
        timer,
    )
}

/// [`train_step`] for one rank of a process group, with its parts timed; `micro_batches` are the
/// rank's own.
pub(crate) fn train_step_timed<E: From<ShimError>>(
    model: &Llama,
    optimizer: &mut AdamW,
    micro_batches: impl Iterator<Item = Result<Tensor, E>>,
    micro_batch_count: u64,
    learning_rate: f64,
    group: &ProcessGroup,
    timer: &mut StepTimer,
) -> Result<StepOutput, E> {
    let step_micro_batches = micro_batch_count * group.world_size();
    model.parameters().zero_gradients();
    let mut loss_sum = Tensor::zeros([], (Kind::Float, model.compute().device));
    let mut seen_count = 0;
    for tokens_btk in micro_batches {
        accumulate_gradients(model, &tokens_btk?, step_micro_batches, &mut loss_sum, timer)?;
        seen_count += 1;
    }
    assert!(
        seen_count == micro_batch_count,
        "{seen_count} micro-batches, {micro_batch_count} promised"
    );
    Ok(reduce_and_update(model, optimizer, loss_sum, learning_rate, group, timer)?)
}

/// Forward and backward pass of one of a step's `step_micro_batches`: adds to the gradients and to
/// `loss_sum`.
pub(crate) fn accumulate_gradients(
    model: &Llama,
    tokens_btk: &Tensor,
    step_micro_batches: u64,
    loss_sum: &mut Tensor,
    timer: &mut StepTimer,
) -> Result<(), ShimError> {
    timer.start()?;
    let loss = model.loss(tokens_btk) / step_micro_batches as f64;
    timer.end(Part::Forward)?;
    loss.backward();
    *loss_sum += loss.detach();
    timer.end(Part::Backward)
}

/// The rest of a rank's step after its micro-batches: sum over the ranks, clip, update.
pub(crate) fn reduce_and_update(
    model: &Llama,
    optimizer: &mut AdamW,
    mut loss_sum: Tensor,
    learning_rate: f64,
    group: &ProcessGroup,
    timer: &mut StepTimer,
) -> Result<StepOutput, ShimError> {
    let parameters = model.parameters();
    timer.start()?;
    if group.world_size() > 1 {
        group.all_reduce(&mut parameters.gradients().shallow_clone())?;
        group.all_reduce(&mut loss_sum)?;
        timer.end(Part::Communication)?;
    }
    let clip = optimizer.clip(parameters)?;
    let finite = optimizer.loss_guard().check_step(&loss_sum, &clip.norm);
    optimizer.update(parameters, learning_rate, &clip, &finite)?;
    timer.end(Part::Optimizer)?;
    Ok(StepOutput {
        loss: loss_sum,
        grad_norm: clip.norm,
        finite,
        stop: optimizer.loss_guard().stop(),
    })
}
