//! The supervised proxy's log: one file that it appends to, and the one before it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// How much of the end is read for a message.
const TAIL: u64 = 8 << 10;
/// How many lines a message carries.
const LINES: usize = 12;
/// Longest text a message carries, in characters.
const LONGEST: usize = 2_000;

/// A log file of limited size. The proxy holds the file open for appending, so that it survives
/// the agent; the agent moves what is there to `<name>.1` when the file has grown to the limit.
#[derive(Clone, Debug)]
pub(super) struct ProxyLog {
    path: PathBuf,
    limit: u64,
}

impl ProxyLog {
    pub(super) fn new(directory: &Path, limit: u64) -> Self {
        Self { path: directory.join("proxy.log"), limit }
    }

    /// The file, for a new process to write to.
    pub(super) fn open(&self) -> std::io::Result<File> {
        OpenOptions::new().create(true).append(true).open(&self.path)
    }

    /// Makes room when the limit is reached. Lines written in between are lost.
    pub(super) fn turn_over(&self) -> std::io::Result<()> {
        let size = match std::fs::metadata(&self.path) {
            Ok(found) => found.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if size <= self.limit {
            return Ok(());
        }
        let before = self.path.with_extension("log.1");
        // Without room for a copy the newest lines matter more than the oldest.
        let copied = std::fs::copy(&self.path, &before).map(drop);
        OpenOptions::new().write(true).open(&self.path)?.set_len(0)?;
        copied
    }

    /// The last lines that are not empty, without colours.
    pub(super) fn tail(&self) -> Option<String> {
        let mut file = File::open(&self.path).ok()?;
        let length = file.metadata().ok()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes).ok()?;
        let text = last_lines(&String::from_utf8_lossy(&bytes));
        (!text.is_empty()).then_some(text)
    }
}

/// The last lines of an output, within what a message may carry.
pub(super) fn last_lines(output: &str) -> String {
    let plain = without_colours(output);
    let lines: Vec<&str> = plain.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    let text = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default().join("\n");
    let excess = text.chars().count().saturating_sub(LONGEST);
    text.chars().skip(excess).collect()
}

/// Leaves out terminal sequences and control characters.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            if characters.next_if_eq(&'[').is_some() {
                // Parameters end with a letter.
                while characters.next().is_some_and(|parameter| !parameter.is_ascii_alphabetic()) {}
            }
        } else if character == '\n' || character == '\t' || !character.is_control() {
            plain.push(character);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn the_end_of_the_log_is_readable() {
        let directory = tempfile::tempdir().unwrap();
        let log = ProxyLog::new(directory.path(), 100);
        assert_eq!(log.tail(), None);
        let mut file = log.open().unwrap();
        for line in 0..30 {
            writeln!(file, "\u{1b}[31mline {line}\u{1b}[0m\u{7}\n").unwrap();
        }
        let tail = log.tail().unwrap();
        assert!(tail.starts_with("line 18\n") && tail.ends_with("line 29"), "{tail}");
        assert_eq!(last_lines(&"x".repeat(5_000)).len(), LONGEST);
    }

    #[test]
    fn a_full_log_is_turned_over_while_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let log = ProxyLog::new(directory.path(), 10);
        log.turn_over().unwrap();
        let mut file = log.open().unwrap();
        file.write_all(b"short\n").unwrap();
        log.turn_over().unwrap();
        assert_eq!(log.tail().as_deref(), Some("short"));
        file.write_all(b"and more\n").unwrap();
        log.turn_over().unwrap();
        file.write_all(b"new\n").unwrap();
        assert_eq!(std::fs::read_to_string(directory.path().join("proxy.log")).unwrap(), "new\n");
        let before = std::fs::read_to_string(directory.path().join("proxy.log.1")).unwrap();
        assert_eq!(before, "short\nand more\n");
    }
}
