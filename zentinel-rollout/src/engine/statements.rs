//! Signed statements: without one a node activates nothing.

use super::Engine;
use zentinel_core::entity::{Activation, Bundle, BundleStatement, NodeTarget, Project};
use zentinel_core::id::{BundleId, RolloutId, StatementId, TypedId as _};
use zentinel_core::statement::Statement;
use zentinel_core::{Changes, Error, Result, Sha256Digest, Stored};

/// Issues statements with rising sequences within one unit of work. The project record carries
/// the last sequence; it is updated in the same commit, so that no sequence is given twice.
#[derive(Debug)]
pub(super) struct Issuer {
    read: Stored<Project>,
    project: Project,
    issued: Vec<BundleStatement>,
}

impl Issuer {
    pub(super) fn new(read: Stored<Project>) -> Self {
        Self { project: read.value.clone(), read, issued: Vec::new() }
    }

    /// A statement about a compiled bundle; the same one again for the same id.
    pub(super) async fn issue(
        &mut self,
        engine: &Engine,
        id: StatementId,
        bundle: &Bundle,
        way: Way,
    ) -> Result<Issued> {
        if let Some(issued) = self.issued.iter().find(|issued| issued.id == id) {
            return Ok(Issued::of(issued));
        }
        let (Some(archive_sha256), Some(archive_size)) = (bundle.checksum, bundle.size_bytes) else {
            return Err(Error::conflict("Bundle must be compiled before rollout"));
        };
        let now = engine.clock.now();
        // Not only the next one: a store that was restored from a backup has forgotten some that nodes remember.
        let seconds = u64::try_from(now.timestamp()).unwrap_or(0);
        self.project.last_sequence = self.project.last_sequence.saturating_add(1).max(seconds);
        let expires_at = now + engine.options.statement_validity;
        let statement = Statement {
            v: 1,
            project_id: bundle.project_id,
            bundle_id: bundle.id,
            sequence: self.project.last_sequence,
            archive_sha256,
            archive_size,
            activation: way.activation,
            compare: way.compare,
            issued_at: now.timestamp(),
            expires_at: expires_at.timestamp(),
            keys: Vec::new(),
        };
        let issued = BundleStatement {
            id,
            organisation_id: bundle.organisation_id,
            project_id: bundle.project_id,
            bundle_id: bundle.id,
            sequence: statement.sequence,
            expires_at,
            envelope: statement.sign(&*engine.signer, &bundle.scope()).await?,
            created_at: now,
        };
        let handle = Issued::of(&issued);
        self.issued.push(issued);
        Ok(handle)
    }

    /// Adds the statements and the new last sequence to the unit of work; nothing if none was issued.
    pub(super) fn commit_with(self, mut changes: Changes) -> Result<Changes> {
        if self.issued.is_empty() {
            return Ok(changes);
        }
        changes = changes.update(&self.read, &self.project)?;
        for statement in &self.issued {
            changes = changes.insert(statement)?;
        }
        Ok(changes)
    }
}

/// What a statement says about the way to its bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    activation: Activation,
    compare: bool,
}

/// The way to a bundle on nodes that run these bundles. What compiling found out about the bundle holds for
/// nodes that run its parent; about the way there from anything else, nothing is known, and each node compares.
pub(super) fn way(bundle: &Bundle, active: impl IntoIterator<Item = Option<BundleId>>) -> Way {
    let known = |active: Option<BundleId>| {
        active.is_some() && (active == bundle.parent_bundle_id || active == Some(bundle.id))
    };
    if active.into_iter().all(known) {
        Way { activation: bundle.activation, compare: false }
    } else {
        Way { activation: Activation::Restart, compare: true }
    }
}

/// The id of the statement about a bundle in a rollout: always the same one, so that a rollout
/// issues one statement per bundle however many engines work on it.
pub(super) fn statement_id(rollout: RolloutId, bundle: BundleId) -> StatementId {
    let digest = Sha256Digest::of(format!("statement/{rollout}/{bundle}").as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    StatementId::from_uuid(uuid::Builder::from_random_bytes(bytes).into_uuid())
}

/// What a target needs to know of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Issued {
    pub(super) statement_id: StatementId,
    pub(super) bundle_id: BundleId,
    pub(super) sequence: u64,
}

impl Issued {
    pub(super) fn of(statement: &BundleStatement) -> Self {
        Self { statement_id: statement.id, bundle_id: statement.bundle_id, sequence: statement.sequence }
    }

    pub(super) fn target(self, rollout_id: Option<RolloutId>, reason: Option<&str>) -> NodeTarget {
        NodeTarget {
            bundle_id: self.bundle_id,
            statement_id: self.statement_id,
            sequence: self.sequence,
            rollout_id,
            reason: reason.map(str::to_owned),
            forced: false,
        }
    }
}
