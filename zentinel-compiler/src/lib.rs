//! Compiles Zentinel KDL configuration into reproducible, signed bundles.
//!
//! The crate is a library call without a server: text in, signed archive out. Each stage is a value
//! that only the stage before it can make, so nothing is packed that was not validated and nothing
//! is signed that was not packed.
//!
//! ```text
//!   text, files                                     what runs now
//!       │                                                 │
//!       ▼            ┌──────────────┐                     ▼
//!  ┌────────┐        │  Validated   │   pack      ┌──────────────┐   sign   ┌────────┐
//!  │ Source │──────► │ model,       │───────────► │  Assembled   │────────► │ Signed │
//!  └────────┘ guards │ warnings     │   compare   │ archive,     │          └────────┘
//!   limits,   parse, └──────────────┘             │ SBOM, risk,  │           Ed25519
//!   paths     checks    or every problem          │ activation   │
//!                       with line and column      └──────────────┘
//! ```
//!
//! * [`source`]: what goes in, within limits.
//! * [`validate`]: guards, the proxy's own parser and the checks that it lacks; [`diagnostic`] lists
//!   the codes, [`document`] is the text as a tree with positions.
//! * [`pipeline`]: the stages and the [`Compiler`].
//! * [`archive`], [`manifest`], [`unpack`]: the reproducible `tar.zst`, documented byte by byte in
//!   [`bundle_format`].
//! * [`sbom`]: CycloneDX 1.5 from the parsed configuration.
//! * [`risk`], [`activation`], [`diff`]: what a change means, from the parsed configurations.
//! * [`bundle`]: bundles as records, the durable compile job, verification of what is stored.
//!
//! ```
//! use std::sync::Arc;
//! use zentinel_compiler::{Compiler, Source, validate::InProcessValidator};
//! use zentinel_core::{Scope, port::Signer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let kdl = include_str!("../tests/vectors/minimal/zentinel.kdl");
//! # let signer = zentinel_store::MemorySigner::generate();
//! let compiler = Compiler::new(Arc::new(InProcessValidator::default()));
//! let source = Source::new(kdl, Vec::new(), false)?;
//! let bundle = compiler.build(source, None, &signer, &Scope::Instance).await?;
//! assert_eq!(bundle.checksum(), zentinel_core::Sha256Digest::of(bundle.bytes()));
//! # let keys = signer.public_keys(&Scope::Instance).await?;
//! # assert!(keys[0].verify(bundle.bytes(), &bundle.signature().bytes));
//!
//! // The same source gives the same bytes; a changed one says what is risky about it.
//! let changed = Source::new(kdl.replace("127.0.0.1:8080", "0.0.0.0:8080"), Vec::new(), false)?;
//! let next = compiler.compile(changed, Some(kdl)).await?;
//! assert_eq!(next.findings()[0].code, "listener_exposed");
//! # Ok(())
//! # })
//! # }
//! ```

pub mod activation;
pub mod archive;
pub mod bundle;
pub mod diagnostic;
pub mod diff;
pub mod document;
pub mod manifest;
pub mod model;
pub mod pipeline;
pub mod risk;
pub mod sbom;
pub mod source;
pub mod unpack;
pub mod validate;

#[doc = include_str!("../docs/bundle_format.md")]
pub mod bundle_format {}

pub use pipeline::{CompileFailure, Compiler};
pub use source::{Source, SourceFile, SourceLimits};
