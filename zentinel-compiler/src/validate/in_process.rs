//! Checking in this process.

use super::{ValidateOptions, pipeline, stack};
use crate::diagnostic::{Code, Finding};
use async_trait::async_trait;
use std::sync::Arc;
use std::thread;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;
use zentinel_core::error::{Error, Result};
use zentinel_core::port::{ConfigValidator, Diagnostic, Examination};

/// Checks texts in this process: guards, then the proxy's parser on a thread with a 64 MiB stack.
///
/// The guards let only well-formed, shallow text through, so the parser neither overflows its stack
/// nor recovers from errors. Against its unknown defects this is not a sandbox; for text from
/// outside use [`IsolatedValidator`](super::IsolatedValidator). A parse that exceeds its time cannot
/// be stopped either: its thread runs on and keeps its place among the concurrent ones, so that
/// runaway parses never add up.
#[derive(Clone, Debug)]
pub struct InProcessValidator {
    options: Arc<ValidateOptions>,
    places: Arc<Semaphore>,
}

impl InProcessValidator {
    /// A validator with the given options.
    #[must_use]
    pub fn new(options: ValidateOptions) -> Self {
        let places = Arc::new(Semaphore::new(options.concurrency.max(1)));
        Self { options: Arc::new(options), places }
    }
}

impl Default for InProcessValidator {
    fn default() -> Self {
        Self::new(ValidateOptions::default())
    }
}

/// Waits for a place among the concurrent checks, at most as long as one check may take.
pub(super) async fn place(
    places: &Arc<Semaphore>,
    options: &ValidateOptions,
) -> Result<OwnedSemaphorePermit> {
    match timeout(options.time_limit, Arc::clone(places).acquire_owned()).await {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(error)) => Err(Error::internal("the validator is closed").with_source(error)),
        Err(_) => Err(Error::unavailable("the validator is busy; try again later")),
    }
}

/// The finding for a text that takes too long.
pub(super) fn timed_out(options: &ValidateOptions) -> Diagnostic {
    let message = format!("the check took longer than {:?} and was given up", options.time_limit);
    Finding::new(Code::ValidationTimeout, message)
        .help("simplify the configuration, or raise the time limit")
        .into()
}

/// What a validator answers.
pub(super) fn examination((diagnostics, config): pipeline::Examined) -> Examination {
    Examination { diagnostics, parsed: config.map(|config| Box::new(config) as Box<_>) }
}

/// What is too long is refused before it is copied anywhere.
pub(super) fn too_large(kdl: &str, options: &ValidateOptions) -> Option<Vec<Diagnostic>> {
    (kdl.len() > options.limits.max_bytes).then(|| pipeline::check(kdl, false, options))
}

#[async_trait]
impl ConfigValidator for InProcessValidator {
    async fn validate(&self, kdl: &str, generated: bool) -> Result<Vec<Diagnostic>> {
        Ok(self.examine(kdl, generated).await?.diagnostics)
    }

    async fn examine(&self, kdl: &str, generated: bool) -> Result<Examination> {
        if let Some(refusal) = too_large(kdl, &self.options) {
            return Ok(refusal.into());
        }
        let permit = place(&self.places, &self.options).await?;
        let (done, result) = oneshot::channel();
        let (text, options) = (kdl.to_owned(), Arc::clone(&self.options));
        // Not a blocking task of the runtime: that would have to end before the process can.
        thread::Builder::new()
            .name("validator".to_owned())
            .stack_size(stack::STACK_BYTES)
            .spawn(move || {
                let examined = pipeline::examine_here(&text, generated, &options);
                drop(permit);
                // Nobody waits any more after the time limit.
                drop(done.send(examined));
            })
            .map_err(|error| Error::unavailable("no thread for the validator").with_source(error))?;
        match timeout(self.options.time_limit, result).await {
            Ok(Ok(examined)) => Ok(examination(examined)),
            Ok(Err(error)) => Err(Error::internal("the validator's thread ended early").with_source(error)),
            Err(_) => Ok(vec![timed_out(&self.options)].into()),
        }
    }
}
