//! Whether a step's update is applied, decided on the device.
//!
//! A step is refused if its loss or gradient norm is not finite. Where the run file has
//! `[optimizer.spike]`, it is also refused if its loss lies more than `sigma` standard deviations
//! above the mean of the last `window_steps` losses of its phase. The run file decides whether such
//! a step is skipped or stops the run.
//!
//! Mean and deviation of the last losses, the comparison, and the flag obeyed by the fused update
//! are tensors, so no step waits for the host. A stop is a flag that stays set: the host may read
//! it some steps late, and the weights are still those before the step at fault, because every
//! further step is refused as well. The window of losses is part of the checkpoint. It restarts
//! with each phase, since losses of two patch sizes are not comparable.
//!
//! **Invariant:** nothing here waits for the device, and after a step that stops the run no update
//! is applied.

use schemas::run::{Nonfinite, OptimizerConfig, Spike, SpikeAction};
use tch::{Device, Kind, Tensor};

/// Names of the exported tensors: losses of the window, the newest last, and how many of them are
/// set.
const STATE: [&str; 2] = ["guard.recent_losses", "guard.loss_count"];

/// Judges steps by their losses and gradient norms; see the module.
#[derive(Debug)]
pub struct LossGuard {
    nonfinite: Nonfinite,
    spike: Option<Spike>,
    recent_losses_w: Tensor, // fp32, [window_steps]
    loss_count: Tensor,      // fp32, []: at most the losses of a phase
    stop: Tensor, // fp32, [3]: steps since the one that stops, itself counted; its loss and norm
    one_step: Tensor, // fp32, [3]: 1, 0, 0
}

impl LossGuard {
    /// A guard that has seen no step.
    pub fn new(config: &OptimizerConfig, device: Device) -> LossGuard {
        let window_steps = config.spike.map_or(0, |spike| spike.window_steps);
        let window_steps = i64::try_from(window_steps).expect("a window fits memory");
        let options = (Kind::Float, device);
        LossGuard {
            nonfinite: config.nonfinite,
            spike: config.spike,
            recent_losses_w: Tensor::zeros([window_steps], options),
            loss_count: Tensor::zeros([], options),
            stop: Tensor::zeros([3], options),
            one_step: Tensor::from_slice(&[1f32, 0.0, 0.0]).to_device(device),
        }
    }

    /// Forgets the losses, as at the switch of phases: losses of two patch sizes are not
    /// comparable.
    pub fn reset_window(&mut self) {
        self.recent_losses_w = self.recent_losses_w.zeros_like();
        self.loss_count = self.loss_count.zeros_like();
    }

    /// 1 if the update of a step with this loss and gradient norm (fp32, `[]` each) is to be
    /// applied, else 0; fp32, `[]`.
    pub fn check_step(&mut self, loss: &Tensor, grad_norm: &Tensor) -> Tensor {
        let _no_grad = tch::no_grad_guard();
        let finite = loss.isfinite().logical_and(&grad_norm.isfinite());
        let is_spike = self.is_spike(loss).logical_and(&finite);
        self.push_loss(loss, &finite);
        let mut stops = finite.zeros_like();
        if self.nonfinite == Nonfinite::Stop {
            stops = finite.logical_not();
        }
        if self.spike.is_some_and(|spike| spike.action == SpikeAction::Stop) {
            stops = stops.logical_or(&is_spike);
        }
        let since = self.stop.get(0);
        let is_stopped = since.gt(0.0);
        let this = Tensor::stack(&[&since.ones_like(), loss, grad_norm], 0);
        let counted = &self.stop + &self.one_step;
        let unless_stopped = this.where_self(&stops, &self.stop);
        self.stop = counted.where_self(&is_stopped, &unless_stopped);
        let runs = self.stop.get(0).eq(0.0);
        finite.logical_and(&is_spike.logical_not()).logical_and(&runs).to_kind(Kind::Float)
    }

    /// Steps since the one that stops the run, counting itself (0: no step does), its loss and its
    /// norm; fp32, `[3]`.
    pub fn stop(&self) -> Tensor {
        self.stop.shallow_clone()
    }

    /// Whether `loss` lies too far above a full window of losses.
    fn is_spike(&self, loss: &Tensor) -> Tensor {
        let Some(Spike { window_steps, sigma, .. }) = self.spike else {
            return loss.isnan().zeros_like();
        };
        let mean = self.recent_losses_w.mean(Kind::Float);
        let deviation = self.recent_losses_w.std(false);
        let is_full = self.loss_count.ge(window_steps as f64);
        loss.gt_tensor(&(mean + deviation * sigma)).logical_and(&is_full)
    }

    /// Adds a finite loss to the window, including a spike: a level that stays counts as a spike
    /// for at most a window.
    fn push_loss(&mut self, loss: &Tensor, finite: &Tensor) {
        let length = self.recent_losses_w.size()[0];
        if length > 0 {
            let newer = self.recent_losses_w.narrow(0, 1, length - 1);
            let shifted = Tensor::cat(&[&newer, &loss.view([1])], 0);
            self.recent_losses_w = shifted.where_self(finite, &self.recent_losses_w);
            self.loss_count = &self.loss_count + finite.to_kind(Kind::Float);
        }
    }

    /// The state a resumed run needs to judge alike; empty where no window is kept.
    pub fn export(&self) -> Vec<(String, Tensor)> {
        if self.spike.is_none() {
            return Vec::new();
        }
        let tensors = [&self.recent_losses_w, &self.loss_count];
        STATE
            .iter()
            .zip(tensors)
            .map(|(name, tensor)| ((*name).to_owned(), tensor.copy()))
            .collect()
    }

    /// Imports the state from [`LossGuard::export`]. A missing window, or one of another length, is
    /// begun anew.
    pub fn import(&mut self, tensors: &[(String, Tensor)]) {
        let find = |name: &str, shape: Vec<i64>| {
            let found =
                tensors.iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor)?;
            (found.size() == shape && found.kind() == Kind::Float).then(|| found.copy())
        };
        let losses = find(STATE[0], self.recent_losses_w.size());
        if let (Some(losses), Some(count), Some(_)) = (losses, find(STATE[1], vec![]), self.spike) {
            let device = self.stop.device();
            (self.recent_losses_w, self.loss_count) =
                (losses.to_device(device), count.to_device(device));
        }
    }

    /// Whether a tensor of a checkpoint belongs to a loss guard.
    pub fn owns(name: &str) -> bool {
        STATE.contains(&name)
    }
}
