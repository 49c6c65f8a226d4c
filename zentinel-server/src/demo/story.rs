//! What happens: a good bundle, then one that some nodes reject.

use super::PATIENCE;
use super::fleet::DemoFleet;
use super::progress::Progress;
use crate::cli::Output;
use crate::compose::App;
use serde_json::json;
use std::time::Duration;
use zentinel_core::entity::{HealthGates, Project, RolloutState, TargetSelector};
use zentinel_core::id::BundleId;
use zentinel_core::{Error, Result, Secret};
use zentinel_http::client::{BundleView, NewBundle, NewRollout, OperatorClient, RolloutDetailView};

const GOOD: &str = include_str!("../../../examples/configs/edge.kdl");
const REJECTED: &str = include_str!("../../../examples/configs/edge-with-assets.kdl");

/// How the story ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending {
    /// Whether it went as it should.
    pub(super) as_told: bool,
    /// The bundle that the fleet runs.
    pub(super) bundle: BundleId,
}

/// Tells the story.
pub(super) async fn tell(
    app: &App,
    project: &Project,
    api_key: &Secret,
    fleet: &DemoFleet,
    output: &Output,
) -> Result<Ending> {
    let client = OperatorClient::new(app.public_url.clone(), api_key.clone())?;
    let teller = Teller { client, project: project.slug.to_string(), fleet, output };
    let number = teller.client.bundles(&teller.project, None).await?.total;
    let good = teller.compile(&format!("1.{number}.0"), GOOD).await?;
    let first = teller.roll_out(&good, "rolling out").await?;
    if first.rollout.state != RolloutState::Completed || !teller.all_run(good.id) {
        return Ok(Ending { as_told: false, bundle: good.id });
    }
    let rejected = teller.compile(&format!("1.{number}.1"), REJECTED).await?;
    let second = teller.roll_out(&rejected, "rolling out").await?;
    let Some(rollback) = second.rollout.rolled_back_by else {
        return Ok(Ending { as_told: false, bundle: good.id });
    };
    let back = teller.watch(rollback, "rolling back").await?;
    let restored = back.rollout.state == RolloutState::Completed && teller.all_come_to_run(good.id).await;
    output.event("rolled_back", json!({ "ok": restored, "bundle_id": good.id }), || {
        format!("rolled back     every node runs {} again: {restored}", good.version)
    });
    Ok(Ending { as_told: second.rollout.state == RolloutState::Failed && restored, bundle: good.id })
}

struct Teller<'a> {
    client: OperatorClient,
    project: String,
    fleet: &'a DemoFleet,
    output: &'a Output,
}

impl Teller<'_> {
    async fn compile(&self, version: &str, kdl: &str) -> Result<BundleView> {
        let request =
            NewBundle { version: version.to_owned(), config_source: kdl.to_owned(), ..NewBundle::default() };
        let created = self.client.create_bundle(&self.project, &request).await?;
        let bundle = self.client.wait_until_compiled(&self.project, created.id, PATIENCE).await?;
        let details = json!({
            "bundle_id": bundle.id, "version": version, "checksum": bundle.checksum,
            "size_bytes": bundle.size_bytes, "risk_level": bundle.risk_level, "activation": bundle.activation,
        });
        self.output.event("compiled", details, || {
            format!(
                "compiled        {version}: {} bytes, signed by {}, risk {}, needs a {}",
                bundle.size_bytes.unwrap_or_default(),
                bundle.signing_key_id.as_deref().unwrap_or("nobody"),
                bundle.risk_level.as_str(),
                format!("{:?}", bundle.activation).to_lowercase(),
            )
        });
        Ok(bundle)
    }

    async fn roll_out(&self, bundle: &BundleView, label: &'static str) -> Result<RolloutDetailView> {
        let request = NewRollout {
            // A directory that was used before may hold nodes that nobody runs now.
            target_selector: Some(TargetSelector::NodeIds { node_ids: self.fleet.ids() }),
            batch_size: u32::try_from(self.fleet.len() / 5).ok().map(|size| size.max(1)),
            health_gates: Some(HealthGates { max_error_rate: Some(5.0), ..HealthGates::heartbeat() }),
            auto_rollback: Some(true),
            rollback_threshold: Some(20),
            progress_deadline_seconds: Some(120),
            // An earlier run in this directory may have been interrupted.
            supersede: Some(true),
            ..NewRollout::of(bundle.id)
        };
        let rollout = self.client.create_rollout(&self.project, &request).await?;
        self.watch(rollout.id, label).await
    }

    async fn watch(
        &self,
        id: zentinel_core::id::RolloutId,
        label: &'static str,
    ) -> Result<RolloutDetailView> {
        let mut progress: Option<Progress<'_>> = None;
        let watching = async {
            loop {
                let detail = self.client.rollout(&self.project, id).await?;
                let counts = &detail.progress;
                let shown = progress.get_or_insert_with(|| Progress::start(self.output, label, counts.total));
                shown.show(
                    detail.rollout.state.as_str(),
                    counts.active,
                    counts.failed,
                    &detail.rollout.waiting.summary,
                );
                if !detail.rollout.state.is_open() {
                    return Ok(detail);
                }
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
        };
        let detail: Result<RolloutDetailView> = tokio::time::timeout(PATIENCE, watching)
            .await
            .map_err(|_| Error::internal(format!("rollout {id} is stuck")))?;
        if let Some(progress) = progress {
            progress.finish();
        }
        let detail = detail?;
        self.output.event(
            "rollout_ended",
            json!({ "rollout_id": id, "state": detail.rollout.state, "error": detail.rollout.error }),
            || {
                let message = detail
                    .rollout
                    .error
                    .as_ref()
                    .map(|error| format!(": {}", error.message))
                    .unwrap_or_default();
                format!("{label:15} {}{message}", detail.rollout.state.as_str())
            },
        );
        Ok(detail)
    }

    /// Waits until every node runs this bundle: one that was at it when the other was withdrawn is
    /// brought back as soon as it says so.
    async fn all_come_to_run(&self, id: BundleId) -> bool {
        let waiting = async {
            while !self.all_run(id) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.is_ok()
    }

    /// Whether every node says that it runs this bundle.
    fn all_run(&self, id: BundleId) -> bool {
        self.fleet.active().iter().all(|active| *active == Some(id))
    }
}
