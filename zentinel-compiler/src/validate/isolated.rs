//! Checking in a child process.

mod child;
mod limits;
mod wire;

pub use child::run_child_if_requested;

use super::ValidateOptions;
use super::in_process::{examination, place, timed_out, too_large};
use crate::diagnostic::{Code, Finding};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use wire::{OUTPUT_LIMIT, Request};
use zentinel_core::error::{Error, Result};
use zentinel_core::port::{ConfigValidator, Diagnostic, Examination};

/// The environment variable that makes a program the child.
pub(crate) const MARKER: &str = "ZENTINEL_VALIDATOR_CHILD";
/// What the child says first, so that any other program is told from a crashed child.
pub(crate) const HELLO: &[u8] = b"zentinel-validator 1\n";

/// How the child is started.
#[derive(Clone, Debug)]
pub struct IsolatedOptions {
    /// Limits of the check itself.
    pub validate: ValidateOptions,
    /// The program to start; none: the current one. Its `main` must call
    /// [`run_child_if_requested`] first.
    pub program: Option<PathBuf>,
    /// Its arguments, which only matter to the program.
    pub arguments: Vec<OsString>,
    /// Memory (address space) of the child in bytes. Unix only.
    pub memory_limit: u64,
    /// Longest time until the child has started.
    pub start_limit: Duration,
}

impl Default for IsolatedOptions {
    fn default() -> Self {
        Self {
            validate: ValidateOptions::default(),
            program: None,
            arguments: Vec::new(),
            memory_limit: 1 << 30,
            start_limit: Duration::from_secs(10),
        }
    }
}

/// Checks texts in a child process, so that no text can take this one down.
///
/// The child is the current program, started again with an empty environment, the root directory as
/// working directory and, on Unix, limits on memory, processor time and files: it cannot open or
/// write any file. It gets the text over standard input, answers over standard output and is killed
/// when it takes too long or nobody waits any more. A child that dies is a `parser-crashed` finding.
///
/// Each child sees one text. After the first one, another child is kept started: it waits for the next
/// text, so that nobody waits for its start, and ends with the validator or its process.
///
/// ```no_run
/// use std::process::ExitCode;
/// use zentinel_compiler::validate::{IsolatedValidator, run_child_if_requested};
///
/// fn main() -> ExitCode {
///     if run_child_if_requested() {
///         return ExitCode::SUCCESS;
///     }
///     let validator = IsolatedValidator::default();
///     // ...
/// #   drop(validator);
///     ExitCode::SUCCESS
/// }
/// ```
#[derive(Clone, Debug)]
pub struct IsolatedValidator {
    options: Arc<IsolatedOptions>,
    places: Arc<Semaphore>,
    /// Started, and given no text yet.
    spare: Arc<Mutex<Option<Child>>>,
}

impl IsolatedValidator {
    /// A validator with the given options.
    #[must_use]
    pub fn new(options: IsolatedOptions) -> Self {
        let places = Arc::new(Semaphore::new(options.validate.concurrency.max(1)));
        Self { options: Arc::new(options), places, spare: Arc::default() }
    }

    /// The spare child, if it seems to live.
    fn take_spare(&self) -> Option<Child> {
        let spare = self.spare.lock().take();
        spare.and_then(|mut child| matches!(child.try_wait(), Ok(None)).then_some(child))
    }

    /// Keeps a child ready for the next text. Nobody has to wait for it, and if it cannot be started, the
    /// next text will find out why.
    fn keep_spare(&self) {
        let mut spare = self.spare.lock();
        if spare.is_none() {
            *spare = self.spawn().ok();
        }
    }

