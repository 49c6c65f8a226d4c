//! How an entity becomes a row that any back end can store.
//!
//! A back end never knows entities. It stores [`Row`]s: a few indexed columns and a JSON body.
//! Entities implement [`Record`]; [`StoreExt`](crate::port::StoreExt) converts at the edge.
//! Adding a kind of record is one enum variant, one `impl Record`, one table.

use crate::error::Result;
use crate::id::{OrganisationId, ProjectId, TypedId};
use crate::value::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

/// Every kind of record, and the name of its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RecordKind {
    /// [`Organisation`](crate::entity::Organisation)
    Organisation,
    /// [`Project`](crate::entity::Project)
    Project,
    /// [`User`](crate::entity::User)
    User,
    /// [`Membership`](crate::entity::Membership)
    Membership,
    /// [`ApiKey`](crate::entity::ApiKey)
    ApiKey,
    /// [`RegistrationToken`](crate::entity::RegistrationToken)
    RegistrationToken,
    /// [`SigningKey`](crate::entity::SigningKey)
    SigningKey,
    /// [`Node`](crate::entity::Node)
    Node,
    /// [`NodeReport`](crate::entity::NodeReport)
    NodeReport,
    /// [`NodeConfig`](crate::entity::NodeConfig)
    NodeConfig,
    /// [`NodeGroup`](crate::entity::NodeGroup)
    NodeGroup,
    /// [`Bundle`](crate::entity::Bundle)
    Bundle,
    /// [`BundleSource`](crate::entity::BundleSource)
    BundleSource,
    /// [`BundleSbom`](crate::entity::BundleSbom)
    BundleSbom,
    /// [`BundleStatement`](crate::entity::BundleStatement)
    BundleStatement,
    /// [`Rollout`](crate::entity::Rollout)
    Rollout,
    /// [`RolloutStep`](crate::entity::RolloutStep)
    RolloutStep,
    /// [`RolloutNode`](crate::entity::RolloutNode)
    RolloutNode,
    /// [`RolloutMemory`](crate::entity::RolloutMemory)
    RolloutMemory,
    /// [`Environment`](crate::entity::Environment)
    Environment,
    /// [`FreezeWindow`](crate::entity::FreezeWindow)
    FreezeWindow,
    /// [`RolloutTemplate`](crate::entity::RolloutTemplate)
    RolloutTemplate,
    /// [`PromotionRule`](crate::entity::PromotionRule)
    PromotionRule,
    /// [`BundlePromotion`](crate::entity::BundlePromotion)
    BundlePromotion,
    /// [`DriftEvent`](crate::entity::DriftEvent)
    DriftEvent,
    /// [`DriftAlert`](crate::entity::DriftAlert)
    DriftAlert,
    /// [`HealthCheck`](crate::entity::HealthCheck)
    HealthCheck,
    /// [`RolloutProbes`](crate::entity::RolloutProbes)
    RolloutProbes,
}

impl RecordKind {
    /// Every kind, in an order in which rows may be inserted.
    pub const ALL: [Self; 28] = [
        Self::Organisation,
        Self::Project,
        Self::User,
        Self::Membership,
        Self::ApiKey,
        Self::RegistrationToken,
        Self::SigningKey,
        Self::Node,
        Self::NodeReport,
        Self::NodeConfig,
        Self::NodeGroup,
        Self::Bundle,
        Self::BundleSource,
        Self::BundleSbom,
        Self::BundleStatement,
        Self::Rollout,
        Self::RolloutStep,
        Self::RolloutNode,
        Self::RolloutMemory,
        Self::Environment,
        Self::FreezeWindow,
        Self::RolloutTemplate,
        Self::PromotionRule,
        Self::BundlePromotion,
        Self::DriftEvent,
        Self::DriftAlert,
        Self::HealthCheck,
        Self::RolloutProbes,
    ];

