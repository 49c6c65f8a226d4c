//! The domain of the Zentinel control plane and its ports.
//!
//! Everything here is plain data and traits: no I/O, no SQL, no HTTP, no async runtime.
//! The other crates plug into it:
//!
//! ```text
//!   zentinel-store ──┐
//!   zentinel-compiler ┼──> zentinel-core <── zentinel-http <── zentinel-server
//!   zentinel-rollout ─┘
//! ```
//!
//! * [`entity`]: what the control plane knows (projects, nodes, bundles, rollouts, ...).
//! * [`record`]: how an entity becomes a row that any back end can store, and back.
//! * [`changes`]: the unit of work. Domain functions return a [`Changes`] value; the shell
//!   commits it in one transaction through [`port::Store`].
//! * [`port`]: the traits that back ends implement.
//! * [`statement`]: the signed statement a node checks before it runs a bundle.
//!
//! ```
//! use zentinel_core::{entity::Organisation, Changes, Scope};
//!
//! # fn main() -> Result<(), zentinel_core::Error> {
//! let now = chrono::DateTime::UNIX_EPOCH;
//! let organisation = Organisation::new("Example", now)?;
//! assert_eq!(organisation.slug.as_str(), "example");
//! let changes = Changes::new().insert(&organisation)?;
//! assert_eq!(changes.writes.len(), 1);
//! assert!(Scope::Instance.contains(Some(organisation.id), None));
//! # Ok(())
//! # }
//! ```

pub mod changes;
pub mod credential;
pub mod entity;
pub mod error;
pub mod id;
pub mod log;
pub mod page;
pub mod port;
pub mod presign;
pub mod record;
pub mod scope;
pub mod secret;
pub mod statement;
pub mod value;

pub use changes::{Changes, Write};
pub use error::{Error, Kind, Result};
pub use page::{Page, PageRequest};
pub use record::{Record, RecordKind, Revision, Row, Stored};
pub use scope::{Actor, Scope};
pub use secret::Secret;
pub use value::{Percent, Sha256Digest, Slug, Timestamp};