    fn spawn(&self) -> Result<Child> {
        if std::env::var_os(MARKER).is_some() {
            let message = "the program was started as a validator but did not run as one";
            return Err(Error::internal(message).with_hint("call run_child_if_requested() first in main"));
        }
        let program = match &self.options.program {
            Some(program) => program.clone(),
            None => current_program()?,
        };
        Command::new(&program)
            .args(&self.options.arguments)
            .env_clear()
            .env(MARKER, self.options.memory_limit.to_string())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                Error::unavailable(format!(
                    "the validator {} could not be started: {error}",
                    program.display()
                ))
                .with_source(error)
            })
    }

    /// What the child says; the inner error is how it died.
    async fn converse(
        &self,
        child: &mut Child,
        request: &[u8],
    ) -> Result<std::result::Result<Examination, ExitStatus>> {
        let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::internal("the validator has no pipes"));
        };
        let mut hello = [0_u8; HELLO.len()];
        let greeted = timeout(self.options.start_limit, stdout.read_exact(&mut hello)).await;
        if !matches!(greeted, Ok(Ok(_))) || hello != HELLO {
            let message = "the program started as a validator is not one";
            return Err(Error::internal(message).with_hint(
                "its main must call zentinel_compiler::validate::run_child_if_requested() first",
            ));
        }
        // A child that dies while it is written to or read from shows in its exit status.
        let send = async {
            let sent = stdin.write_all(request).await;
            drop(stdin);
            sent
        };
        let mut answer = Vec::new();
        let mut limited = stdout.take(OUTPUT_LIMIT + 1);
        let receive = limited.read_to_end(&mut answer);
        let (sent, received) = tokio::join!(send, receive);
        drop(limited);
        let status = child
            .wait()
            .await
            .map_err(|error| Error::unavailable("the validator's end was not seen").with_source(error))?;
        if let Err(error) = sent.and(received.map(drop)) {
            tracing::debug!(%error, %status, "the conversation with the validator ended early");
        }
        let answer = crate::pipeline::blocking(move || wire::decode(&answer)).await?;
        Ok(match answer {
            Some(answer) if status.success() => Ok(examination(answer)),
            _ => Err(status),
        })
    }

    async fn ask(&self, kdl: &str, generated: bool, hand_over: bool) -> Result<Examination> {
        let options = &self.options.validate;
        if let Some(refusal) = too_large(kdl, options) {
            return Ok(refusal.into());
        }
        let request = Request { text: kdl.to_owned(), generated, options: options.clone(), hand_over };
        let request = serde_json::to_vec(&request)?;
        let _permit = place(&self.places, options).await?;
        if let Some(spare) = self.take_spare() {
            // One that was about to end anyway says nothing about the text; a new one confirms what is.
            if let Some(Ok(Ok(examination))) = self.talk(spare, &request).await {
                return Ok(examination);
            }
        }
        match self.talk(self.spawn()?, &request).await {
            Some(answer) => Ok(answer?.unwrap_or_else(|status| vec![crashed(status)].into())),
            None => Ok(vec![timed_out(options)].into()),
        }
    }

    /// Gives a child its text, and keeps another one ready if it answers. `None` when the time is up.
    async fn talk(
        &self,
        mut child: Child,
        request: &[u8],
    ) -> Option<Result<std::result::Result<Examination, ExitStatus>>> {
        let answer = timeout(self.options.validate.time_limit, self.converse(&mut child, request)).await;
        if matches!(answer, Ok(Ok(Ok(_)))) {
            self.keep_spare();
        } else {
            // Killing also happens on drop; waiting for the end frees its resources at once.
            drop(child.kill().await);
        }
        answer.ok()
    }
}

impl Default for IsolatedValidator {
    fn default() -> Self {
        Self::new(IsolatedOptions::default())
    }
}

/// On Linux the running program itself, even when its file was replaced meanwhile.
fn current_program() -> Result<PathBuf> {
    let own = PathBuf::from("/proc/self/exe");
    if cfg!(target_os = "linux") && own.exists() {
        return Ok(own);
    }
    std::env::current_exe()
        .map_err(|error| Error::unavailable("the current program's file is not known").with_source(error))
}

fn crashed(status: ExitStatus) -> Diagnostic {
    Finding::new(Code::ParserCrashed, format!("the parser died on this text ({status})"))
        .help("simplify the configuration; please report it with the text")
        .into()
}

#[async_trait]
impl ConfigValidator for IsolatedValidator {
    async fn validate(&self, kdl: &str, generated: bool) -> Result<Vec<Diagnostic>> {
        Ok(self.ask(kdl, generated, false).await?.diagnostics)
    }

    async fn examine(&self, kdl: &str, generated: bool) -> Result<Examination> {
        self.ask(kdl, generated, true).await
    }
}
