//! The prefetcher: the loader's micro-batches as `[b, t, k]` tensors on the model's device, in plan
//! order.
//!
//! On a GPU, ids are sent ahead. The loader's buffers are pinned when they are allocated. Two
//! micro-batches are in flight on their own stream, across step boundaries, as `u16` where the
//! vocabulary allows, and are widened on the device. A buffer returns to the loader when the event
//! after its copy is done, which is polled, never waited for.
//!
//! Each id is still compared with the vocabulary's size on the host. The loader's check of a block
//! does not cover a file overwritten after the check, within the 200 ms it takes to notice, and an
//! id beyond the embedding kills a CUDA context. On the CPU each batch is copied as it arrives.
//!
//! **Invariant:** every device gets the same ids in the same order, each checked on the host to be
//! below the vocabulary's size. The host waits for the loader and never for the device.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use pipeline::corpus::OutId;
use pipeline::loader::{Batch, Loader, LoaderSpec, Pin, Pinned};
use tch::{Device, Kind, Tensor};

use crate::data::batch::{BatchError, BatchShape, tokens_btk};
use crate::shim::cuda::{Event, PinnedMemory, Priority, Stream};

/// Micro-batches on their way to the device before they are requested.
const PREFETCH_COUNT: usize = 2;

/// A step, and a micro-batch of the step.
pub type MicroBatchIndex = (u64, u64);

/// The micro-batches of a phase.
pub struct Prefetcher {
    source: Source,
    shape: BatchShape,
    device: Device,
}

enum Source {
    Direct(Loader<i64>),
    Narrow(CopyQueue<u16>),
    Wide(CopyQueue<i32>),
}

impl Prefetcher {
    /// Starts the loader: direct on the CPU, sending ahead on a GPU.
    pub fn start(spec: LoaderSpec, shape: BatchShape, device: Device) -> Result<Prefetcher> {
        if device.is_cuda() {
            return Prefetcher::start_copying(spec, shape, device);
        }
        Ok(Prefetcher { source: Source::Direct(Loader::start(spec)?), shape, device })
    }

    /// Starts as for a GPU, on any device. On the CPU a copy is complete when it is requested.
    pub fn start_copying(
        spec: LoaderSpec,
        shape: BatchShape,
        device: Device,
    ) -> Result<Prefetcher> {
        let source = if spec.corpus.vocab_size() <= u16::VOCAB_SIZE_MAX {
            Source::Narrow(CopyQueue::start(spec, shape.vocab_size, device)?)
        } else {
            Source::Wide(CopyQueue::start(spec, shape.vocab_size, device)?)
        };
        Ok(Prefetcher { source, shape, device })
    }

    /// The next micro-batch and its place in the plan; `None` after the last one.
    pub fn next_micro_batch(&mut self) -> Result<Option<(MicroBatchIndex, Tensor)>> {
        let loader = match &mut self.source {
            Source::Direct(loader) => loader,
            Source::Narrow(queue) => return queue.next(self.shape),
            Source::Wide(queue) => return queue.next(self.shape),
        };
        let Some(batch) = loader.next_batch()? else { return Ok(None) };
        let tokens = tokens_btk(&batch.ids, self.shape, self.device)?;
        let index = (batch.step, batch.micro_index);
        loader.recycle(batch);
        Ok(Some((index, tokens)))
    }

    /// Total time spent waiting for the loader.
    pub fn waited(&self) -> Duration {
        match &self.source {
            Source::Direct(loader) => loader.waited(),
            Source::Narrow(queue) => queue.loader.waited(),
            Source::Wide(queue) => queue.loader.waited(),
        }
    }
}

/// An id as it is transferred.
trait TransferId: OutId + Ord {
    /// libtorch's dtype of that width; tch has no unsigned 2-byte dtype.
    const KIND: Kind;
    /// Converts transferred ids to `Int64`.
    fn widen(ids: &Tensor) -> Tensor;
}

impl TransferId for u16 {
    const KIND: Kind = Kind::Int16;
    fn widen(ids: &Tensor) -> Tensor {
        ids.to_kind(Kind::Int64).bitwise_and(0xffff) // the sign bit is part of the id
    }
}

impl TransferId for i32 {
    const KIND: Kind = Kind::Int;
    fn widen(ids: &Tensor) -> Tensor {
        ids.to_kind(Kind::Int64)
    }
}

/// A micro-batch in flight. The loader's memory stays unchanged until the copy is done.
struct InFlight<T> {
    batch: Batch<T>,
    ids: Tensor,
    /// `None` on the CPU, where the copy is already done.
    copied: Option<Event>,
}

