//! The training step with the passes of a micro-batch captured once as a CUDA graph and replayed by
//! one launch each.
//!
//! CUDA graphs (`train.cuda_graphs`) hold the forward and backward pass of a micro-batch. Clipping
//! and update are not captured: they are few launches, and their learning rate changes. A phase
//! runs on a stream other than the default one, which cannot be captured. The capture binds only
//! its own thread, because the loader's threads may pin memory meanwhile.
//!
//! **Invariant:** a replay does exactly the operations of [`train_step`](crate::step::train_step),
//! in the same memory at each step.

use tch::{Device, Kind, Tensor};

use crate::device::timing::{Part, PartTimes, StepTimer};
use crate::model::llama::Llama;
use crate::ranks::process_group::ProcessGroup;
use crate::shim::ShimError;
use crate::shim::cuda::{self, Graph, Priority, Stream};
use crate::step::adamw::AdamW;
use crate::step::{StepOutput, accumulate_gradients, reduce_and_update, train_step_timed};

/// Passes before the capture: libraries initialize themselves in the first ones, which a capture
/// would not survive.
const WARM_UP_PASSES: usize = 3;

/// How a phase makes its steps, and how long their parts take.
#[derive(Debug)]
pub struct Stepper {
    way: Way,
    timer: StepTimer,
}

#[derive(Debug)]
enum Way {
    /// One launch an operation.
    Eager,
    /// One launch a micro-batch; captured at the first one, on a GPU.
    Graphed(Graphed),
}

/// The steps of a phase as a graph.
#[derive(Debug)]
struct Graphed {
    passes: Option<Passes>,
    /// Restored at the end. The whole phase runs on another stream, because the default stream
    /// cannot be captured.
    stream_before: Stream,
    device: usize,
}

/// A captured micro-batch.
#[derive(Debug)]
struct Passes {
    graph: Graph,
    tokens_btk: Tensor,
    loss_sum: Tensor,
}

impl Stepper {
    /// For a phase on `device`; `cuda_graphs` is the run file's setting, and has no effect on the
    /// CPU.
    pub fn new(cuda_graphs: bool, device: Device) -> Result<Stepper, ShimError> {
        let timer = StepTimer::new(device);
        let index = match device {
            Device::Cuda(index) if cuda_graphs => index,
            _ => return Ok(Stepper { way: Way::Eager, timer }),
        };
        let (stream, stream_before) =
            (Stream::new(index, Priority::Normal)?, Stream::current(index)?);
        // Everything queued on the stream before is done.
        cuda::synchronize(index)?;
        stream.set_current()?;
        let graphed = Graphed { passes: None, stream_before, device: index };
        Ok(Stepper { way: Way::Graphed(graphed), timer })
    }

    /// Whether it replays a graph.
    pub fn is_graphed(&self) -> bool {
        matches!(self.way, Way::Graphed(_))
    }

    /// Time of the parts of the steps since the last call. Waits for the device (host-device
    /// synchronisation).
    pub fn take_times(&mut self) -> Result<PartTimes, ShimError> {
        self.timer.take()
    }

    /// [`train_step`](crate::step::train_step) for one rank of a process group, in this stepper's
    /// way. All micro-batches of a phase have one size.
    pub fn train_step<E: From<ShimError>>(
        &mut self,
        model: &Llama,
        optimizer: &mut AdamW,
        micro_batches: impl Iterator<Item = Result<Tensor, E>>,
        micro_batch_count: u64,
        learning_rate: f64,
        group: &ProcessGroup,
    ) -> Result<StepOutput, E> {
        let Stepper { way, timer } = self;
        let Way::Graphed(Graphed { passes, .. }) = way else {
            return train_step_timed(
                model,
                optimizer,
                micro_batches,
                micro_batch_count,
                learning_rate,
                group,
                timer,
            );
        };
        let step_micro_batches = micro_batch_count * group.world_size();
        let mut seen_count = 0;
        for tokens_btk in micro_batches {
            let tokens_btk = tokens_btk?;
            let passes = match passes {
                Some(passes) => passes,
                None => passes.insert(Passes::capture(model, &tokens_btk, step_micro_batches)?),
            };
            if seen_count == 0 {
                model.parameters().zero_gradients();
                let _ = passes.loss_sum.zero_();
            }
            timer.start()?;
            passes.tokens_btk.copy_(&tokens_btk);
            passes.graph.replay()?;
            timer.end(Part::Passes)?;
            seen_count += 1;
        }
        assert!(
            seen_count == micro_batch_count,
            "{seen_count} micro-batches, {micro_batch_count} promised"
        );
        let passes = passes.as_ref().expect("a step has micro-batches");
        // The next step overwrites the sum, and it may be read later.
        Ok(reduce_and_update(
            model,
            optimizer,
            passes.loss_sum.copy(),
            learning_rate,
            group,
            timer,
        )?)
    }
}

impl Passes {
    /// Leaves gradients and sum in disorder: a step zeroes them first.
    fn capture(
        model: &Llama,
        tokens_btk: &Tensor,
        step_micro_batches: u64,
    ) -> Result<Passes, ShimError> {
        let tokens_btk = tokens_btk.copy();
        let mut loss_sum = Tensor::zeros([], (Kind::Float, tokens_btk.device()));
        let timer = &mut StepTimer::off();
        for _ in 0..WARM_UP_PASSES {
            accumulate_gradients(model, &tokens_btk, step_micro_batches, &mut loss_sum, timer)?;
        }
        let graph = Graph::capture(None, || {
            accumulate_gradients(model, &tokens_btk, step_micro_batches, &mut loss_sum, timer)
        })?;
        Ok(Passes { graph, tokens_btk, loss_sum })
    }
}

impl Drop for Graphed {
    /// The next phase, and everything after the run, continues on the previous stream.
    fn drop(&mut self) {
        let _nothing_left_to_do =
            cuda::synchronize(self.device).and_then(|()| self.stream_before.set_current());
    }
}
