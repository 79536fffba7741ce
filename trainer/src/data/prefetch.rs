//! Micro-batches of the loader as `[b, t, k]` tensors on the model's device, in plan order.
//!
//! On the CPU a batch is copied as it comes. For a GPU ids travel as narrow as the vocabulary allows, from memory that the
//! loader filled and the driver pinned, on a stream of their own, two micro-batches ahead of the one that computes,
//! across the borders of steps; they are widened on the device.
//!
//! **Invariant:** the same ids in the same order on every device, each checked on the host to be below the vocabulary's
//! size. The host waits for the loader and never for the device.
//!
//! The loader has checked each block's ids when it read the block first. They are looked at here again because a file that
//! is overwritten after that is found out only within 200 ms, and an id beyond the embedding kills a CUDA context.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use anyhow::{Context, Result};
use pipeline::corpus::OutId;
use pipeline::loader::{Batch, Loader, LoaderSpec, Pin, Pinned};
use tch::{Device, Kind, Tensor};

use crate::data::batch::{BatchError, BatchShape, tokens_btk};
use crate::shim::cuda::{Event, PinnedMemory, Priority, Stream};

/// Micro-batches that are on their way to the device before they are asked for.
const AHEAD: usize = 2;

/// Step, and micro-batch of the step.
pub type Place = (u64, u64);

/// The micro-batches of a phase.
pub struct Stage {
    feed: Feed,
    shape: BatchShape,
    device: Device,
}

enum Feed {
    Plain(Loader<i64>),
    Narrow(Ahead<u16>),
    Wide(Ahead<i32>),
}

impl Stage {
    /// Starts the loader: plain on the CPU, ahead on a GPU.
    pub fn start(spec: LoaderSpec, shape: BatchShape, device: Device) -> Result<Stage> {
        if device.is_cuda() {
            return Stage::start_ahead(spec, shape, device);
        }
        Ok(Stage { feed: Feed::Plain(Loader::start(spec)?), shape, device })
    }

    /// As for a GPU, on any device. On the CPU a copy is done when it is asked for.
    pub fn start_ahead(spec: LoaderSpec, shape: BatchShape, device: Device) -> Result<Stage> {
        let feed = if spec.corpus.vocab_size() <= u16::VOCAB_SIZE_MAX {
            Feed::Narrow(Ahead::start(spec, shape.vocab_size, device)?)
        } else {
            Feed::Wide(Ahead::start(spec, shape.vocab_size, device)?)
        };
        Ok(Stage { feed, shape, device })
    }

    /// The next micro-batch and where in the plan it stands; `None` after the last one.
    pub fn next_micro_batch(&mut self) -> Result<Option<(Place, Tensor)>> {
        let loader = match &mut self.feed {
            Feed::Plain(loader) => loader,
            Feed::Narrow(ahead) => return ahead.next(self.shape),
            Feed::Wide(ahead) => return ahead.next(self.shape),
        };
        let Some(batch) = loader.next_batch()? else { return Ok(None) };
        let tokens = tokens_btk(&batch.ids, self.shape, self.device)?;
        let place = (batch.step, batch.micro_index);
        loader.recycle(batch);
        Ok(Some((place, tokens)))
    }

    /// How long the loader was waited for in all.
    pub fn waited(&self) -> Duration {
        match &self.feed {
            Feed::Plain(loader) => loader.waited(),
            Feed::Narrow(ahead) => ahead.loader.waited(),
            Feed::Wide(ahead) => ahead.loader.waited(),
        }
    }
}

/// An id as it travels.
trait TravelId: OutId + Ord {
    /// libtorch's kind of that width; tch has no unsigned one of 2 bytes.
    const KIND: Kind;
    /// The numbers as `Int64`, of ids as they arrived.
    fn widen(ids: &Tensor) -> Tensor;
}

impl TravelId for u16 {
    const KIND: Kind = Kind::Int16;
    fn widen(ids: &Tensor) -> Tensor {
        ids.to_kind(Kind::Int64).bitwise_and(0xffff) // the sign was none
    }
}

impl TravelId for i32 {
    const KIND: Kind = Kind::Int;
    fn widen(ids: &Tensor) -> Tensor {
        ids.to_kind(Kind::Int64)
    }
}

