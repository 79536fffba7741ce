//! Starts the crews of a job, and the threads closing their parts.
//!
//! **Invariant:** every thread has ended when [`Job::run`] returns.

use std::sync::Mutex;

use crossbeam_channel::bounded;

use crate::console::progress::notice;
use crate::disk::atomic::Hands;
use crate::write::crew::route::Writer;
use crate::write::crew::{CREW_THREADS, Crew, add, panicked};
use crate::write::job::{InputPlan, Job};
use crate::write::series::close::{Closer, OnInput, Parts};
use encoder::{SessionStatistics, TokenId};

impl Job<'_> {
    /// Writes the inputs `todo` and reports each one's record once it is complete. Ends early when
    /// asked to stop.
    pub(crate) fn run(
        &self,
        threads: usize,
        todo: Vec<InputPlan>,
        on_input: &OnInput,
    ) -> anyhow::Result<SessionStatistics> {
        let crews = threads.div_ceil(CREW_THREADS).min(todo.len().max(1));
        let todo = Mutex::new(todo.into_iter());
        let run = |crew: usize| {
            let threads = threads / crews + usize::from(crew < threads % crews);
            if self.encoder.vocab_size() <= <u16 as TokenId>::VOCAB_SIZE_MAX {
                self.run_crew::<u16>(threads, &todo, on_input)
            } else {
                self.run_crew::<u32>(threads, &todo, on_input)
            }
        };
        if crews == 1 {
            return run(0);
        }
        std::thread::scope(|scope| {
            let run = &run;
            let crews: Vec<_> = (0..crews).map(|crew| scope.spawn(move || run(crew))).collect();
            let joined = crews.into_iter().map(|crew| crew.join().map_err(panicked)?);
            joined.reduce(|sum, next| Ok(add(sum?, next?))).expect("there is a crew")
        })
    }

    /// Reports once if the slow encoder is in use.
    pub(crate) fn name_encoder(&self) {
        let why = self.encoder.obstacles().join("; ");
        if !why.is_empty() {
            notice(&format!("the tokenizers crate makes the ids, slowly: {why}"));
        }
    }

    fn run_crew<I: TokenId>(
        &self,
        threads: usize,
        todo: &Mutex<std::vec::IntoIter<InputPlan>>,
        on_input: &OnInput,
    ) -> anyhow::Result<SessionStatistics> {
        std::thread::scope(|scope| {
            // No room: a sender waits until the previous value is closed.
            let (tx, rx) = bounded(0);
            let behind = (threads > 1).then(|| {
                scope.spawn(move || {
                    let mut parts = Parts::new(Hands::More);
                    rx.into_iter().try_for_each(|closing| parts.close(closing, on_input))
                })
            });
            let closer = match &behind {
                Some(_) => Closer::Behind(tx),
                None => Closer::Here(Parts::new(Hands::One), on_input),
            };
            let crew = Crew::<I>::new(self, threads, todo, Writer::new(self, closer));
            let statistics = crew.run(threads);
            let failure = crew.into_failure();
            // The writer and its sender are gone, so the closing thread comes to its end.
            let closed = behind.map_or(Ok(()), |behind| behind.join().map_err(panicked)?);
            // A failure in closing is the cause of our own failure.
            closed.and(failure.map_or(Ok(statistics), Err))
        })
    }
}
