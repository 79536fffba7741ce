//! Progress and notices on stderr.
//!
//! **Invariant:** nothing depends on the display, or on whether anybody sees it.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::console::printable;

/// Progress on stderr; hidden unless stderr is a terminal. The bar counts bytes of the input files.
pub(crate) struct Progress {
    bar: ProgressBar,
    // All of them relaxed: they are shown and decide nothing.
    documents: AtomicU64,
    text_bytes: AtomicU64,
    tokens: AtomicU64,
}

impl Progress {
    /// For inputs of `input_bytes`, of which `kept_bytes` were done before.
    pub(crate) fn start(input_bytes: u64, kept_bytes: u64) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(input_bytes), ProgressDrawTarget::stderr());
        let eta = |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // Nothing can be done about a formatting error.
            let _ = write!(out, "{}", HumanDuration(state.eta()));
        };
        let style = ProgressStyle::with_template("{bar:30} {percent}% | {msg} | eta {left}")
            .expect("the template is well-formed")
            .with_key("left", eta);
        bar.set_style(style);
        bar.set_position(kept_bytes);
        bar.reset_eta();
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(250));
        }
        let (documents, text_bytes, tokens) = Default::default();
        Progress { bar, documents, text_bytes, tokens }
    }

    pub(crate) fn add_document(&self, text_bytes: u64, tokens: u64) {
        self.documents.fetch_add(1, Ordering::Relaxed);
        self.text_bytes.fetch_add(text_bytes, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
    }

    /// Adds bytes of an input file that were read and written.
    pub(crate) fn add_bytes(&self, bytes: u64) {
        self.bar.inc(bytes);
        if self.bar.is_hidden() {
            return;
        }
        let seconds = self.bar.elapsed().as_secs_f64().max(1e-9);
        self.bar.set_message(format!(
            "{} docs | {:.1} MB/s | {:.2}M tok/s",
            self.documents.load(Ordering::Relaxed),
            self.text_bytes.load(Ordering::Relaxed) as f64 / 1e6 / seconds,
            self.tokens.load(Ordering::Relaxed) as f64 / 1e6 / seconds,
        ));
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Prints a notice on stderr: useful to know, no action needed.
pub(crate) fn notice(what: &str) {
    // With stderr gone, nobody can read it.
    let _ = writeln!(std::io::stderr(), "notice: {}", printable::line(what));
}
