//! Back ends for the ports of [`zentinel_core`], the worker pool that runs background jobs, and
//! the conformance suite that tests any back end.
//!
//! | Port | Back end | Feature | Use it for |
//! |---|---|---|---|
//! | `Store`, `Scheduler` | [`MemoryStore`] | always there | tests, simulations, demos |
//! | `Store`, `Scheduler` | `SqliteStore` | `sqlite` | one server, one file |
//! | `Store`, `Scheduler` | `PostgresStore` | `postgres` | several replicas |
//! | `BlobStore` | `ObjectBlobStore` | `object-store` | memory, a directory, S3 or MinIO |
//! | `Signer` | `MemorySigner`, `PemFileSigner` | always there | tests; one key from a file |
//! | `Signer` | `SealedSigner` | `sealed-signer` | one key per organisation, encrypted in the store |
//! | `Notifier` | [`RecordingNotifier`] | always there | tests |
//! | `TrafficShifter` | [`RecordingShifter`] | always there | tests |
//!
//! `conformance` adds the suite of the same name. All features but that one are on by default.
//!
//! ```
//! use std::sync::Arc;
//! use zentinel_core::entity::Organisation;
//! use zentinel_core::port::{Clock, Store, StoreExt, SystemClock};
//! use zentinel_core::{Changes, Scope};
//! use zentinel_store::MemoryStore;
//!
//! # async fn example() -> zentinel_core::Result<()> {
//! let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
//! let organisation = Organisation::new("Example", SystemClock.now())?;
//! store.commit(Changes::new().insert(&organisation)?).await?;
//! let read = store.fetch::<Organisation>(&Scope::Instance, organisation.id).await?;
//! assert_eq!(read.value, organisation);
//! # Ok(())
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
//! ```

pub mod memory;
pub mod notifier;
pub mod runner;
pub mod shifter;
pub mod signer;

#[cfg(feature = "object-store")]
pub mod blob;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "postgres")]
pub mod postgres;
#[cfg(feature = "sqlite")]
pub mod sqlite;

// What the back ends share: the cursor of lists, audit entries and events as log rows, what
// watchers are told, the next instant of a schedule; and between the SQL back ends, their statements.
mod cursor;
mod journal;
mod notice;
mod schedule;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
mod sql;

#[cfg(feature = "object-store")]
pub use blob::{ObjectBlobStore, S3Options};
pub use memory::MemoryStore;
pub use notifier::RecordingNotifier;
#[cfg(feature = "postgres")]
pub use postgres::PostgresStore;
pub use runner::{Runner, RunnerOptions, RunnerStats};
pub use shifter::RecordingShifter;
#[cfg(feature = "sealed-signer")]
pub use signer::{MasterKey, SealedSigner};
pub use signer::{MemorySigner, PemFileSigner};
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteOptions, SqliteStore};
