//! The ports: what the control plane needs from the outside.
//!
//! Each is object-safe and passed as `Arc<dyn Port>`. Each documents its *contract*, its
//! *errors*, and the conformance function in `zentinel-store` that tests an implementation.

pub mod blob;
pub mod clock;
pub mod notifier;
pub mod probe;
pub mod scheduler;
pub mod shifter;
pub mod signer;
pub mod store;
pub mod validator;

pub use blob::{BlobMeta, BlobStore};
pub use clock::{Clock, ManualClock, SystemClock};
pub use notifier::{Delivery, Notifier};
pub use probe::HealthProbe;
pub use scheduler::{ClaimedJob, JobHandler, JobOutcome, NewJob, Queue, QueueStats, Schedule, Scheduler};
pub use shifter::{ShiftFailure, ShiftedNode, TrafficShift, TrafficShifter};
pub use signer::{PublicKey, Signature, Signer};
pub use store::{Notice, NoticeStream, Order, Query, Receipt, Store, StoreExt};
pub use validator::{ConfigValidator, Diagnostic, Examination, Severity};
