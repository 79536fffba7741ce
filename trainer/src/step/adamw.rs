//! AdamW over flat storage: two fused calls a step, one for the decayed parameters and one for the
//! rest.
//!
//! **Invariant:** nothing here waits for the device. Moments and step count change only in an
//! applied update.

use schemas::run::OptimizerConfig;
use tch::{Kind, Tensor};

use crate::model::params::Parameters;
use crate::shim::{self, AdamWNumbers, AdamWOperands, ShimError};
use crate::step::loss_guard::LossGuard;

/// Elements of the gradient whose squares a GPU sums at once.
const NORM_PART_ELEMENTS: i64 = 1 << 20;
/// Added to the norm before the division, as in torch's `clip_grad_norm_`.
const CLIP_EPS: f64 = 1e-6;
/// Name of the step count among the exported tensors.
const STEP: &str = "step";
/// Prefixes of the names of the exported moments.
const MOMENTS: [&str; 2] = ["exp_avg", "exp_avg_sq"];

/// The reason an optimizer cannot be built, or its state cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum OptimizerError {
    /// A number out of range.
    #[error("optimizer.{field} is {found}; expected {expected}")]
    Number {
        /// Field of the configuration.
        field: &'static str,
        /// Its value.
        found: f64,
        /// The legal values.
        expected: &'static str,
    },
    /// State that does not belong to the model's parameters.
    #[error("optimizer state does not fit the model: {message}")]
    State {
        /// Every missing, unexpected or malformed tensor.
        message: String,
    },
    /// libtorch failed.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// The factor for a step's gradients, and the norm it follows from.
#[derive(Debug)]
pub struct Clip {
    /// Global L2 norm of the gradients before clipping; fp32, `[]`.
    pub norm: Tensor,
    /// 1, or less where the norm is too large; fp32, `[]`.
    pub factor: Tensor,
}

/// AdamW with decoupled weight decay and clipping by the global norm.
#[derive(Debug)]
pub struct AdamW {
    config: OptimizerConfig,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step_count: Tensor, // fp32, [], on the device: exact below 2^24 steps
    loss_guard: LossGuard,
}

impl AdamW {
    /// An optimizer that has seen no step.
    pub fn new(parameters: &Parameters, config: &OptimizerConfig) -> Result<AdamW, OptimizerError> {
        check_config(config)?;
        let master_weights = parameters.masters();
        Ok(AdamW {
            config: config.clone(),
            exp_avg: master_weights.zeros_like(),
            exp_avg_sq: master_weights.zeros_like(),
            step_count: Tensor::zeros([], (Kind::Float, master_weights.device())),
            loss_guard: LossGuard::new(config, master_weights.device()),
        })
    }

    /// Forgets moments and step count, as at the switch of phases.
    pub fn reset(&mut self) {
        for tensor in [&mut self.exp_avg, &mut self.exp_avg_sq, &mut self.step_count] {
            let _ = tensor.zero_();
        }
    }

    /// The guard that decides by losses and norms whether steps are applied.
    pub fn loss_guard(&mut self) -> &mut LossGuard {
        &mut self.loss_guard
    }

    /// The norm of the gradients, and the clipping factor min(1, `clip_norm` / (norm + 1e-6)); both
    /// `[]` on the device.
    pub fn clip(&self, parameters: &Parameters) -> Result<Clip, ShimError> {
        let _no_grad = tch::no_grad_guard();
        let norm = norm(parameters.gradients())?;
        let factor = ((&norm + CLIP_EPS).reciprocal() * self.config.clip_norm).clamp_max(1.0);
        Ok(Clip { norm, factor })
    }

    /// One update at `learning_rate` from the clipped gradients, which are consumed. Where `finite`
    /// (fp32, `[]`) is 0, nothing changes.
    pub fn update(
        &mut self,
        parameters: &Parameters,
        learning_rate: f64,
        clip: &Clip,
        finite: &Tensor,
    ) -> Result<(), ShimError> {
        let _no_grad = tch::no_grad_guard();
        let found_inf = finite.ones_like() - finite;
        self.step_count += finite;
        let flat_elements = parameters.masters().size()[0];
        let decayed_elements = parameters.decayed_elements();
        let groups = [
            (0, decayed_elements, self.config.weight_decay),
            (decayed_elements, flat_elements - decayed_elements, 0.0),
        ];
        for (first, elements, weight_decay) in groups {
            let part = |flat: &Tensor| flat.narrow(0, first, elements);
            shim::adamw(
                AdamWOperands {
                    param: &mut part(parameters.masters()),
                    grad: &mut part(parameters.gradients()),
                    exp_avg: &mut part(&self.exp_avg),
                    exp_avg_sq: &mut part(&self.exp_avg_sq),
                    step: &mut self.step_count,
                    clip: &clip.factor,
                    found_inf: &found_inf,
                },
                AdamWNumbers {
                    learning_rate,
                    betas: self.config.betas,
                    weight_decay,
                    eps: self.config.eps,
                },
            )?;
        }
        Ok(())
    }

