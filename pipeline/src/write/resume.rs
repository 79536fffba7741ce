//! Finds the work of an interrupted run, or of tasks, to keep.
//!
//! A record is trusted only together with the hashes of everything it names. A resumed run skips
//! the lines in closed parts without parsing them. Where an input has several chains of parts
//! (sets, a hold-out), it is parsed again, and only missing documents are encoded.
//!
//! **Invariant:** a record is trusted only if its own hash is right, it is of this input and of
//! these options, and every file it names has its hash.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Context;
use schemas::build::{PartRecord, SeriesRecord};
use schemas::manifest::FileRecord;

use crate::console::progress::notice;
use crate::disk::source::read_file;
use crate::read::inputs::Input;
use crate::write::folder::{self, Folder, HOLDOUT_FOLDER, Kind, SERIES_MAX, series_of};
use crate::write::job::Chain;

/// The work to keep.
#[derive(Default)]
pub(crate) struct CompletedWork {
    /// Complete inputs, by position.
    pub(crate) finished: BTreeMap<u64, SeriesRecord>,
    /// Closed parts of the other inputs.
    pub(crate) parts: BTreeMap<u64, BTreeMap<Chain, Vec<PartRecord>>>,
    /// Names in the folder of all these files, and of their records.
    names: BTreeSet<String>,
}

/// The values expected in records.
pub(crate) struct Expected<'a> {
    pub(crate) inputs: &'a [Input],
    /// Fingerprint of the options.
    pub(crate) options: &'a str,
    pub(crate) by_set: bool,
    /// Whether the time of an input's last change matters; merging does not see the inputs.
    pub(crate) knows_changes: bool,
}

impl Expected<'_> {
    /// The number of series of an input.
    fn stride(&self) -> u64 {
        if self.by_set { SERIES_MAX } else { 1 }
    }

    /// The position of the input of a series file.
    pub(crate) fn position_of(&self, name: &str) -> Option<u64> {
        series_of(name).map(|(series_index, kind)| match kind {
            Kind::Input => series_index,
            Kind::Final | Kind::Part => series_index / self.stride(),
        })
    }

    /// Why a record does not fit this input and these options.
    fn misfit(
        &self,
        position: u64,
        (input, input_bytes, modified_nanoseconds): (&str, u64, u64),
        options: &str,
    ) -> Option<String> {
        let expected = &self.inputs[usize::try_from(position).expect("a position in memory")];
        if input != expected.name || input_bytes != expected.bytes {
            let Input { name, bytes, .. } = expected;
            return Some(format!(
                "is of {input} ({input_bytes} bytes), not of {name} ({bytes} bytes)"
            ));
        }
        if self.knows_changes && modified_nanoseconds != expected.modified_nanoseconds {
            return Some(format!("is of {input} before its last change"));
        }
        (options != self.options).then(|| "was made with other options".to_owned())
    }
}

impl CompletedWork {
    /// Checks the records of the inputs at these positions.
    pub(crate) fn find(
        folder: &Folder,
        expected: &Expected,
        positions: &[usize],
    ) -> anyhow::Result<CompletedWork> {
        let mut kept = CompletedWork::default();
        let names = folder.own_files()?;
        for &position in positions {
            let position = position as u64;
            let record = folder::record_name(position);
            if names.contains(&record) {
                match finished(folder.path(), expected, position)? {
                    Ok(record) => {
                        kept.keep_input(position, record);
                        continue;
                    }
                    Err(what) => {
                        let input = &expected.inputs[position as usize].name;
                        let path = folder.path().join(record);
                        notice(&format!(
                            "{} {what}; series {position} ({input}) is being rewritten",
                            path.display()
                        ));
                    }
                }
            }
            kept.find_parts(folder, expected, position, &names)?;
        }
        Ok(kept)
    }

