//! Writes lines to a file or a pipe so that none is torn: a partly written line is completed before the next.

use std::fs::File;
use std::io::{self, Write};
use std::time::Duration;

/// How long to wait before retrying a write to a full non-blocking pipe.
const RETRY: Duration = Duration::from_millis(10);

/// The destination of lines.
pub(crate) trait Output: Write + Send + 'static {
    /// The current size in bytes, if the output can be truncated; otherwise 0.
    fn length(&self) -> u64;
}

impl Output for File {
    fn length(&self) -> u64 {
        self.metadata().map_or(0, |metadata| metadata.len())
    }
}

/// An output, and the unwritten rest of a partly written line.
pub(crate) struct LineFile<O = File> {
    output: O,
    rest: Vec<u8>,
    /// The output's length after the written part of that line.
    length: u64,
}

/// Lines that could not be written.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) lines: u64,
    pub(crate) error: io::Error,
}

impl<O: Output> LineFile<O> {
    pub(crate) fn new(output: O) -> Self {
        Self { output, rest: Vec::new(), length: 0 }
    }

    /// Writes whole lines.
    ///
    /// # Errors
    /// When a write fails. A partly written line is not lost: the next call completes it, unless the file has been
    /// truncated in between.
    pub(crate) fn write(&mut self, lines: &[u8]) -> Result<(), Lost> {
        let lost = |lines: &[u8], error| Lost { lines: memchr::memchr_iter(b'\n', lines).count() as u64, error };
        if !self.rest.is_empty() {
            // A truncated file has lost the beginning of the line, too.
            if self.output.length() < self.length {
                self.rest.clear();
            }
            let (written, result) = write(&mut self.output, &self.rest);
            self.rest.drain(..written);
            if let Err(error) = result {
                self.length = self.output.length();
                return Err(lost(lines, error));
            }
        }
        let (written, result) = write(&mut self.output, lines);
        let Err(error) = result else { return Ok(()) };
        let torn = written > 0 && lines[written - 1] != b'\n';
        let resume = match memchr::memchr(b'\n', &lines[written..]) {
            Some(end) if torn => written + end + 1,
            _ => written,
        };
        self.rest.extend_from_slice(&lines[written..resume]);
        self.length = self.output.length();
        Err(lost(&lines[resume..], error))
    }
}

/// Writes all of `bytes`; returns how many were written and the error that stopped it.
fn write(output: &mut impl Output, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match output.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(RETRY),
            Err(error) => return (written, Err(error)),
        }
    }
    (written, Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with a limited capacity.
    #[derive(Default)]
    struct Disk {
        content: Vec<u8>,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.room - self.content.len());
            self.content.extend_from_slice(&bytes[..count]);
            if count == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(count) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Output for Disk {
        fn length(&self) -> u64 {
            self.content.len() as u64
        }
    }

    /// Invariant: every line in the file is complete, however full the disk is. Mechanism: a full disk took the
    /// beginning of a line, and the next line was written right after it. Symptom: one line that no parser accepts
    /// after the disk was emptied.
    #[test]
    fn a_full_disk_leaves_no_partial_line() {
        let batch = b"aaa\nbbb\nccc\n";
        for room in 0..=batch.len() {
            for is_emptied in [false, true] {
                let mut file = LineFile::new(Disk { content: Vec::new(), room });
                let lost = file.write(batch).map_or_else(|lost| lost.lines, |()| 0);
                // Another write while the disk is full.
                let full = file.write(b"ddd\n").map_or_else(|lost| lost.lines, |()| 0);
                assert_eq!(full, 1);
                if is_emptied {
                    file.output.content.clear();
                }
                file.output.room = 1000;
                file.write(b"eee\n").expect("room");
                let whole = match (is_emptied, room.div_ceil(4)) {
                    (true, _) => String::new(),
                    (false, lines) => String::from_utf8_lossy(&batch[..4 * lines]).into_owned(),
                };
                let content = String::from_utf8_lossy(&file.output.content);
                assert_eq!(content, format!("{whole}eee\n"), "room for {room}, emptied: {is_emptied}");
                assert_eq!(lost, 3 - room.div_ceil(4) as u64, "room for {room}");
            }
        }
    }
}
