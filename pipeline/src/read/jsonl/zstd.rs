//! Decodes zstd frame by frame, so an error names its frame.
//!
//! Windows are limited to 2 GiB, with a notice above 128 MiB. Dictionaries are refused.
//!
//! **Invariant:** the data end at the end of a frame; any other end is an error.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zstd::stream::raw::{DParameter, Decoder, Operation};

/// The log of the largest zstd window, 2 GiB, as `zstd --long=31` writes.
const WINDOW_LOG_MAX: u32 = 31;
/// Larger windows get a notice: zstd itself reads at most this unless asked for more.
const WINDOW_BYTES_NOTICE: u64 = 1 << 27;
/// The first bytes of a frame.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// Maximum length of a frame header, its magic number included.
const HEADER_BYTES_MAX: usize = 18;
/// Compressed bytes read at once.
const BUFFER_BYTES: usize = 1 << 17;

/// The frames of a file, one after the other.
pub(crate) struct Frames<R> {
    source: R,
    /// Bytes `start..end` are read but not decoded.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    decoder: Decoder<'static>,
    /// Offset in the file of the frame being decoded.
    frame_offset: Option<u64>,
    /// Bytes decoded so far. Relaxed: only the reading thread uses it.
    consumed: Arc<AtomicU64>,
    /// The file's name, for the notice about a large window.
    name: String,
    warned: bool,
}

impl<R: Read> Frames<R> {
    /// Decodes `source`, called `name` in messages, and adds the decoded bytes to `consumed`.
    pub(crate) fn new(source: R, name: String, consumed: Arc<AtomicU64>) -> io::Result<Frames<R>> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX))?;
        Ok(Frames {
            source,
            buffer: vec![0; BUFFER_BYTES],
            start: 0,
            end: 0,
            decoder,
            frame_offset: None,
            consumed,
            name,
            warned: false,
        })
    }

    fn pending(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    fn offset(&self) -> u64 {
        self.consumed.load(Ordering::Relaxed)
    }

    fn consume(&mut self, bytes: usize) {
        self.start += bytes;
        self.consumed.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Reads more after the pending bytes; false at the end of the file.
    fn fill(&mut self) -> io::Result<bool> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        loop {
            match self.source.read(&mut self.buffer[self.end..]) {
                Ok(count) => {
                    self.end += count;
                    return Ok(count > 0);
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => return Err(err),
            }
        }
    }

    /// Advances to the data of the next frame; false if there are no more.
    fn begin_frame(&mut self) -> io::Result<bool> {
        loop {
            while self.pending().len() < HEADER_BYTES_MAX && self.fill()? {}
            let pending = self.pending();
            if pending.is_empty() {
                return Ok(false);
            }
            let offset = self.offset();
            match kind(pending) {
                Kind::Short => return Err(self.cut_off()),
                Kind::Skippable { bytes } => {
                    self.skip(bytes)?;
                }
                Kind::Frame { window_bytes, dictionary } => {
                    if dictionary != 0 {
                        return Err(refused(format!(
                            "the zstd frame at byte {offset} was compressed with dictionary \
                             {dictionary}; expected one without: decompress it with that, \
                             and compress it again"
                        )));
                    }
                    self.check_window(window_bytes, offset)?;
                    self.decoder.reinit()?;
                    self.frame_offset = Some(offset);
                    return Ok(true);
                }
                Kind::None => {
                    let found = &pending[..pending.len().min(4)];
                    return Err(refused(format!(
                        "the zstd frame before byte {offset} has ended, and {found:02x?} there \
                         begins no other"
                    )));
                }
            }
        }
    }

    fn check_window(&mut self, window_bytes: u64, offset: u64) -> io::Result<()> {
        if window_bytes > 1 << WINDOW_LOG_MAX {
            return Err(refused(format!(
                "the zstd frame at byte {offset} needs a window of {window_bytes} bytes; \
                 at most {} are given (zstd --long={WINDOW_LOG_MAX}): compress it again",
                1u64 << WINDOW_LOG_MAX
            )));
        }
        if window_bytes > WINDOW_BYTES_NOTICE && !self.warned {
            self.warned = true;
            let name = &self.name;
            crate::console::progress::notice(&format!(
                "{name}: its zstd data need {window_bytes} bytes of memory to be read \
                 (written by zstd --long)"
            ));
        }
        Ok(())
    }

    /// Skips a skippable frame.
    fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 {
            let count = self.pending().len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.consume(count);
            bytes -= count as u64;
            if bytes > 0 && !self.fill()? {
                return Err(self.cut_off());
            }
        }
        Ok(())
    }

    /// The file ended within a frame.
    fn cut_off(&mut self) -> io::Error {
        let rest = self.end - self.start;
        self.consume(rest);
        io::ErrorKind::UnexpectedEof.into()
    }
}

