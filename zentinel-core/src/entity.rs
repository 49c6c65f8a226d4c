//! What the control plane knows.

mod approval;
mod audit;
mod blue_green;
mod bundle;
mod drift;
mod environment;
mod freeze_window;
mod health_check;
mod identity;
mod node;
mod promotion;
mod report;
mod rollout;
mod selector;
mod template;
mod tenancy;
mod traffic;
mod version_bounds;

pub use approval::{Approval, ApprovalState, FreezeOverride, Verdict};
pub use audit::{AuditEntry, Event};
pub use blue_green::{NodeTraffic, RolloutTraffic, ShiftRequest, Slot, TrafficSplit};
pub use bundle::{
    Activation, Bundle, BundleOrigin, BundleSbom, BundleSource, BundleStatement, BundleStatus, ExtraFile,
    Finding, RiskLevel,
};
pub use drift::{
    DRIFT_ACTIVE, DRIFT_RESOLVED, DiffStats, DriftAlert, DriftEvent, DriftKind, DriftResolution,
    DriftSeverity, Remediation,
};
pub use environment::{Environment, EnvironmentSettings, is_color};
pub use freeze_window::{FreezeSpan, FreezeWindow, Recurrence, Weekday, parse_instant};
pub use health_check::{
    HealthCheck, NODE_IP, NODE_NAME, ProbeEntry, ProbeHeaders, ProbeMethod, ProbeResult, ProbeVariables,
    RolloutProbes,
};
pub use identity::{ApiKey, ApiScope, RegistrationToken, SigningKey, TokenUses};
pub use node::{Node, NodeGroup, NodeStatus, NodeTarget, Registration, RetiredKey};
pub use promotion::{BundlePromotion, HealthyStretch, PromotionAttempt, PromotionConditions, PromotionRule};
pub use report::{BundleError, Health, Heartbeat, NodeConfig, NodeReport, NodeToken};
pub use rollout::{
    AggregateGates, Excluded, ExclusionReason, HealthGates, NodeProgress, Rollout, RolloutError,
    RolloutMemory, RolloutNode, RolloutSpec, RolloutState, RolloutStep, StepState, TargetSelector, Waiting,
    WaitingNode,
};
pub use selector::{LabelSelector, Requirement};
pub use template::RolloutTemplate;
pub use tenancy::{Membership, Organisation, Project, ProjectSettings, Role, User};
pub use traffic::{LATENCY_BOUNDS_MS, LATENCY_BUCKETS, Traffic, TrafficCounts};
pub use version_bounds::{VersionBounds, is_at_least};
