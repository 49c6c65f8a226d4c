//! Bundles: immutable compiled configuration.

use crate::id::{BundleId, OrganisationId, ProjectId, StatementId};
use crate::port::Diagnostic;
use crate::record::{Keys, Record, RecordKind};
use crate::scope::{Actor, Scope};
use crate::statement::Envelope;
use crate::value::{Sha256Digest, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The life of a bundle: `pending → compiling → compiled | failed`, `compiled → revoked | superseded`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleStatus {
    /// Waiting for its compile job.
    Pending,
    /// Being compiled.
    Compiling,
    /// Ready to be rolled out.
    Compiled,
    /// It has errors; see its diagnostics.
    Failed,
    /// Withdrawn by an operator.
    Revoked,
    /// A newer bundle runs everywhere it ran.
    Superseded,
}

impl BundleStatus {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Compiling => "compiling",
            Self::Compiled => "compiled",
            Self::Failed => "failed",
            Self::Revoked => "revoked",
            Self::Superseded => "superseded",
        }
    }

    /// Whether nodes may be given this bundle. A superseded one may come back by a rollback.
    #[must_use]
    pub fn is_deployable(self) -> bool {
        matches!(self, Self::Compiled | Self::Superseded)
    }
}

/// How dangerous a change looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RiskLevel {
    /// Nothing of note.
    #[default]
    Low,
    /// Look before you roll out.
    Medium,
    /// Protection or reachability changes.
    High,
}

impl RiskLevel {
    /// The wire name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// One reason for a risk level.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable snake-case code.
    pub code: String,
    /// How dangerous.
    pub level: RiskLevel,
    /// Why, in a sentence.
    pub message: String,
    /// Where in the configuration, for example `routes/api`.
    pub path: String,
}

/// What activating a bundle takes on the proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// SIGHUP is enough.
    #[default]
    Reload,
    /// Something changed that only a new process picks up.
    Restart,
}

/// Where a bundle's source came from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleOrigin {
    /// `api`, `services` or `git`.
    pub source_type: String,
    /// Commit or other reference.
    pub source_ref: Option<String>,
    /// Branch.
    pub source_branch: Option<String>,
    /// Repository.
    pub source_repo: Option<String>,
}

/// A compiled configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bundle {
    /// Its id.
    pub id: BundleId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// What people call it; unique in the project, 1 to 100 characters.
    pub version: String,
    /// Where it is in its life.
    pub status: BundleStatus,
    /// Whether the source came from our own generator: ignored keys are then errors.
    pub generated: bool,
    /// Where the source came from.
    pub origin: BundleOrigin,
    /// The level that the author gave; the compiler only raises it.
    pub declared_risk: RiskLevel,
    /// The greater of the declared and the computed level.
    pub risk_level: RiskLevel,
    /// Why.
    pub risk_findings: Vec<Finding>,
    /// The bundle it was compared with.
    pub parent_bundle_id: Option<BundleId>,
    /// What activating it takes, compared with the parent.
    pub activation: Activation,
    /// SHA-256 of the archive.
    pub checksum: Option<Sha256Digest>,
    /// Length of the archive in bytes.
    pub size_bytes: Option<u64>,
    /// Key of the archive in the blob store.
    pub storage_key: Option<String>,
    /// SHA-256 of `zentinel.kdl`.
    pub config_hash: Option<Sha256Digest>,
    /// The manifest inside the archive.
    pub manifest: Option<Value>,
    /// What the compiler said, errors first; a failed bundle keeps them all.
    pub diagnostics: Vec<Diagnostic>,
    /// Standard base64 of the Ed25519 signature over the archive.
    pub signature: Option<String>,
    /// The key that made it.
    pub signing_key_id: Option<String>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The person who made it, who cannot be the only one to approve its rollout; the API key where it
    /// belongs to nobody.
    #[serde(default)]
    pub author: Option<Actor>,
}

impl Bundle {
    /// The key under which a bundle's archive is stored.
    #[must_use]
    pub fn archive_key(project_id: ProjectId, id: BundleId) -> String {
        format!("bundles/{project_id}/{id}.tar.zst")
    }

    /// The scope that shows this bundle's project.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }
}

impl Record for Bundle {
    const KIND: RecordKind = RecordKind::Bundle;
    type Id = BundleId;
    fn id(&self) -> BundleId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            natural_key: Some(self.version.clone()),
            state: Some(self.status.as_str().to_owned()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}

/// A file that goes into the archive beside the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtraFile {
    /// Relative path with `/`, for example `plugins/geo.wasm` or `ca/root.pem`.
    pub path: String,
    /// Standard base64 of the content.
    pub content: String,
}

/// What a bundle was made from. Shares the bundle's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleSource {
    /// The bundle.
    pub bundle_id: BundleId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// The KDL text, byte for byte as handed in.
    pub config_source: String,
    /// Files beside it, by path.
    pub files: Vec<ExtraFile>,
    /// When it was handed in.
    pub created_at: Timestamp,
}

/// A bundle's software bill of materials, CycloneDX 1.5. Shares the bundle's id.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleSbom {
    /// The bundle.
    pub bundle_id: BundleId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// The document as served: with the bundle's id and its compile time.
    pub document: Value,
    /// When it was made.
    pub created_at: Timestamp,
}

macro_rules! bundle_part {
    ($type:ident) => {
        impl Record for $type {
            const KIND: RecordKind = RecordKind::$type;
            type Id = BundleId;
            fn id(&self) -> BundleId {
                self.bundle_id
            }
            fn created_at(&self) -> Timestamp {
                self.created_at
            }
            fn keys(&self) -> Keys {
                Keys::in_project(self.organisation_id, self.project_id)
            }
        }
    };
}

bundle_part!(BundleSource);
bundle_part!(BundleSbom);

/// A signed statement as issued; see [`crate::statement`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BundleStatement {
    /// Its id.
    pub id: StatementId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// The bundle it is about.
    pub bundle_id: BundleId,
    /// Its place in the project's order of deployments; unique in the project.
    pub sequence: u64,
    /// When nodes stop accepting it.
    pub expires_at: Timestamp,
    /// What nodes get.
    pub envelope: Envelope,
    /// When it was issued.
    pub created_at: Timestamp,
}

impl Record for BundleStatement {
    const KIND: RecordKind = RecordKind::BundleStatement;
    type Id = StatementId;
    fn id(&self) -> StatementId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys {
            natural_key: Some(self.sequence.to_string()),
            ..Keys::in_project(self.organisation_id, self.project_id)
        }
    }
}