    /// The whole state: `exp_avg.NAME` and `exp_avg_sq.NAME` for each parameter (views of live
    /// storage), `step`, and the loss guard's state.
    pub fn export(&self, parameters: &Parameters) -> Vec<(String, Tensor)> {
        let mut tensors = vec![(STEP.to_owned(), self.step_count.shallow_clone())];
        for (moment, flat) in MOMENTS.iter().zip([&self.exp_avg, &self.exp_avg_sq]) {
            for parameter in parameters.iter() {
                tensors.push((format!("{moment}.{}", parameter.name()), parameter.view_of(flat)));
            }
        }
        tensors.extend(self.loss_guard.export());
        tensors
    }

    /// Imports a state from [`AdamW::export`], bit for bit. On an error nothing has changed.
    pub fn import(
        &mut self,
        parameters: &Parameters,
        tensors: &[(String, Tensor)],
    ) -> Result<(), OptimizerError> {
        let _no_grad = tch::no_grad_guard();
        let is_ours = |(name, _): &(String, Tensor)| !LossGuard::owns(name);
        let own: Vec<_> = self.export(parameters).into_iter().filter(is_ours).collect();
        let find = |list: &'_ [(String, Tensor)], name: &str| {
            list.iter().find(|(other, _)| other == name).map(|(_, tensor)| tensor.shallow_clone())
        };
        let mut problems = Vec::new();
        for (name, target) in &own {
            match find(tensors, name) {
                None => problems.push(format!("{name} is missing")),
                Some(source) if source.size() != target.size() || source.kind() != Kind::Float => {
                    problems.push(format!(
                        "{name} is {:?} of shape {:?}, expected Float of shape {:?}",
                        source.kind(),
                        source.size(),
                        target.size()
                    ));
                }
                Some(_) => {}
            }
        }
        let unexpected =
            tensors.iter().filter(|tensor| is_ours(tensor) && find(&own, &tensor.0).is_none());
        problems.extend(unexpected.map(|(name, _)| format!("{name} is unexpected")));
        if !problems.is_empty() {
            return Err(OptimizerError::State { message: problems.join("; ") });
        }
        for (name, mut target) in own {
            target.copy_(&find(tensors, &name).expect("checked above"));
        }
        self.loss_guard.import(tensors);
        Ok(())
    }
}

/// L2 norm of flat storage, `[]`, on its device; exact to the rounding of fp32.
pub fn norm(flat: &Tensor) -> Result<Tensor, ShimError> {
    shim::norm(flat, NORM_PART_ELEMENTS)
}

/// Checks the requirements of [`AdamW::new`] on a configuration.
pub fn check_config(config: &OptimizerConfig) -> Result<(), OptimizerError> {
    let beta = |beta: f64| (0.0..1.0).contains(&beta);
    let positive = |number: f64| number.is_finite() && 0.0 < number;
    let numbers = [
        ("betas[0]", config.betas[0], beta(config.betas[0]), "0 <= beta < 1"),
        ("betas[1]", config.betas[1], beta(config.betas[1]), "0 <= beta < 1"),
        ("eps", config.eps, positive(config.eps), "a finite number above 0"),
        (
            "weight_decay",
            config.weight_decay,
            config.weight_decay == 0.0 || positive(config.weight_decay),
            "a finite number of 0 or more",
        ),
        ("clip_norm", config.clip_norm, positive(config.clip_norm), "a finite number above 0"),
    ];
    match numbers.into_iter().find(|(_, _, legal, _)| !legal) {
        Some((field, found, _, expected)) => Err(OptimizerError::Number { field, found, expected }),
        None => Ok(()),
    }
}
