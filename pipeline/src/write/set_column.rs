//! Notices about documents without the set name that `--set-column` asks for.
//!
//! A Parquet file has a schema, so its reader refuses a missing column. JSON lines have none: a
//! line  without the key is a document without a set, like a row whose set name is null. A mistyped
//! name  must not pass unseen, so both are counted.
//!
//! **Invariant:** a notice depends on the inputs or the manifest alone, so a run that was
//! interrupted prints the same count.

use schemas::manifest::SetTotals;

use crate::console::progress::notice;
use crate::read::document::Columns;
use crate::read::documents::Docs;
use crate::read::error::DocsError;
use crate::read::inputs::Input;

/// Prints a notice if none of the documents at the beginnings of the inputs has the set name that
/// was asked for.
pub(crate) fn notice_if_unknown(inputs: &[Input], columns: &Columns) -> Result<(), DocsError> {
    let Some(column) = &columns.set else { return Ok(()) };
    for input in inputs {
        let mut docs = Docs::open(input, columns)?;
        // Whoever reads the whole input reports its errors, so a chunk that fails decides nothing.
        let Ok(Some(chunk)) = docs.next_chunk() else { continue };
        if chunk.docs(columns).any(|doc| doc.map_or(true, |doc| doc.set_name.is_some())) {
            return Ok(());
        }
    }
    notice(&format!(
        "no document at the beginning of any input has a set name at {column:?}; is --set-column \
         mistyped?"
    ));
    Ok(())
}

/// Prints how many of the documents written have no set name, if one was asked for.
pub(crate) fn notice_count(sets: &[SetTotals], column: Option<&str>) {
    let Some(column) = column else { return };
    let documents =
        |sets: &mut dyn Iterator<Item = &SetTotals>| -> u64 { sets.map(|set| set.documents).sum() };
    let without = documents(&mut sets.iter().filter(|set| set.set_name.is_none()));
    if without > 0 {
        let all = documents(&mut sets.iter());
        notice(&format!(
            "{without} of the {all} documents written have no set name at {column:?} (--set-column)"
        ));
    }
}