impl<R: Read> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let Some(offset) = self.frame_offset else {
                if self.begin_frame()? {
                    continue;
                }
                return Ok(0);
            };
            let pending = &self.buffer[self.start..self.end];
            let status = self.decoder.run_on_buffers(pending, buffer).map_err(|err| {
                refused(format!("the zstd frame at byte {offset} cannot be decoded: {err}"))
            })?;
            self.consume(status.bytes_read);
            if status.remaining == 0 {
                self.frame_offset = None;
            }
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
            if status.remaining > 0 && self.pending().is_empty() && !self.fill()? {
                return Err(self.cut_off());
            }
        }
    }
}

fn refused(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

/// Meaning of the first bytes.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// A frame of this length with nothing to decode.
    Skippable { bytes: u64 },
    /// A frame; dictionary 0 means no dictionary.
    Frame { window_bytes: u64, dictionary: u64 },
    /// An incomplete header.
    Short,
    /// Not a frame.
    None,
}

/// Parses a possible frame header (RFC 8878, 3.1).
fn kind(bytes: &[u8]) -> Kind {
    let number = |at: usize, width: usize| {
        let field = bytes.get(at..at + width)?;
        Some(field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    };
    let Some(magic) = number(0, 4) else {
        let is_skippable =
            (0x50..=0x5f).contains(&bytes[0]) && [0x2a, 0x4d].starts_with(&bytes[1..]);
        return if MAGIC.starts_with(bytes) || is_skippable { Kind::Short } else { Kind::None };
    };
    if magic & !0xf == 0x184d_2a50 {
        return number(4, 4).map_or(Kind::Short, |size| Kind::Skippable { bytes: 8 + size });
    }
    if magic != u64::from(u32::from_le_bytes(MAGIC)) {
        return Kind::None;
    }
    let frame = || {
        let descriptor = number(4, 1)?;
        let is_single_segment = descriptor & 0x20 != 0;
        let dictionary_at = if is_single_segment { 5 } else { 6 };
        let dictionary_bytes = [0, 1, 2, 4][(descriptor & 3) as usize];
        let dictionary = number(dictionary_at, dictionary_bytes)?;
        let size_at = dictionary_at + dictionary_bytes;
        let window_bytes = if is_single_segment {
            // The content is the window.
            match descriptor >> 6 {
                0 => number(size_at, 1)?,
                1 => number(size_at, 2)? + 256,
                2 => number(size_at, 4)?,
                _ => number(size_at, 8)?,
            }
        } else {
            let window = number(5, 1)?;
            let base = 1 << (10 + (window >> 3));
            base + base / 8 * (window & 7)
        };
        Some(Kind::Frame { window_bytes, dictionary })
    };
    frame().unwrap_or(Kind::Short)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn frame(bytes: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_header_says_how_large_the_window_is() {
        for log in [10, 20, 27, 30] {
            let expected = Kind::Frame { window_bytes: 1 << log, dictionary: 0 };
            assert_eq!(kind(&frame(&[7; 5000], log)), expected);
        }
        let whole = zstd::bulk::compress(&[7; 5000], 1).unwrap();
        assert_eq!(kind(&whole), Kind::Frame { window_bytes: 5000, dictionary: 0 });
        assert_eq!(kind(&[0x5f, 0x2a, 0x4d, 0x18, 3, 1, 0, 0]), Kind::Skippable { bytes: 267 });
        assert_eq!(kind(b"{\"text"), Kind::None);
        for length in 1..6 {
            assert_eq!(kind(&whole[..length]), Kind::Short, "{length}");
        }
    }

    /// Sources return as much as they have, and readers ask for as much as they like.
    #[test]
    fn frames_are_joined_whatever_the_sizes_of_reads() {
        struct Trickle<'a>(&'a [u8], usize);
        impl Read for Trickle<'_> {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = buffer.len().min(self.1);
                self.0.read(&mut buffer[..count])
            }
        }
        let text: Vec<u8> = (0..40_000u32).flat_map(|i| (i * i).to_le_bytes()).collect();
        let skippable = [0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 9, 9].to_vec();
        let parts = [frame(&text, 17), skippable, frame(&[], 10), frame(&text[..77], 12)];
        let bytes = parts.concat();
        for (step, room) in [(1, 4096), (7, 1), (1000, 333), (1 << 20, 1 << 20)] {
            let consumed = Arc::new(AtomicU64::new(0));
            let trickle = Trickle(&bytes, step);
            let mut frames = Frames::new(trickle, "x".to_owned(), Arc::clone(&consumed)).unwrap();
            let (mut found, mut buffer) = (Vec::new(), vec![0; room]);
            while let count @ 1.. = frames.read(&mut buffer).unwrap() {
                found.extend_from_slice(&buffer[..count]);
            }
            assert!(found == [&text, &text[..77]].concat(), "{step} {room}");
            assert_eq!(consumed.load(Ordering::Relaxed), bytes.len() as u64);
        }
    }
}