    /// The table's name in the SQL back ends.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Organisation => "organisations",
            Self::Project => "projects",
            Self::User => "users",
            Self::Membership => "memberships",
            Self::ApiKey => "api_keys",
            Self::RegistrationToken => "registration_tokens",
            Self::SigningKey => "signing_keys",
            Self::Node => "nodes",
            Self::NodeReport => "node_reports",
            Self::NodeConfig => "node_configs",
            Self::NodeGroup => "node_groups",
            Self::Bundle => "bundles",
            Self::BundleSource => "bundle_sources",
            Self::BundleSbom => "bundle_sboms",
            Self::BundleStatement => "bundle_statements",
            Self::Rollout => "rollouts",
            Self::RolloutStep => "rollout_steps",
            Self::RolloutNode => "rollout_nodes",
            Self::RolloutMemory => "rollout_memories",
            Self::Environment => "environments",
            Self::FreezeWindow => "freeze_windows",
            Self::RolloutTemplate => "rollout_templates",
            Self::PromotionRule => "promotion_rules",
            Self::BundlePromotion => "bundle_promotions",
            Self::DriftEvent => "drift_events",
            Self::DriftAlert => "drift_alerts",
            Self::HealthCheck => "health_checks",
            Self::RolloutProbes => "rollout_probes",
        }
    }

    /// The noun used in messages, for example `Bundle not found`.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Organisation => "Organisation",
            Self::Project => "Project",
            Self::User => "User",
            Self::Membership => "Membership",
            Self::ApiKey => "API key",
            Self::RegistrationToken => "Registration token",
            Self::SigningKey => "Signing key",
            Self::Node | Self::NodeReport | Self::NodeConfig => "Node",
            Self::NodeGroup => "Node group",
            Self::Bundle | Self::BundleSource | Self::BundleSbom => "Bundle",
            Self::BundleStatement => "Statement",
            Self::Rollout | Self::RolloutMemory | Self::RolloutProbes => "Rollout",
            Self::RolloutStep => "Rollout step",
            Self::RolloutNode => "Rollout node",
            Self::Environment => "Environment",
            Self::FreezeWindow => "Freeze window",
            Self::RolloutTemplate => "Rollout template",
            Self::PromotionRule => "Promotion rule",
            Self::BundlePromotion => "Promotion",
            Self::DriftEvent => "Drift event",
            Self::DriftAlert => "Drift alert",
            Self::HealthCheck => "Health check",
        }
    }

    /// The field to name when the natural key is taken.
    #[must_use]
    pub fn natural_key_field(self) -> &'static str {
        match self {
            Self::Organisation | Self::Project | Self::Environment => "slug",
            Self::User => "email",
            Self::Bundle => "version",
            Self::Node | Self::NodeGroup | Self::RolloutTemplate | Self::HealthCheck => "name",
            Self::PromotionRule => "target_env_id",
            Self::BundlePromotion => "environment_id",
            _ => "id",
        }
    }
}

/// How often a record was written; optimistic writes name the one they read. Starts at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub u64);

/// A record as a back end stores it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The kind, hence the table.
    pub kind: RecordKind,
    /// Unique within the kind.
    pub id: Uuid,
    /// The tenant, for [`Scope`](crate::Scope).
    pub organisation_id: Option<OrganisationId>,
    /// The project, for [`Scope`](crate::Scope).
    pub project_id: Option<ProjectId>,
    /// The record this one belongs to (a project, a rollout, ...); nil at the top.
    pub owner: Uuid,
    /// Unique within `(kind, owner)`, for example a bundle's version. `None` is never a duplicate.
    pub natural_key: Option<String>,
    /// Unique within the kind over all tenants: credential digests. `None` is never a duplicate.
    pub lookup_key: Option<String>,
    /// The state to filter by, for example `compiled`.
    pub state: Option<String>,
    /// When the record was created, to microseconds; lists are ordered by it.
    pub created_at: Timestamp,
    /// The whole entity as JSON.
    pub body: Value,
}

/// Something read from a store, with the revision it had.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<T> {
    /// What was read.
    pub value: T,
    /// The revision to name when writing it back.
    pub revision: Revision,
}

impl<T> std::ops::Deref for Stored<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// The indexed columns of an entity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    /// See [`Row::organisation_id`].
    pub organisation_id: Option<OrganisationId>,
    /// See [`Row::project_id`].
    pub project_id: Option<ProjectId>,
    /// See [`Row::owner`].
    pub owner: Uuid,
    /// See [`Row::natural_key`].
    pub natural_key: Option<String>,
    /// See [`Row::lookup_key`].
    pub lookup_key: Option<String>,
    /// See [`Row::state`].
    pub state: Option<String>,
}

impl Keys {
    /// The columns of an entity that belongs to a project.
    #[must_use]
    pub fn in_project(organisation_id: OrganisationId, project_id: ProjectId) -> Self {
        Self {
            organisation_id: Some(organisation_id),
            project_id: Some(project_id),
            owner: project_id.uuid(),
            ..Self::default()
        }
    }
}

/// An entity that can be stored.
pub trait Record: Serialize + DeserializeOwned + Clone + std::fmt::Debug + Send + Sync + 'static {
    /// Its kind.
    const KIND: RecordKind;
    /// Its typed id.
    type Id: TypedId;

    /// Its id.
    fn id(&self) -> Self::Id;
    /// What back ends index.
    fn keys(&self) -> Keys;
    /// When it was created.
    fn created_at(&self) -> Timestamp;

    /// The row to store.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when the entity does not serialise.
    fn to_row(&self) -> Result<Row> {
        let keys = self.keys();
        Ok(Row {
            kind: Self::KIND,
            id: self.id().uuid(),
            organisation_id: keys.organisation_id,
            project_id: keys.project_id,
            owner: keys.owner,
            natural_key: keys.natural_key,
            lookup_key: keys.lookup_key,
            state: keys.state,
            created_at: self.created_at(),
            body: serde_json::to_value(self)?,
        })
    }

    /// The entity back from its row.
    ///
    /// # Errors
    /// [`Kind::Internal`](crate::Kind::Internal) when the body is not this entity.
    fn from_row(row: Row) -> Result<Self> {
        Ok(serde_json::from_value(row.body)?)
    }
}
