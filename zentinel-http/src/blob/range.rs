//! `Range` headers (RFC 9110, section 14).

use std::ops::Range;

/// What of a blob is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Selection {
    /// Nothing: the caller has it.
    NotModified,
    /// All of it.
    Whole,
    /// These bytes, at least one.
    Part(Range<u64>),
    /// Nothing of it lies in the range.
    Unsatisfiable,
}

/// Reads a `Range` header. What is no single byte range is ignored, as the RFC allows.
pub(super) fn select(header: &str, size: u64) -> Selection {
    let Some((first, last)) = header
        .trim()
        .strip_prefix("bytes=")
        .filter(|ranges| !ranges.contains(','))
        .and_then(|range| range.split_once('-'))
    else {
        return Selection::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // Beyond u64 is beyond every blob.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    let (first, last) = (first.trim(), last.trim());
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        _ => return Selection::Whole,
    };
    if range.is_empty() { Selection::Unsatisfiable } else { Selection::Part(range) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn single_ranges() {
        for (header, expected) in [
            ("bytes=0-0", Selection::Part(0..1)),
            ("bytes=2-", Selection::Part(2..10)),
            ("bytes=2-99", Selection::Part(2..10)),
            ("bytes=-3", Selection::Part(7..10)),
            ("bytes=-99", Selection::Part(0..10)),
            ("bytes=0-99999999999999999999999", Selection::Part(0..10)),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=99999999999999999999999-", Selection::Unsatisfiable),
            ("bytes=3-2", Selection::Whole),
            ("bytes=0-1,3-4", Selection::Whole),
            ("bytes=", Selection::Whole),
            ("bytes=-", Selection::Whole),
            ("bytes=+1-2", Selection::Whole),
            ("items=0-1", Selection::Whole),
        ] {
            assert_eq!(select(header, 10), expected, "{header}");
        }
        assert_eq!(select("bytes=0-", 0), Selection::Unsatisfiable);
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_blob(header in "bytes=[0-9]{0,21}-[0-9]{0,21}", size in any::<u64>()) {
            if let Selection::Part(part) = select(&header, size) {
                prop_assert!(part.start < part.end && part.end <= size);
            }
        }

        #[test]
        fn no_header_panics(header in ".{0,40}", size in any::<u64>()) {
            select(&header, size);
        }
    }
}
