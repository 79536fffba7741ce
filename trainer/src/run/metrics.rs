//! Reports of a run in progress: `metrics.jsonl`, TensorBoard event files, and the lines on stderr.
//!
//! **Invariant:** after [`MetricsLog::open`] for a run resumed at step s, `metrics.jsonl` holds
//! only whole lines of steps up to s, so a resumed run leaves the same lines as an uninterrupted
//! one (except times and memory). After [`MetricsLog::sync`] a power cut removes no point written
//! before.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use pipeline::disk::atomic::sync_dir;
use serde_json::{Map, Value};

/// Name of the JSON lines file in a run's folder.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Name of the folder with TensorBoard event files in a run's folder.
pub const TENSORBOARD_FOLDER: &str = "tensorboard";

/// One point of some curves: values by tag at a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Steps done when it was taken.
    pub step: u64,
    /// Tag and value, such as `("train/loss", 5.1)`. Values that are not finite are written as
    /// null.
    pub values: Vec<(&'static str, f64)>,
}

/// Both logs of a run.
pub struct MetricsLog {
    lines: File,
    events: EventFile,
    last_kept_step: Option<u64>,
}

impl MetricsLog {
    /// Opens the logs of the run in `folder`. A run resumed at `resumed_step` keeps the lines of
    /// `metrics.jsonl` up to that step; a new run (`None`) keeps none.
    pub fn open(folder: &Path, resumed_step: Option<u64>) -> Result<MetricsLog> {
        let path = folder.join(METRICS_FILE);
        let last_kept_step = cut_back(&path, resumed_step)
            .with_context(|| format!("cut back {}", path.display()))?;
        let lines = OpenOptions::new().create(true).append(true).open(&path);
        let lines = lines.with_context(|| format!("open {}", path.display()))?;
        let event_folder = folder.join(TENSORBOARD_FOLDER);
        let events = EventFile::create(&event_folder, resumed_step)?;
        // Their names, which `sync` does not make durable.
        for folder in [&event_folder, folder] {
            sync_dir(folder)?;
        }
        Ok(MetricsLog { lines, events, last_kept_step })
    }

    /// The step of the last line that a resumed run kept of `metrics.jsonl`.
    pub fn last_kept_step(&self) -> Option<u64> {
        self.last_kept_step
    }

    /// Waits until every point written so far is on the disk.
    pub fn sync(&self) -> Result<()> {
        self.lines.sync_data().context("sync metrics.jsonl")?;
        self.events.file.sync_data().context("sync the TensorBoard event file")
    }

    /// Writes one point to both logs, at once and unbuffered: a killed run keeps its last line.
    pub fn write(&mut self, point: &Point) -> Result<()> {
        let mut line = Map::new();
        line.insert("step".to_owned(), point.step.into());
        for &(tag, value) in &point.values {
            // Null when not finite.
            line.insert(tag.to_owned(), Value::from(value));
        }
        let mut text = Value::Object(line).to_string();
        text.push('\n');
        self.lines.write_all(text.as_bytes()).context("write metrics.jsonl")?;
        self.events.write(point).context("write the TensorBoard event file")
    }
}

/// Keeps the whole lines of steps up to `last_step`; a torn last line left by a kill is removed
/// too. Returns the step of the last line kept.
fn cut_back(path: &Path, last_step: Option<u64>) -> Result<Option<u64>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(err.into()),
    };
    let (mut kept_bytes, mut kept_step) = (0u64, None);
    let mut reader = BufReader::new(file);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let step = serde_json::from_slice::<Value>(&line).ok();
        let step = step.and_then(|value| value.get("step")?.as_u64());
        let is_kept = step.zip(last_step).is_some_and(|(step, last_step)| step <= last_step);
        if !line.ends_with(b"\n") || !is_kept {
            break;
        }
        kept_bytes += line.len() as u64;
        kept_step = step;
        line.clear();
    }
    OpenOptions::new().write(true).open(path)?.set_len(kept_bytes)?;
    Ok(kept_step)
}

/// A TensorBoard event file: TFRecord frames of `Event` messages
/// (tensorflow/core/util/event.proto).
struct EventFile {
    file: File,
}

impl EventFile {
    /// Creates a new file in `folder`. It opens with a session start, by which TensorBoard drops
    /// the points after `resumed_step` (all of them for `None`) from the earlier files.
    fn create(folder: &Path, resumed_step: Option<u64>) -> Result<EventFile> {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let path = free_name(folder)?;
        let file = File::create_new(&path).with_context(|| format!("create {}", path.display()))?;
        let mut events = EventFile { file };
        events.record(&event(0, |event| bytes_field(event, 3, b"brain.Event:2")))?;
        let first_step = resumed_step.map_or(0, |step| step + 1);
        events.record(&event(first_step, |event| bytes_field(event, 7, &[0x08, 1])))?;
        Ok(events)
    }