impl<T> InFlight<T> {
    fn is_copied(&self) -> Result<bool> {
        Ok(self.copied.as_ref().map_or(Ok(true), Event::is_done)?)
    }
}

/// A loader with batches sent ahead.
struct CopyQueue<T: TransferId> {
    loader: Loader<T>,
    vocab_size: u64,
    device: Device,
    /// The stream of the copies; `None` on the CPU.
    stream: Option<Stream>,
    /// In the order of requests.
    in_flight: VecDeque<InFlight<T>>,
    /// Requested, but perhaps not copied yet.
    delivered: VecDeque<InFlight<T>>,
}

impl<T: TransferId> CopyQueue<T> {
    fn start(mut spec: LoaderSpec, vocab_size: u64, device: Device) -> Result<CopyQueue<T>> {
        let stream = match device {
            Device::Cuda(index) => {
                spec.pin = Some(pin(index));
                Some(Stream::new(index, Priority::High)?)
            }
            _ => None,
        };
        let loader = Loader::start(spec)?;
        let (in_flight, delivered) = (VecDeque::new(), VecDeque::new());
        Ok(CopyQueue { loader, vocab_size, device, stream, in_flight, delivered })
    }

    fn next(&mut self, shape: BatchShape) -> Result<Option<(MicroBatchIndex, Tensor)>> {
        self.fill()?;
        let Some(in_flight) = self.in_flight.pop_front() else { return Ok(None) };
        let index = (in_flight.batch.step, in_flight.batch.micro_index);
        if let (Some(copied), Device::Cuda(index)) = (&in_flight.copied, self.device) {
            let computing = Stream::current(index)?;
            copied.block(&computing)?;
            computing.keeps(&in_flight.ids)?;
        }
        let [t, k] = [shape.window_units, shape.patch_size]
            .map(|size| i64::try_from(size).expect("a window fits memory"));
        let tokens_btk = T::widen(&in_flight.ids).view([-1, t, k]);
        self.delivered.push_back(in_flight);
        while self.delivered.front().map_or(Ok(false), InFlight::is_copied)? {
            let in_flight = self.delivered.pop_front().expect("there is a front");
            self.loader.recycle(in_flight.batch);
        }
        self.fill()?;
        Ok(Some((index, tokens_btk)))
    }

    /// Sends batches until enough are in flight.
    fn fill(&mut self) -> Result<()> {
        while self.in_flight.len() < PREFETCH_COUNT {
            let Some(batch) = self.loader.next_batch()? else { return Ok(()) };
            self.check_ids(&batch.ids)?;
            let in_flight = self.send(batch)?;
            self.in_flight.push_back(in_flight);
        }
        Ok(())
    }

    fn send(&self, batch: Batch<T>) -> Result<InFlight<T>> {
        let bytes: &[u8] = bytemuck::cast_slice(&batch.ids[..]);
        let size = [i64::try_from(batch.ids.len()).context("ids of a micro-batch")?];
        let (Some(stream), Device::Cuda(index)) = (&self.stream, self.device) else {
            let ids = Tensor::f_from_data_size(bytes, &size, T::KIND)?;
            return Ok(InFlight { batch, ids, copied: None });
        };
        let (computing, copied) = (Stream::current(index)?, Event::new()?);
        stream.set_current()?; // the tensor's memory belongs to this stream
        let ids = Tensor::f_empty(size, (T::KIND, self.device));
        computing.set_current()?;
        let mut ids = ids?;
        stream.upload(bytes, &mut ids)?;
        copied.record(stream)?;
        Ok(InFlight { batch, ids, copied: Some(copied) })
    }

    fn check_ids(&self, ids: &[T]) -> Result<(), BatchError> {
        let is_legal = |id: T| id.number() < self.vocab_size;
        if ids.iter().copied().max().is_none_or(is_legal) {
            return Ok(());
        }
        let position = ids.iter().position(|&id| !is_legal(id)).expect("the largest is one");
        let found = ids[position].number().cast_signed();
        Err(BatchError::Id { found, position, vocab_size: self.vocab_size })
    }
}

impl<T: TransferId> Drop for CopyQueue<T> {
    /// Waits for the copies: they still read this memory.
    fn drop(&mut self) {
        for in_flight in self.in_flight.iter().chain(&self.delivered) {
            if let Some(copied) = &in_flight.copied {
                let _nothing_left_to_do = copied.synchronize();
            }
        }
    }
}

/// Pins the loader's buffers for copies to a GPU.
fn pin(device: usize) -> Pin {
    Pin::new(move |memory| {
        let pinned = PinnedMemory::new(device, memory).map_err(io::Error::other)?;
        Ok(Box::new(pinned) as Pinned)
    })
}
