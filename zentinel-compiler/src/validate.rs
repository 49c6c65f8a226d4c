//! Checking configuration text before it is packed.
//!
//! Three validators implement [`ConfigValidator`](zentinel_core::port::ConfigValidator):
//! - [`InProcessValidator`]: guards, the proxy's own parser and validation on a thread with a large
//!   stack, unknown keys, and the checks that the proxy lacks;
//! - [`IsolatedValidator`]: the same in a child process with resource limits, so that no input can
//!   take the server down; the one to use for input from outside;
//! - [`ExternalValidator`]: any of them, and the `zentinel` program's second opinion.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use zentinel_compiler::validate::InProcessValidator;
//! use zentinel_core::port::ConfigValidator;
//! let findings = InProcessValidator::default().validate("routes {", false).await.unwrap();
//! assert_eq!((findings[0].code.as_str(), findings[0].line), ("unmatched-brace", Some(1)));
//! # });
//! ```

pub mod guard;

mod external;
mod in_process;
mod isolated;
mod locate;
pub(crate) mod parser;
mod pipeline;
mod rules;
mod shapes;
pub(crate) mod stack;

pub use external::{ExternalOptions, ExternalValidator};
pub use guard::Limits;
pub use in_process::InProcessValidator;
pub use isolated::{IsolatedOptions, IsolatedValidator, run_child_if_requested};
pub use pipeline::check;

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What a validator allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ValidateOptions {
    /// Size and nesting of the text.
    pub limits: Limits,
    /// Longest time for one text. What takes longer is a `validation-timeout` finding.
    pub time_limit: Duration,
    /// Texts checked at the same time; more wait.
    pub concurrency: usize,
    /// Most findings that are kept.
    pub max_findings: usize,
    /// Whether the recommendations of the proxy's linter are reported, as `info`.
    pub lint: bool,
}

impl Default for ValidateOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            time_limit: Duration::from_secs(60),
            concurrency: 2,
            max_findings: 500,
            lint: true,
        }
    }
}