    fn write(&mut self, point: &Point) -> Result<()> {
        let mut summary = Vec::new();
        for &(tag, value) in &point.values {
            let mut entry = Vec::new();
            bytes_field(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5); // simple_value, 32 bits
            entry.extend_from_slice(&(value as f32).to_le_bytes());
            bytes_field(&mut summary, 1, &entry);
        }
        self.record(&event(point.step, |event| bytes_field(event, 5, &summary)))
    }

    /// One TFRecord frame: length, masked CRC32C of the length, data, masked CRC32C of the data.
    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut frame = Vec::with_capacity(data.len() + 16);
        frame.extend_from_slice(&length);
        frame.extend_from_slice(&masked_crc(&length).to_le_bytes());
        frame.extend_from_slice(data);
        frame.extend_from_slice(&masked_crc(data).to_le_bytes());
        Ok(self.file.write_all(&frame)?)
    }
}

/// An unused name in TensorBoard's format: several starts may fall into one second.
fn free_name(folder: &Path) -> Result<PathBuf> {
    let seconds = wall_seconds() as u64;
    let pid = std::process::id();
    for attempt in 0..1000 {
        let path =
            folder.join(format!("events.out.tfevents.{seconds:010}.patchmill.{pid}.{attempt}"));
        if !path.exists() {
            return Ok(path);
        }
    }
    anyhow::bail!("no free name for an event file in {}", folder.display())
}

/// `Event { wall_time = 1: double, step = 2: int64, … }`.
fn event(step: u64, content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut event = vec![1 << 3 | 1];
    event.extend_from_slice(&wall_seconds().to_le_bytes());
    event.push(2 << 3);
    varint(&mut event, step);
    content(&mut event);
    event
}

fn bytes_field(message: &mut Vec<u8>, field: u8, content: &[u8]) {
    message.push(field << 3 | 2);
    varint(message, content.len() as u64);
    message.extend_from_slice(content);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Seconds since 1970, for event files alone.
fn wall_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(step: u64) -> Point {
        Point { step, values: vec![("train/loss", step as f64 / 2.0)] }
    }

    #[test]
    fn reopening_cuts_back_to_whole_lines_of_earlier_steps() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), None).unwrap();
        for step in 1..=5 {
            log.write(&point(step)).unwrap();
        }
        log.lines.write_all(b"{\"step\":3,\"tr").unwrap(); // torn by a kill
        drop(MetricsLog::open(folder.path(), Some(3)).unwrap());
        let text = std::fs::read_to_string(folder.path().join(METRICS_FILE)).unwrap();
        let steps: Vec<&str> = text.lines().collect();
        assert_eq!(
            steps,
            [
                r#"{"step":1,"train/loss":0.5}"#,
                r#"{"step":2,"train/loss":1.0}"#,
                r#"{"step":3,"train/loss":1.5}"#
            ]
        );
    }

    #[test]
    fn a_run_that_begins_again_keeps_no_line() {
        let folder = tempfile::tempdir().unwrap();
        MetricsLog::open(folder.path(), None).unwrap().write(&point(0)).unwrap();
        drop(MetricsLog::open(folder.path(), None).unwrap());
        assert_eq!(std::fs::read(folder.path().join(METRICS_FILE)).unwrap(), b"");
    }

    #[test]
    fn a_value_that_is_not_finite_is_null() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), None).unwrap();
        log.write(&Point { step: 1, values: vec![("train/loss", f64::NAN)] }).unwrap();
        let text = std::fs::read_to_string(folder.path().join(METRICS_FILE)).unwrap();
        assert_eq!(text, "{\"step\":1,\"train/loss\":null}\n");
    }

    /// Golden bytes by hand from the two specifications: protocol buffers' wire format and TFRecord
    /// framing.
    #[test]
    fn event_frames_follow_the_specification() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(folder.path(), None).unwrap();
        log.write(&point(300)).unwrap();
        let file = std::fs::read_dir(folder.path().join(TENSORBOARD_FOLDER)).unwrap().next();
        let bytes = std::fs::read(file.unwrap().unwrap().path()).unwrap();
        let mut rest = bytes.as_slice();
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(masked_crc(&rest[..8]).to_le_bytes(), rest[8..12]);
            assert_eq!(
                masked_crc(&rest[12..12 + length]).to_le_bytes(),
                rest[12 + length..16 + length]
            );
            messages.push(&rest[12..12 + length]);
            rest = &rest[16 + length..];
        }
        assert_eq!(messages[0][9..], *b"\x10\x00\x1a\x0dbrain.Event:2");
        assert_eq!(messages[1][9..], *b"\x10\x00\x3a\x02\x08\x01"); // session_log { status: START }
        let value = b"\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\x16\x43"; // 150.0
        assert_eq!(messages[2][9..14], [0x10, 0xac, 0x02, 0x2a, value.len() as u8]);
        assert_eq!(messages[2][14..], *value);
    }

    /// The mask of TFRecord, on the well-known CRC32C check value of "123456789".
    #[test]
    fn the_mask_is_that_of_tfrecord() {
        assert_eq!(crc32c::crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(masked_crc(b"123456789"), 0xc78a_b0e5);
    }
}
