//! Reads inputs, one after the other, as numbered pieces of work.
//!
//! **Invariant:** numbers rise by one, in reading order.

use std::sync::{Arc, Mutex, PoisonError};

use crate::read::documents::Docs;
use crate::read::error::DocsError;
use crate::write::job::{InputPlan, Job, Work};

/// The inputs, and the reading position in the current one.
pub(crate) struct WorkReader<'a> {
    todo: &'a Mutex<std::vec::IntoIter<InputPlan>>,
    current: Option<(Docs, Arc<InputPlan>)>,
    next_number: u64,
    given_back: Option<(u64, Work)>,
}

impl<'a> WorkReader<'a> {
    /// Takes one input after the other from `todo`, which other readers share.
    pub(crate) fn new(todo: &'a Mutex<std::vec::IntoIter<InputPlan>>) -> WorkReader<'a> {
        WorkReader { todo, current: None, next_number: 0, given_back: None }
    }

    /// The next work with its number; `None` after everything is read.
    pub(crate) fn next(&mut self, job: &Job) -> Option<(u64, Work)> {
        if let Some(given_back) = self.given_back.take() {
            return Some(given_back);
        }
        let work = self.read(job)?;
        let number = self.next_number;
        self.next_number += 1;
        Some((number, work))
    }

    /// Takes back the last work from [`WorkReader::next`], which will return it again.
    pub(crate) fn give_back(&mut self, number: u64, work: Work) {
        let before = self.given_back.replace((number, work));
        assert!(before.is_none(), "only what was given last comes back");
    }

    fn read(&mut self, job: &Job) -> Option<Work> {
        let Some((docs, plan)) = &mut self.current else {
            let next = self.todo.lock().unwrap_or_else(PoisonError::into_inner).next();
            let plan = Arc::new(next?);
            return Some(match open(&plan, job) {
                Ok(docs) => {
                    self.current = Some((docs, Arc::clone(&plan)));
                    Work::Begin(plan)
                }
                Err(err) => Work::Failed(err),
            });
        };
        Some(match docs.next_chunk() {
            Ok(Some(chunk)) => {
                let file_offset = docs.file_offset();
                Work::Chunk { chunk, plan: Arc::clone(plan), file_offset }
            }
            Ok(None) => {
                self.current = None;
                Work::End
            }
            Err(err) => {
                self.current = None;
                Work::Failed(err)
            }
        })
    }
}

/// Opens an input after its closed parts.
fn open(plan: &InputPlan, job: &Job) -> Result<Docs, DocsError> {
    let mut docs = Docs::open(&plan.input, job.columns)?;
    docs.skip_to(plan.first_row())?;
    Ok(docs)
}
