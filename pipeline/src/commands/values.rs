//! Arguments and values shared by several commands.
//!
//! **Invariant:** an accepted value needs no further check, except for files read later.

use std::path::PathBuf;

use clap::builder::{PathBufValueParser, TypedValueParser};
use schemas::manifest::SpecialTokens;

use crate::disk::source::url_scheme;
use crate::run_file::Run;
use crate::write::select::{Rate, SampleSpec, SelectSpec, SetChoice};

/// Parses the path of a file or folder; an URL is refused, because it would name a local folder.
pub fn local_path() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match url_scheme(&path) {
        Some(scheme) => Err(format!(
            "{scheme}:// is not supported; expected a path on this machine or on a mounted file \
             system"
        )),
        None => Ok(path),
    })
}

/// A run file with overrides.
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// The run file.
    #[arg(value_parser = local_path())]
    pub run: PathBuf,
    /// Override a value of the run file, such as plan.epochs=2 or phases.0.share=1/2.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

impl RunArgs {
    /// Reads the run file.
    pub fn load(&self) -> anyhow::Result<Run> {
        Ok(Run::load(&self.run, &self.overrides)?)
    }
}

/// One rank's part of each step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankOf {
    pub(crate) rank: u64,
    pub(crate) world_size: u64,
}

impl RankOf {
    /// From 0.
    pub fn rank(self) -> u64 {
        self.rank
    }

    /// Number of parts of a step.
    pub fn world_size(self) -> u64 {
        self.world_size
    }
}

/// Reads `r/W`, such as `0/8`.
pub fn parse_rank(text: &str) -> Result<RankOf, String> {
    let parts = text.split_once('/');
    match parts.and_then(|(rank, world)| Some((rank.parse().ok()?, world.parse().ok()?))) {
        Some((rank, world_size)) if rank < world_size => Ok(RankOf { rank, world_size }),
        _ => Err(format!("{text:?} is not a rank; expected r/W with r below W, such as 0/8")),
    }
}

/// Reading of special tokens written out in a text.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// Text like any other.
    Text,
    /// Control ids, Hugging Face's default.
    Hf,
}

impl From<Specials> for SpecialTokens {
    fn from(specials: Specials) -> SpecialTokens {
        match specials {
            Specials::Text => SpecialTokens::Text,
            Specials::Hf => SpecialTokens::Hf,
        }
    }
}

/// Options that choose sets.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SetArgs {
    /// Take this set alone; may be given several times.
    #[arg(long, value_name = "NAME", conflicts_with_all = ["drop_set", "drop_no_set"])]
    pub keep_set: Vec<String>,
    /// Take documents without a set; alone, or with --keep-set.
    #[arg(long, conflicts_with_all = ["drop_set", "drop_no_set"])]
    pub keep_no_set: bool,
    /// Leave this set out; may be given several times.
    #[arg(long, value_name = "NAME")]
    pub drop_set: Vec<String>,
    /// Leave documents without a set out.
    #[arg(long)]
    pub drop_no_set: bool,
}

/// Options that choose a sample.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct SampleArgs {
    /// Share of the documents to take, such as 0.17, by a hash of their texts: the same ones on
    /// every machine, and a subset of any higher rate's.
    #[arg(long, value_name = "RATE")]
    pub sample_rate: Option<Rate>,
    /// Another number takes another sample and another hold-out.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub sample_seed: u64,
}

/// Options of `patchmill tokenize` that choose documents. All are off by default.
#[derive(clap::Args, Clone, Debug, Default)]
#[command(next_help_heading = "Which documents")]
pub struct SelectArgs {
    /// Leave out texts of fewer bytes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub min_bytes: Option<u64>,
    /// Leave out texts of more bytes; --max-document-bytes applies first, and refuses.
    #[arg(long, value_name = "N")]
    pub max_bytes: Option<u64>,
    /// By set.
    #[command(flatten)]
    pub sets: SetArgs,
    /// Leave out what this list of `patchmill duplicates` names: all but the first of equal texts.
    #[arg(long, value_name = "FILE", value_parser = local_path())]
    pub drop_list: Option<PathBuf>,
    /// By chance.
    #[command(flatten)]
    pub sample: SampleArgs,
    /// Share of the documents to write into a corpus of their own, OUT/holdout, and not into OUT: a
    /// validation split, the same at every --sample-rate.
    #[arg(long, value_name = "RATE")]
    pub holdout_rate: Option<Rate>,
    /// Cut texts of more words into documents of so many, at single spaces, as the authors'
    /// process.py does with 10000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub split_words: Option<u64>,
}

impl SetArgs {
    /// The same in the library's form.
    pub fn choice(&self) -> SetChoice {
        SetChoice {
            keep_set: self.keep_set.clone(),
            keep_no_set: self.keep_no_set,
            drop_set: self.drop_set.clone(),
            drop_no_set: self.drop_no_set,
        }
    }
}

impl SampleArgs {
    /// The same in the library's form.
    pub fn spec(&self) -> SampleSpec {
        SampleSpec { sample_rate: self.sample_rate, sample_seed: self.sample_seed }
    }
}

impl SelectArgs {
    /// The same in the library's form.
    pub fn spec(&self) -> SelectSpec {
        SelectSpec {
            min_bytes: self.min_bytes,
            max_bytes: self.max_bytes,
            sets: self.sets.choice(),
            drop_list: self.drop_list.clone(),
            sample: self.sample.spec(),
            holdout_rate: self.holdout_rate,
            split_words: self.split_words,
        }
    }
}