    /// Whether a file of the folder belongs to the kept work.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    fn keep_input(&mut self, position: u64, record: SeriesRecord) {
        let holdout = record.holdout_files().map(|file| format!("{HOLDOUT_FOLDER}/{}", file.path));
        self.names.extend(holdout);
        self.names.extend(record.files().map(|file| file.path.clone()));
        self.names.insert(folder::record_name(position));
        self.finished.insert(position, record);
    }

    /// Finds the parts of an input: for each series, those in sequence from the first one on.
    fn find_parts(
        &mut self,
        folder: &Folder,
        expected: &Expected,
        position: u64,
        names: &[String],
    ) -> anyhow::Result<()> {
        for (is_holdout, prefix) in [(false, String::new()), (true, format!("{HOLDOUT_FOLDER}/"))] {
            let of_input = |&(series, _): &(u64, u64)| series / expected.stride() == position;
            let in_folder = names.iter().filter_map(|name| name.strip_prefix(&prefix));
            let mut numbers: Vec<(u64, u64)> =
                in_folder.filter_map(folder::part_of).filter(of_input).collect();
            numbers.sort_unstable();
            let mut broken = None;
            let mut next = BTreeMap::new();
            for (series_index, part_index) in numbers {
                let expected_part = next.entry(series_index).or_insert(0);
                if broken == Some(series_index) || part_index != *expected_part {
                    continue;
                }
                *expected_part += 1;
                let dir = folder.path().join(&prefix);
                let name = folder::part_name(series_index, part_index);
                let part = match part(&dir.join(&name), &dir, expected, position)? {
                    Ok(part) => part,
                    Err(what) => {
                        let path = dir.join(&name);
                        notice(&format!("{} {what}; it is being rewritten", path.display()));
                        broken = Some(series_index);
                        continue;
                    }
                };
                self.names.insert(format!("{prefix}{name}"));
                self.names.extend(part.files().map(|file| format!("{prefix}{}", file.path)));
                let set_name = part.by_set.as_ref().and_then(|by_set| by_set.set_name.clone());
                let chains = self.parts.entry(position).or_default();
                chains.entry((is_holdout, set_name)).or_default().push(part);
            }
        }
        Ok(())
    }
}

/// The record of a complete input, or its fault.
pub(crate) fn finished(
    dir: &Path,
    expected: &Expected,
    position: u64,
) -> anyhow::Result<Result<SeriesRecord, String>> {
    let path = dir.join(folder::record_name(position));
    let text = read_file(&path).with_context(|| format!("read {}", path.display()))?;
    let record = match SeriesRecord::parse(&text) {
        Ok(record) => record,
        Err(err) => return Ok(Err(err.to_string())),
    };
    let input = (record.input.as_str(), record.input_bytes, record.modified_nanoseconds);
    if let Some(what) = expected.misfit(position, input, &record.options) {
        return Ok(Err(what));
    }
    let files = record.files().map(|file| (dir.join(&file.path), file));
    let holdout = record.holdout_files();
    let holdout = holdout.map(|file| (dir.join(HOLDOUT_FOLDER).join(&file.path), file));
    let damage = files.chain(holdout).find_map(|(path, file)| damage(&path, file));
    Ok(damage.map_or(Ok(record), Err))
}

fn part(
    path: &Path,
    dir: &Path,
    expected: &Expected,
    position: u64,
) -> anyhow::Result<Result<PartRecord, String>> {
    let text = read_file(path).with_context(|| format!("read {}", path.display()))?;
    let record = match PartRecord::parse(&text) {
        Ok(record) => record,
        Err(err) => return Ok(Err(err.to_string())),
    };
    let input = (record.input.as_str(), record.input_bytes, record.modified_nanoseconds);
    if let Some(what) = expected.misfit(position, input, &record.options) {
        return Ok(Err(what));
    }
    let damage = record.files().find_map(|file| damage(&dir.join(&file.path), file));
    Ok(damage.map_or(Ok(record), Err))
}

/// How a file that a record names differs from it.
fn damage(path: &Path, file: &FileRecord) -> Option<String> {
    Some(format!("fits no longer: {}", folder::damage(path, file)?))
}
