//! A typed client of both APIs, for nodes, tools and tests.
//!
//! [`NodeClient`] speaks the node API, [`OperatorClient`] the operator API. Answers are plain
//! structs; refusals are [`zentinel_core::Error`]s whose kind follows from the status, with the
//! server's message, field errors and details. Calls never follow redirects, because they carry
//! credentials.
//!
//! ```no_run
//! # async fn node() -> zentinel_core::Result<()> {
//! use zentinel_http::client::{HeartbeatRequest, NodeClient, RegisterRequest};
//! let server = url::Url::parse("http://127.0.0.1:4000").expect("a URL");
//! let token = zentinel_core::Secret::new("the project's registration token");
//! let client = NodeClient::new(server)?;
//! let request = RegisterRequest { name: "edge-1".to_owned(), ..Default::default() };
//! let me = client.register("edge-eu", Some(&token), &request).await?;
//! let client = client.with_credentials(me.node_id, me.node_key);
//! client.heartbeat(&HeartbeatRequest::with_status("healthy")).await?;
//! let answer = client.poll(Some(std::time::Duration::from_secs(30)), None).await?;
//! # drop(answer);
//! # Ok(())
//! # }
//! ```

mod download;
mod explain;
mod governance;
mod node;
mod operator;
mod transport;
mod views;

pub use crate::node::wire::{
    BundleOffer, ConfigAck, ConfigRequest, EventsAck, EventsRequest, HeartbeatAck, HeartbeatRequest,
    JOIN_TOKEN_HEADER, MetricsAck, MetricsRequest, NODE_KEY_HEADER, NoUpdate, NodeEvent, POLL_AFTER_HEADER,
    PollAnswer, RegisterRequest, Registered, Rejected, RotatedKey, SigningKeys, TokenAnswer, WafEventsAck,
    WafEventsRequest,
};
pub use explain::{ExplanationView, GateExplanationView, NodeExplanationView, RolloutLogView};
pub use governance::{
    ApprovalView, ApprovalsView, AttemptView, EnvironmentView, FreezeWindowView, NewPromotionRule,
    PromotionRuleView, PromotionView, TemplateView,
};
pub use node::{NodeClient, Poll};
pub use operator::{DriftFilter, NodeFilter, OperatorClient};
pub use transport::retry_after;
pub use views::{
    BundleFile, BundleView, CreatedBundle, CreatedRegistrationToken, DriftStatsView, DriftView, GroupView,
    List, NewBundle, NewRegistrationToken, NewRollout, NodeStatusView, NodeView, Progress, ProjectView,
    RegistrationTokenView, ReportedView, RolloutDetailView, RolloutView, StepView,
};
