//! What a person sees: tables, colours on terminals, ages, and nothing that drives the terminal
//! but what this tool writes itself.

use console::{Term, measure_text_width, pad_str, style, truncate_str};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::OnceLock;
use uuid::Uuid;
use zentinel_core::{Error, Result, Timestamp};

/// Where answers go.
#[derive(Debug)]
pub(super) struct Screen {
    json: bool,
    out: Term,
    /// Why nothing more can be written.
    broken: OnceLock<std::io::Error>,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        Self { json, out: Term::stdout(), broken: OnceLock::new() }
    }

    /// Whether answers are JSON.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches.
    pub(super) fn is_live(&self) -> bool {
        !self.json && self.out.is_term()
    }

    /// Whether whoever read the answers went away: no reason to fail, but one to stop.
    pub(super) fn is_gone(&self) -> bool {
        self.broken.get().is_some()
    }

    /// Whether all that was to be answered was, or whoever read it had enough.
    ///
    /// # Errors
    /// `Unavailable` when it could not be written, as on a full disk.
    pub(super) fn finish(&self) -> Result<()> {
        match self.broken.get() {
            Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::unavailable(format!("the answer could not be written: {error}"))
                    .with_hint("the command itself was carried out"))
            }
            _ => Ok(()),
        }
    }

    /// One line of the answer.
    pub(super) fn line(&self, text: &str) {
        let written = (&self.out).write_all(format!("{text}\n").as_bytes()).and_then(|()| self.out.flush());
        self.note_failure(written);
    }

    fn note_failure(&self, written: std::io::Result<()>) {
        if let Err(error) = written {
            // The first one says why.
            drop(self.broken.set(error));
        }
    }

    /// The answer as one line of JSON.
    ///
    /// # Errors
    /// `Internal` when it cannot be written as JSON.
    pub(super) fn object(&self, value: &impl Serialize) -> Result<()> {
        self.line(&serde_json::to_string(value)?);
        Ok(())
    }

    /// The answer in the form that was asked for.
    ///
    /// # Errors
    /// As [`Self::object`].
    pub(super) fn answer(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        if self.json {
            return self.object(value);
        }
        self.line(&text());
        Ok(())
    }

    /// Something beside the answer, on stderr.
    pub(super) fn note(&self, text: &str) {
        drop(writeln!(std::io::stderr().lock(), "{text}"));
    }

    /// Replaces the `before` lines that were drawn last; answers how many there are now.
    pub(super) fn redraw(&self, before: usize, lines: &[String]) -> usize {
        let (height, width) = self.out.size();
        let room = usize::from(height).saturating_sub(1).max(1);
        self.note_failure(self.out.clear_last_lines(before.min(room)));
        let shown = &lines[..lines.len().min(room)];
        for line in shown {
            self.line(&truncate_str(line, usize::from(width).saturating_sub(1), "…"));
        }
        shown.len()
    }

    /// How many lines fit.
    pub(super) fn height(&self) -> usize {
        usize::from(self.out.size().0)
    }

    /// Asks a person to go on.
    ///
    /// # Errors
    /// `Invalid` when the answer is not yes or nobody can be asked.
    pub(super) fn confirm(&self, question: &str, yes: bool) -> Result<()> {
        use std::io::IsTerminal as _;
        if yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Error::invalid("nobody can be asked here").with_hint("say --yes to go on"));
        }
        drop(write!(std::io::stderr().lock(), "{question} [y/N] "));
        let mut answer = String::new();
        std::io::stdin()
            .read_line(&mut answer)
            .map_err(|error| Error::invalid("no answer could be read").with_source(error))?;
        match answer.trim() {
            "y" | "Y" | "yes" => Ok(()),
            _ => Err(Error::invalid("nothing was changed")),
        }
    }
}

/// A table: every column as wide as its widest cell, the last one not padded.
pub(super) fn table(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let widths: Vec<usize> = header
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).flat_map(|cell| cell.lines());
            cells.map(measure_text_width).chain([title.len()]).max().unwrap_or_default()
        })
        .collect();
    let line = |cells: &[String]| {
        let padded = cells
            .iter()
            .zip(&widths)
            .map(|(cell, width)| pad_str(cell, *width, console::Alignment::Left, None).into_owned());
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let titles: Vec<String> = header.iter().map(|title| style(title).bold().to_string()).collect();
    let rows = rows.iter().flat_map(|row| lines_of(row));
    std::iter::once(line(&titles)).chain(rows.map(|row| line(&row))).collect()
}

