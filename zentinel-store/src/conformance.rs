//! The conformance suite: what every back end of a port must do.
//!
//! Each behaviour is one public async function that panics when the back end breaks its promise.
//! The macros turn them into named tests; they need `tokio` with `macros` and
//! `rt-multi-thread` among the dev-dependencies of the calling crate.
//!
//! ```
//! # extern crate async_trait;
//! use async_trait::async_trait;
//! use std::sync::Arc;
//! use zentinel_core::port::{Scheduler, Store};
//! use zentinel_store::MemoryStore;
//! use zentinel_store::conformance::{self, Backend, Guard};
//!
//! struct Memory;
//!
//! #[async_trait]
//! impl Backend for Memory {
//!     async fn fresh(&self) -> (Guard, Arc<dyn Store>, Arc<dyn Scheduler>) {
//!         let store = Arc::new(MemoryStore::new());
//!         (Guard::new(()), store.clone(), store)
//!     }
//! }
//!
//! conformance::store_suite!(Memory);
//! conformance::scheduler_suite!(Memory);
//! # fn main() {}
//! ```
//!
//! A durable back end implements [`Backend::reopen`] and adds [`durable_suite!`]. Use each macro
//! once per module. The suites of the other ports are plain functions; see their modules.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a case fails by panicking, as a test does")]

pub mod blob;
pub mod clock;
#[cfg(test)]
mod detection;
pub mod durable;
mod fixture;
pub mod notifier;
pub mod scheduler;
pub mod shifter;
pub mod signer;
pub mod store;
pub mod validator;

pub use crate::{durable_suite, scheduler_suite, store_suite};

use async_trait::async_trait;
use std::any::Any;
use std::fmt;
use std::sync::Arc;
use zentinel_core::port::{Scheduler, Store};

/// What a fresh back end lives on, such as a temporary directory or a database; dropping it may
/// remove everything.
pub struct Guard(Box<dyn Any + Send + Sync>);

impl Guard {
    /// Wraps whatever must live as long as the back end; `()` when nothing must.
    #[must_use]
    pub fn new(value: impl Any + Send + Sync) -> Self {
        Self(Box::new(value))
    }

    /// What was wrapped, if it is a `T`.
    #[must_use]
    pub fn get<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard(…)")
    }
}

/// A store and a scheduler under test. Both work on the same data.
#[async_trait]
pub trait Backend: Send + Sync {
    /// An empty back end that shares nothing with any other.
    async fn fresh(&self) -> (Guard, Arc<dyn Store>, Arc<dyn Scheduler>);

    /// Opens what `guard` stands for once more, as after a crash of the process: the earlier
    /// handles were dropped without any farewell. `None` where nothing is durable.
    async fn reopen(&self, _guard: &Guard) -> Option<(Arc<dyn Store>, Arc<dyn Scheduler>)> {
        None
    }
}

/// Makes one test of each named case.
#[doc(hidden)]
#[macro_export]
macro_rules! __conformance_cases {
    ($backend:expr, $module:ident: $($case:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $case() {
            $crate::conformance::$module::$case(&$backend).await;
        }
    )*};
}
