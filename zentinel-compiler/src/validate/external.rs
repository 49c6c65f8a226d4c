//! The `zentinel` program's second opinion.

use crate::diagnostic::{Code, Finding, has_errors, sort};
use crate::document::Document;
use async_trait::async_trait;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tempfile::NamedTempFile;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;
use tokio::time::timeout;
use zentinel_core::error::{Error, Result};
use zentinel_core::port::{ConfigValidator, Diagnostic, Examination};

/// Most of the program's output that is read from each of its streams, in bytes.
const OUTPUT_LIMIT: u64 = 64 << 10;

/// How the program is run.
#[derive(Clone, Debug)]
pub struct ExternalOptions {
    /// The `zentinel` program. A name without a directory is looked up in this process's `PATH`.
    pub program: PathBuf,
    /// Longest time for one text.
    pub time_limit: Duration,
}

impl ExternalOptions {
    /// This program, with a time limit of 30 s.
    #[must_use]
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into(), time_limit: Duration::from_secs(30) }
    }
}

/// Asks another validator first and, if that finds no error, runs `zentinel test -c FILE`.
///
/// The program runs offline, without a shell, with an empty environment, in the root directory, on
/// a private temporary file that is removed afterwards. Paths of static files and agent sockets are
/// replaced in that file, because the program would look for them on this machine. When the program
/// refuses the text that is an `external-validator` finding; when it cannot be started, the warning
/// `external-validator-missing`.
#[derive(Clone, Debug)]
pub struct ExternalValidator {
    inner: Arc<dyn ConfigValidator>,
    options: ExternalOptions,
}

impl ExternalValidator {
    /// A second opinion after `inner`.
    #[must_use]
    pub fn new(inner: Arc<dyn ConfigValidator>, options: ExternalOptions) -> Self {
        Self { inner, options }
    }

    async fn with_second_opinion(
        &self,
        mut diagnostics: Vec<Diagnostic>,
        kdl: &str,
    ) -> Result<Vec<Diagnostic>> {
        if !has_errors(&diagnostics) {
            diagnostics.extend(self.second_opinion(kdl).await?.map(Diagnostic::from));
            sort(&mut diagnostics);
        }
        Ok(diagnostics)
    }

    async fn second_opinion(&self, kdl: &str) -> Result<Option<Finding>> {
        let text = without_local_paths(kdl);
        let file = tokio::task::spawn_blocking(move || write(&text))
            .await
            .map_err(|error| Error::internal("the temporary file was not written").with_source(error))?
            .map_err(|error| Error::unavailable("no temporary file could be written").with_source(error))?;
        let finding = match timeout(self.options.time_limit, self.run(file.path())).await {
            Ok(Ok(finding)) => finding,
            Ok(Err(error)) => Some(self.missing(&error)),
            Err(_) => {
                let message = format!("{} took longer than {:?}", self.name(), self.options.time_limit);
                Some(Finding::new(Code::ExternalValidator, message))
            }
        };
        if let Err(error) = file.close() {
            tracing::warn!(%error, "the temporary file of the external validator was not removed");
        }
        Ok(finding)
    }

    async fn run(&self, file: &Path) -> io::Result<Option<Finding>> {
        let mut child = Command::new(&self.options.program)
            .arg("test")
            .arg("-c")
            .arg(file)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let (status, stdout, stderr) = tokio::join!(child.wait(), head(stdout), head(stderr));
        let status = status?;
        Ok((!status.success()).then(|| refused(status, &stdout, &stderr)))
    }

    fn missing(&self, error: &io::Error) -> Finding {
        Finding::new(Code::ExternalValidatorMissing, format!("{} could not be run: {error}", self.name()))
            .help("fix the path of the program in the settings, or remove it")
    }

    fn name(&self) -> String {
        self.options.program.display().to_string()
    }
}

#[async_trait]
impl ConfigValidator for ExternalValidator {
    async fn validate(&self, kdl: &str, generated: bool) -> Result<Vec<Diagnostic>> {
        let diagnostics = self.inner.validate(kdl, generated).await?;
        self.with_second_opinion(diagnostics, kdl).await
    }

    async fn examine(&self, kdl: &str, generated: bool) -> Result<Examination> {
        let mut examined = self.inner.examine(kdl, generated).await?;
        examined.diagnostics = self.with_second_opinion(examined.diagnostics, kdl).await?;
        Ok(examined)
    }
}

fn write(text: &str) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new().prefix("zentinel-").suffix(".kdl").tempfile()?;
    file.write_all(text.as_bytes())?;
    file.flush()?;
    Ok(file)
}

/// The beginning of a stream. The rest is read and dropped, or the program would wait for us.
async fn head(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else {
        return String::new();
    };
    let mut head = Vec::new();
    let read = (&mut stream).take(OUTPUT_LIMIT).read_to_end(&mut head).await;
    let rest = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
    if let Err(error) = read.and(rest.map(|_| 0)) {
        tracing::debug!(%error, "the external validator's output ended early");
    }
    String::from_utf8_lossy(&head).into_owned()
}

fn refused(status: ExitStatus, stdout: &str, stderr: &str) -> Finding {
    let said = if stderr.trim().is_empty() { stdout } else { stderr };
    let said = plain(said);
    // The stack trace after the chain of causes says nothing to the reader.
    let said = said.split("Stack backtrace").next().unwrap_or(&said).trim();
    let finding =
        Finding::new(Code::ExternalValidator, format!("zentinel test refuses the configuration ({status})"));
    if said.is_empty() { finding } else { finding.help(said) }
}

/// Without colours and other control characters.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\u{1b}' {
            // `ESC [ ... letter`
            for skipped in characters.by_ref() {
                if skipped.is_ascii_alphabetic() {
                    break;
                }
            }
        } else if character == '\n' || !character.is_control() {
            plain.push(character);
        }
    }
    plain
}

/// The text with every static root and agent socket replaced by the root directory.
fn without_local_paths(text: &str) -> String {
    let replaced = |node: crate::document::Node<'_>| {
        matches!(
            (node.parent_name(), node.name()),
            (Some("static-files"), "root") | (Some("agent"), "unix-socket") | (Some("unix-socket"), "path")
        )
    };
    let Ok(document) = Document::parse(text) else {
        return text.to_owned();
    };
    let mut spans: Vec<_> = document
        .nodes()
        .filter(|node| replaced(*node))
        .filter_map(|node| node.arguments().first())
        .map(|argument| argument.span.clone())
        .collect();
    spans.sort_by_key(|span| std::cmp::Reverse(span.start));
    let mut text = text.to_owned();
    for span in spans {
        text.replace_range(span, "\"/\"");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_are_replaced() {
        let text = "routes { route \"r\" { static-files { root   #\"/srv/é\"#; index \"i\" } } }\n\
            agents { agent \"a\" { unix-socket \"/run/a.sock\" } }\n";
        assert_eq!(
            without_local_paths(text),
            "routes { route \"r\" { static-files { root   \"/\"; index \"i\" } } }\n\
            agents { agent \"a\" { unix-socket \"/\" } }\n"
        );
    }

    #[test]
    fn colours_are_removed() {
        assert_eq!(plain("\u{1b}[31mError:\u{1b}[0m no\r\nway"), "Error: no\nway");
    }
}