/// A row whose cells have several lines becomes several rows.
fn lines_of(row: &[String]) -> Vec<Vec<String>> {
    let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or_default().max(1);
    let nth = |place: usize| -> Vec<String> {
        row.iter().map(|cell| cell.lines().nth(place).unwrap_or_default().to_owned()).collect()
    };
    (0..height).map(nth).collect()
}

/// Lines of a name and its value.
pub(super) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    // Further lines of a value stand below its first.
    let below = format!("\n{:width$}  ", "");
    let lines = pairs.iter().map(|(name, value)| format!("{name:width$}  {}", value.replace('\n', &below)));
    lines.collect::<Vec<_>>().join("\n")
}

/// Text of others on one line, without what could drive the terminal.
pub(super) fn clean(text: &str) -> String {
    let lines = text.lines().map(str::trim_end).filter(|line| !line.is_empty());
    let visible = |line: &str| -> String {
        let visible = |c: char| if c == '\t' { ' ' } else { '\u{fffd}' };
        line.chars().map(|c| if c.is_control() { visible(c) } else { c }).collect()
    };
    lines.map(visible).collect::<Vec<_>>().join(" | ")
}

/// As [`clean`], with its lines.
pub(super) fn paragraph(text: &str) -> String {
    let lines = text.lines().map(clean).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

/// A state in its colour.
pub(super) fn state(word: &str) -> String {
    let styled = style(word);
    match word {
        "online" | "healthy" | "compiled" | "completed" | "active" => styled.green(),
        "offline" | "failed" | "revoked" | "error" => styled.red(),
        "unknown" | "paused" | "cancelled" | "warn" | "degraded" => styled.yellow(),
        "running" | "verifying" | "validating" | "compiling" => styled.cyan(),
        _ => styled,
    }
    .to_string()
}

/// The beginning of an id.
pub(super) fn short(id: Uuid) -> String {
    let text = id.to_string();
    text.split('-').next().unwrap_or_default().to_owned()
}

/// Labels as they are given on the command line.
pub(super) fn labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "-".to_owned();
    }
    clean(&labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(","))
}

/// How long ago an instant was.
pub(super) fn age(at: Option<Timestamp>, now: Timestamp) -> String {
    let Some(at) = at else {
        return "never".to_owned();
    };
    match (now - at).num_seconds().max(0) {
        seconds @ 0..120 => format!("{seconds}s ago"),
        seconds @ 120..7_200 => format!("{}m ago", seconds / 60),
        seconds @ 7_200..172_800 => format!("{}h ago", seconds / 3600),
        seconds => format!("{}d ago", seconds / 86_400),
    }
}

/// An instant, to the second.
pub(super) fn instant(at: Timestamp) -> String {
    at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    #[test]
    fn columns_line_up_and_text_of_others_drives_nothing() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["longer".to_owned(), "2".to_owned()]];
        let lines: Vec<String> = table(&["NAME", "X"], &rows)
            .iter()
            .map(|line| console::strip_ansi_codes(line).into_owned())
            .collect();
        assert_eq!(lines, ["NAME    X", "a       1", "longer  2"]);
        assert_eq!(clean("a\u{1b}[2Jb\n"), "a\u{fffd}[2Jb");
    }

    #[test]
    fn lines_stay_lines_where_there_is_room_for_them() {
        let text = "exited\r\n\n  at\tmain.rs\u{7}\n";
        assert_eq!(clean(text), "exited |   at main.rs\u{fffd}");
        assert_eq!(
            pairs(&[("why", paragraph(text)), ("name", "x".into())]),
            "why   exited\n        at main.rs\u{fffd}\nname  x"
        );
        let rows = vec![vec!["edge-1".to_owned(), paragraph("one\ntwo"), "3".to_owned()]];
        let lines = table(&["NODE", "WHY", "N"], &rows);
        assert_eq!(lines[1..], ["edge-1  one  3", "        two"]);
    }

    #[test]
    fn ages_read_well() {
        let now = Timestamp::UNIX_EPOCH + TimeDelta::days(10);
        let ago = |seconds| age(Some(now - TimeDelta::seconds(seconds)), now);
        assert_eq!([ago(-3), ago(119), ago(7_199), ago(7_200)], ["0s ago", "119s ago", "119m ago", "2h ago"]);
        assert_eq!((ago(864_000), age(None, now)), ("10d ago".to_owned(), "never".to_owned()));
    }
}
