//! Typed identifiers: one list, one type per thing, all UUID v4 on the wire.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// What every typed id can do; lets generic code move between ids and rows.
pub trait TypedId: Copy + Eq + Ord + fmt::Debug + fmt::Display + Send + Sync + 'static {
    /// Wraps a raw UUID.
    fn from_uuid(uuid: Uuid) -> Self;
    /// The raw UUID.
    fn uuid(self) -> Uuid;
}

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A fresh random (version 4) id.
            #[must_use]
            pub fn random() -> Self {
                Self(Uuid::new_v4())
            }
        }

        impl TypedId for $name {
            fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }
            fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    )*};
}

typed_ids! {
    /// A tenant.
    OrganisationId;
    /// A fleet with its configuration, within an organisation.
    ProjectId;
    /// A person.
    UserId;
    /// A person's role within an organisation.
    MembershipId;
    /// An operator's API key.
    ApiKeyId;
    /// A token that lets nodes register.
    RegistrationTokenId;
    /// An Ed25519 key pair of an organisation.
    SigningKeyId;
    /// A reverse proxy.
    NodeId;
    /// An immutable compiled configuration.
    BundleId;
    /// A signed statement about a bundle in a project.
    StatementId;
    /// One delivery of a bundle to a set of nodes.
    RolloutId;
    /// One batch of a rollout.
    StepId;
    /// One node's part in a rollout.
    RolloutNodeId;
    /// A named set of nodes.
    GroupId;
    /// A deployment environment such as staging.
    EnvironmentId;
    /// A time span in which no rollout starts.
    FreezeWindowId;
    /// A rollout's settings under a name.
    TemplateId;
    /// A rule that carries bundles from one environment to the next.
    PromotionRuleId;
    /// A bundle's release into an environment.
    PromotionId;
    /// A node that ran something else than it should.
    DriftEventId;
    /// A unit of background work.
    JobId;
    /// Something that happened, told to the outside.
    EventId;
    /// Who did what to which resource.
    AuditId;
    /// An endpoint that rollouts may ask.
    HealthCheckId;
}
