//! The time of each part of a step: by the host's clock on the CPU, by events in the stream on a
//! GPU.
//!
//! **Invariant:** marking never waits for the device. Only [`StepTimer::take`] does, which is
//! called where the run waits anyway.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tch::Device;

use crate::shim::ShimError;
use crate::shim::cuda::{self, Event, Stream};

/// A part of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The loss of a micro-batch.
    Forward,
    /// Its gradients.
    Backward,
    /// Both, if they are replayed as one graph.
    Passes,
    /// Sum of gradients and loss over all ranks. It includes waiting for the slowest rank.
    Communication,
    /// Clipping, loss guard and update.
    Optimizer,
}

/// The number of parts.
const PARTS: usize = 5;

/// Time by part.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PartTimes([Duration; PARTS]);

impl PartTimes {
    /// The time of one part.
    pub fn of(&self, part: Part) -> Duration {
        self.0[part as usize]
    }

    fn add(&mut self, part: Part, time: Duration) {
        self.0[part as usize] += time;
    }
}

/// Sums the time of each part over the steps of a phase.
#[derive(Debug)]
pub struct StepTimer {
    clock: Clock,
    times: PartTimes,
}

#[derive(Debug)]
enum Clock {
    Off,
    Host(Option<Instant>),
    /// `open`: parts that may not have ended.
    Device {
        last: Option<Rc<Event>>,
        open: VecDeque<(Part, Rc<Event>, Rc<Event>)>,
        device: usize,
    },
}

impl StepTimer {
    /// A timer for steps on `device`.
    pub fn new(device: Device) -> StepTimer {
        let clock = match device {
            Device::Cuda(device) => Clock::Device { last: None, open: VecDeque::new(), device },
            _ => Clock::Host(None),
        };
        StepTimer { clock, times: PartTimes::default() }
    }

    /// A timer that measures nothing.
    pub fn off() -> StepTimer {
        StepTimer { clock: Clock::Off, times: PartTimes::default() }
    }

    /// Starts the part named by the next [`StepTimer::end`].
    pub fn start(&mut self) -> Result<(), ShimError> {
        match &mut self.clock {
            Clock::Off => {}
            Clock::Host(last) => *last = Some(Instant::now()),
            Clock::Device { last, device, .. } => *last = Some(record(*device)?),
        }
        Ok(())
    }

    /// Counts the time since the last start or end as `part`; the next part begins here.
    pub fn end(&mut self, part: Part) -> Result<(), ShimError> {
        const STARTED: &str = "a part was started";
        match &mut self.clock {
            Clock::Off => {}
            Clock::Host(last) => {
                let now = Instant::now();
                self.times.add(part, now - last.replace(now).expect(STARTED));
            }
            Clock::Device { last, open, device } => {
                let now = record(*device)?;
                open.push_back((part, last.replace(Rc::clone(&now)).expect(STARTED), now));
                while let Some((part, start, end)) = open.front()
                    && end.is_done()?
                {
                    self.times.add(*part, between(start, end)?);
                    open.pop_front();
                }
            }
        }
        Ok(())
    }

    /// The times since the last call. On a GPU this waits for the device (host-device
    /// synchronisation).
    pub fn take(&mut self) -> Result<PartTimes, ShimError> {
        if let Clock::Device { open, .. } = &mut self.clock {
            for (part, start, end) in open.drain(..) {
                end.synchronize()?;
                self.times.add(part, between(&start, &end)?);
            }
        }
        Ok(std::mem::take(&mut self.times))
    }
}

fn between(start: &Event, end: &Event) -> Result<Duration, ShimError> {
    Ok(Duration::from_secs_f64(start.ms_until(end)?.max(0.0) / 1e3))
}

fn record(device: usize) -> Result<Rc<Event>, ShimError> {
    let event = Event::timed()?;
    event.record(&Stream::current(device)?)?;
    Ok(Rc::new(event))
}

/// Waits until `device` has finished everything it was given; returns at once on the CPU.
pub fn synchronize(device: Device) -> Result<(), ShimError> {
    match device {
        Device::Cuda(index) => cuda::synchronize(index),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_are_counted_once() {
        let mut timer = StepTimer::new(Device::Cpu);
        let started = Instant::now();
        for _ in 0..2 {
            timer.start().unwrap();
            timer.end(Part::Forward).unwrap();
            std::hint::black_box((0..10_000u64).fold(0, |sum, n| sum ^ n));
            timer.end(Part::Backward).unwrap();
        }
        let times = timer.take().unwrap();
        let sum = times.of(Part::Forward) + times.of(Part::Backward);
        assert!(Duration::ZERO < times.of(Part::Backward) && sum <= started.elapsed());
        assert_eq!(times.of(Part::Passes), Duration::ZERO);
        assert_eq!(timer.take().unwrap(), PartTimes::default());
    }

    #[test]
    fn a_timer_that_is_off_measures_nothing() {
        let mut timer = StepTimer::off();
        timer.end(Part::Optimizer).unwrap();
        assert_eq!(timer.take().unwrap(), PartTimes::default());
    }
}