/// A micro-batch on its way. The loader's memory stays as it is until the copy is done.
struct Sent<T> {
    batch: Batch<T>,
    ids: Tensor,
    /// `None` on the CPU, where it is done.
    copied: Option<Event>,
}

impl<T> Sent<T> {
    fn is_copied(&self) -> Result<bool> {
        Ok(self.copied.as_ref().map_or(Ok(true), Event::is_done)?)
    }
}

/// A loader whose batches are sent ahead.
struct Ahead<T: TravelId> {
    loader: Loader<T>,
    vocab_size: u64,
    device: Device,
    /// Of the copies; `None` on the CPU.
    stream: Option<Stream>,
    /// In the order in which they are asked for.
    sent: VecDeque<Sent<T>>,
    /// Asked for, but perhaps not copied yet.
    returning: VecDeque<Sent<T>>,
}

impl<T: TravelId> Ahead<T> {
    fn start(mut spec: LoaderSpec, vocab_size: u64, device: Device) -> Result<Ahead<T>> {
        let stream = match device {
            Device::Cuda(index) => {
                spec.pin = Some(pin(index));
                Some(Stream::new(index, Priority::High)?)
            }
            _ => None,
        };
        let loader = Loader::start(spec)?;
        let (sent, returning) = (VecDeque::new(), VecDeque::new());
        Ok(Ahead { loader, vocab_size, device, stream, sent, returning })
    }

    fn next(&mut self, shape: BatchShape) -> Result<Option<(Place, Tensor)>> {
        self.fill()?;
        let Some(sent) = self.sent.pop_front() else { return Ok(None) };
        let place = (sent.batch.step, sent.batch.micro_index);
        if let (Some(copied), Device::Cuda(index)) = (&sent.copied, self.device) {
            let computing = Stream::current(index)?;
            copied.block(&computing)?;
            computing.keeps(&sent.ids)?;
        }
        let [t, k] = [shape.window_units, shape.patch_size]
            .map(|size| i64::try_from(size).expect("a window fits memory"));
        let tokens_btk = T::widen(&sent.ids).view([-1, t, k]);
        self.returning.push_back(sent);
        while self.returning.front().map_or(Ok(false), Sent::is_copied)? {
            let sent = self.returning.pop_front().expect("there is a front");
            self.loader.recycle(sent.batch);
        }
        self.fill()?;
        Ok(Some((place, tokens_btk)))
    }

    /// Sends batches until enough are under way.
    fn fill(&mut self) -> Result<()> {
        while self.sent.len() < AHEAD {
            let Some(batch) = self.loader.next_batch()? else { return Ok(()) };
            self.check_ids(&batch.ids)?;
            let sent = self.send(batch)?;
            self.sent.push_back(sent);
        }
        Ok(())
    }

    fn send(&self, batch: Batch<T>) -> Result<Sent<T>> {
        let bytes: &[u8] = bytemuck::cast_slice(&batch.ids[..]);
        let size = [i64::try_from(batch.ids.len()).context("ids of a micro-batch")?];
        let (Some(stream), Device::Cuda(index)) = (&self.stream, self.device) else {
            let ids = Tensor::f_from_data_size(bytes, &size, T::KIND)?;
            return Ok(Sent { batch, ids, copied: None });
        };
        let (computing, copied) = (Stream::current(index)?, Event::new()?);
        stream.set_current()?; // so that the tensor's memory is this stream's
        let ids = Tensor::f_empty(size, (T::KIND, self.device));
        computing.set_current()?;
        let mut ids = ids?;
        stream.upload(bytes, &mut ids)?;
        copied.record(stream)?;
        Ok(Sent { batch, ids, copied: Some(copied) })
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

impl<T: TravelId> Drop for Ahead<T> {
    /// Memory that a copy still reads must not go.
    fn drop(&mut self) {
        for sent in self.sent.iter().chain(&self.returning) {
            if let Some(copied) = &sent.copied {
                let _nothing_left_to_do = copied.synchronize();
            }
        }
    }
}

/// What pins the loader's buffers for copies to a GPU.
fn pin(device: usize) -> Pin {
    Pin::new(move |memory| {
        let pinned = PinnedMemory::new(device, memory).map_err(io::Error::other)?;
        Ok(Box::new(pinned) as Pinned)
    })
}
