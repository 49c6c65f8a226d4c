//! The software bill of materials: CycloneDX 1.5, from the parsed configuration.
//!
//! The document in the archive depends on the source alone: its serial number is derived from the
//! source's digest and it has no time. The one that is served says in addition which bundle it is
//! about and when that was compiled.

mod parts;

use crate::manifest::PROXY_VERSION;
use crate::model::Model;
use crate::source::Source;
use cyclonedx_bom::models::bom::{Bom, SpecVersion, UrnUuid};
use cyclonedx_bom::models::component::{Classification, Component, Components};
use cyclonedx_bom::models::dependency::{Dependencies, Dependency};
use cyclonedx_bom::models::metadata::Metadata;
use cyclonedx_bom::models::tool::{Tool, Tools};
use cyclonedx_bom::prelude::{DateTime, NormalizedString, Validate};
use parts::Parts;
use serde_json::Value;
use zentinel_core::id::BundleId;
use zentinel_core::{Error, Result, Timestamp};

/// What a served document says beside its components.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served<'a> {
    /// The bundle; also the document's serial number.
    pub bundle_id: BundleId,
    /// The bundle's version.
    pub version: &'a str,
    /// When it was compiled.
    pub compiled_at: Timestamp,
}

/// The document that goes into the archive: indented JSON and a final line feed.
///
/// # Errors
/// [`Kind::Internal`](zentinel_core::Kind::Internal) when the document is not valid CycloneDX.
pub fn archived(source: &Source, model: &Model) -> Result<Vec<u8>> {
    let digest = source.digest();
    let version = digest.to_string();
    let mut first = [0; 16];
    first.copy_from_slice(&digest.as_bytes()[..16]);
    // Version 8 of a UUID is the one for digests of the application's own choice.
    let serial = uuid::Builder::from_custom_bytes(first).into_uuid();
    let bom = document(source, model, serial, "zentinel-bundle", &version, None)?;
    emit(bom)
}

/// The document that is served for a bundle.
///
/// # Errors
/// [`Kind::Internal`](zentinel_core::Kind::Internal) when the document is not valid CycloneDX.
pub fn served(source: &Source, model: &Model, served: &Served<'_>) -> Result<Value> {
    use zentinel_core::id::TypedId;
    let time = served.compiled_at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let time = DateTime::try_from(time).map_err(|error| internal(&error))?;
    let reference = format!("bundle-{}", served.bundle_id);
    let serial = served.bundle_id.uuid();
    let bom = document(source, model, serial, &reference, served.version, Some(time))?;
    Ok(serde_json::from_slice(&emit(bom)?)?)
}

fn document(
    source: &Source,
    model: &Model,
    serial: uuid::Uuid,
    reference: &str,
    version: &str,
    timestamp: Option<DateTime>,
) -> Result<Bom> {
    let parts = Parts::of(source, model);
    let name = "zentinel-bundle";
    let bundle = Component::new(Classification::Application, name, version, Some(reference.to_owned()));
    let mut dependencies =
        vec![Dependency { dependency_ref: reference.to_owned(), dependencies: parts.top_level() }];
    dependencies.extend(parts.dependencies);
    Ok(Bom {
        version: 1,
        serial_number: Some(UrnUuid::new(format!("urn:uuid:{serial}")).map_err(|error| internal(&error))?),
        metadata: Some(Metadata {
            timestamp,
            tools: Some(Tools::List(vec![tool()])),
            authors: None,
            component: Some(bundle),
            manufacture: None,
            supplier: None,
            licenses: None,
            properties: None,
            lifecycles: None,
        }),
        components: Some(Components(parts.components)),
        services: None,
        external_references: None,
        dependencies: Some(Dependencies(dependencies)),
        compositions: None,
        properties: None,
        vulnerabilities: None,
        signature: None,
        annotations: None,
        formulation: None,
        spec_version: SpecVersion::V1_5,
    })
}

/// The compiler. Its version is that of the archive's layout, so that a release that changes
/// nothing about bundles changes no bundle.
fn tool() -> Tool {
    Tool {
        vendor: Some(NormalizedString::new("zentinel")),
        name: Some(NormalizedString::new("zentinel-compiler")),
        version: Some(NormalizedString::new(&crate::manifest::SCHEMA_VERSION.to_string())),
        hashes: None,
        external_references: None,
    }
}

/// The proxy that the configuration is for.
fn proxy(reference: String) -> Component {
    let mut component =
        Component::new(Classification::Application, "zentinel-proxy", PROXY_VERSION, Some(reference));
    component.group = Some(NormalizedString::new("zentinel"));
    component
}

fn emit(bom: Bom) -> Result<Vec<u8>> {
    let verdict = bom.validate_version(SpecVersion::V1_5);
    if !verdict.passed() {
        return Err(Error::internal(format!("the bill of materials is not valid: {verdict:?}")));
    }
    let mut bytes = Vec::new();
    bom.output_as_json_v1_5(&mut bytes).map_err(|error| internal(&error))?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn internal(error: &dyn std::fmt::Debug) -> Error {
    Error::internal("the bill of materials could not be written").with_source(format!("{error:?}"))
}

#[cfg(test)]
mod tests;
