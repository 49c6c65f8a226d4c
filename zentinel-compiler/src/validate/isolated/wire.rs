//! What parent and child say to each other.

use super::super::{ValidateOptions, pipeline};
use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, Serializer};
use std::io::{self, Write};

/// Longest list of findings in bytes. They are counted and cut, so a true one is much shorter.
const FINDINGS_LIMIT: usize = 8 << 20;
/// Longest parsed configuration in bytes that is handed over.
const PARSED_LIMIT: usize = 32 << 20;
/// Longest answer in bytes.
pub(super) const OUTPUT_LIMIT: u64 = (FINDINGS_LIMIT + PARSED_LIMIT) as u64;

/// What the child is asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Request {
    pub(super) text: String,
    pub(super) generated: bool,
    pub(super) options: ValidateOptions,
    /// Whether what was parsed is wanted as well.
    #[serde(default)]
    pub(super) hand_over: bool,
}

impl Request {
    /// The findings in JSON, and after a line end, if asked for and possible, what was parsed.
    pub(super) fn answer(&self) -> serde_json::Result<Vec<u8>> {
        let (diagnostics, config) = pipeline::examine(&self.text, self.generated, &self.options);
        let mut answer = serde_json::to_vec(&diagnostics)?;
        if let Some(config) = config.filter(|_| self.hand_over) {
            let before = answer.len();
            answer.push(b'\n');
            let bounded = Bounded { bytes: &mut answer, left: PARSED_LIMIT - 1 };
            if config.serialize(&mut Serializer::with_formatter(bounded, Exact)).is_err() {
                // The parent parses the text itself.
                answer.truncate(before);
            }
        }
        Ok(answer)
    }
}

/// What an answer says; none when it is not one. A configuration that cannot be read is left out.
pub(super) fn decode(answer: &[u8]) -> Option<pipeline::Examined> {
    // JSON on one line holds no line end.
    let mut parts = answer.splitn(2, |byte| *byte == b'\n');
    let diagnostics = serde_json::from_slice(parts.next()?).ok()?;
    let config = parts.next().and_then(|config| match serde_json::from_slice(config) {
        Ok(config) => Some(config),
        Err(error) => {
            tracing::debug!(%error, "what the validator parsed could not be read");
            None
        }
    });
    Some((diagnostics, config))
}

/// Refuses numbers that would be read as slightly different ones. (Infinite ones come as `null`; texts
/// that hold any are not handed over in the first place.)
struct Exact;

impl Formatter for Exact {
    fn write_f32<W: Write + ?Sized>(&mut self, writer: &mut W, value: f32) -> io::Result<()> {
        let written = serde_json::to_string(&value)?;
        if serde_json::from_str::<f32>(&written)?.to_bits() != value.to_bits() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        writer.write_all(written.as_bytes())
    }

    fn write_f64<W: Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        let written = serde_json::to_string(&value)?;
        if serde_json::from_str::<f64>(&written)?.to_bits() != value.to_bits() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        writer.write_all(written.as_bytes())
    }
}

/// Refuses more than a number of bytes.
struct Bounded<'a> {
    bytes: &'a mut Vec<u8>,
    left: usize,
}

impl Write for Bounded<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.left = self.left.checked_sub(buffer.len()).ok_or(io::ErrorKind::FileTooLarge)?;
        self.bytes.extend_from_slice(buffer);
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_without_a_readable_configuration_keeps_its_findings() {
        for (answer, known) in
            [("[]", true), ("[]\n", true), ("[]\n{\"server\":7}", true), ("", false), ("{}", false)]
        {
            let decoded = decode(answer.as_bytes());
            assert_eq!(decoded.is_some(), known, "{answer}");
            assert!(decoded.is_none_or(|(findings, config)| findings.is_empty() && config.is_none()));
        }
    }

    #[test]
    fn numbers_arrive_exactly_or_not_at_all() {
        let write = |value: f64| {
            let mut bytes = Vec::new();
            value.serialize(&mut Serializer::with_formatter(&mut bytes, Exact)).map(|()| bytes)
        };
        for value in [0.0, 0.1, 99.9, 1e300, f64::from(0.1_f32), 0.300_000_000_000_000_04, 5e-324, f64::MAX] {
            if let Ok(written) = write(value) {
                assert_eq!(serde_json::from_slice::<f64>(&written).unwrap().to_bits(), value.to_bits());
            }
        }
        assert_eq!(write(0.05).unwrap(), b"0.05");
    }

    #[test]
    fn what_is_written_is_bounded() {
        let mut bytes = Vec::new();
        let mut bounded = Bounded { bytes: &mut bytes, left: 5 };
        assert!(bounded.write_all(b"abc").is_ok());
        assert!(bounded.write_all(b"def").is_err());
        assert_eq!(bytes, b"abc");
    }
}
