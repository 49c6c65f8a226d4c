//! Compiles Zentinel KDL configuration into reproducible, signed bundles.

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
