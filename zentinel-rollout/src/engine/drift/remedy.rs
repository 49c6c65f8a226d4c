//! Bringing drifted nodes back by rollouts of their own, where the project wants that.

use crate::engine::create::Follows;
use crate::engine::{Engine, NewRollout, Terms};
use chrono::TimeDelta;
use std::collections::BTreeSet;
use zentinel_core::entity::{
    Bundle, BundleStatus, DriftEvent, DriftKind, Node, Project, Remediation, Rollout, RolloutSpec,
    TargetSelector,
};
use zentinel_core::id::{NodeId, RolloutId};
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Actor, Changes, Kind, PageRequest, RecordKind, Result, Stored, Timestamp};

/// Most attempts per node within [`PERIOD`].
const ATTEMPTS: usize = 3;
const PERIOD: TimeDelta = TimeDelta::hours(1);
/// Most rollouts that one look creates.
const AT_ONCE: usize = 50;
/// How many earlier events of a node are searched for attempts.
const EARLIER: u32 = 10;

/// What is to be done about one event.
enum Remedy {
    /// Something is under way, or the event is closed.
    Nothing,
    /// It may not be brought back, and why.
    Refused(String),
    Rollout,
}

impl Engine {
    /// Starts a rollout of its own for each of these nodes that may have one. One that fails does not keep the
    /// others from it.
    pub(super) async fn remedy_all(&self, project: &Project, nodes: BTreeSet<NodeId>) -> Result<()> {
        if !project.settings.drift_auto_remediation {
            return Ok(());
        }
        let mut started = 0;
        for node in nodes {
            let mut retry = self.retry();
            let outcome = loop {
                let outcome = self.remedy(project, node).await;
                if let Some(outcome) = retry.judge(outcome).await {
                    break outcome;
                }
            };
            match outcome {
                Ok(begun) => started += usize::from(begun),
                Err(error) => tracing::warn!(%node, %error, "a drifted node could not be brought back"),
            }
            if started >= AT_ONCE {
                break;
            }
        }
        Ok(())
    }

    async fn remedy(&self, project: &Project, node: NodeId) -> Result<bool> {
        let scope = project.scope();
        let query = Query::all(RecordKind::DriftEvent).owned_by(project.id).named(node.to_string());
        let Some(event) = self.store.list::<DriftEvent>(&scope, query).await?.items.pop() else {
            return Ok(false);
        };
        let now = self.clock.now();
        match self.remedy_for(&event, now).await? {
            Remedy::Nothing => Ok(false),
            Remedy::Refused(why) => {
                self.note_refusal(&event, why, now).await?;
                Ok(false)
            }
            Remedy::Rollout => self.bring_back(&event, now).await,
        }
    }

    async fn remedy_for(&self, event: &DriftEvent, now: Timestamp) -> Result<Remedy> {
        let scope = event.scope();
        let Some(node) = self.store.find::<Node>(&scope, event.node_id).await? else {
            return Ok(Remedy::Nothing);
        };
        if node.rollout_id.is_some() {
            return Ok(Remedy::Nothing);
        }
        if event.kind == DriftKind::Content {
            return Ok(Remedy::Refused(
                "the node says that it runs the expected bundle; a rollout of the same bundle changes nothing"
                    .to_owned(),
            ));
        }
        if let Some(last) = event.remediations.last()
            && let Some(rollout) = self.store.find::<Rollout>(&scope, last.rollout_id).await?
            && rollout.state.is_open()
        {
            return Ok(Remedy::Nothing);
        }
        let bundle = self.store.find::<Bundle>(&scope, event.expected_bundle_id).await?;
        match bundle.map(|bundle| bundle.status) {
            None => return Ok(Remedy::Refused("the expected bundle is gone".to_owned())),
            Some(BundleStatus::Revoked) => {
                return Ok(Remedy::Refused("the expected bundle is revoked".to_owned()));
            }
            Some(_) => {}
        }
        let attempts = self.attempts(event, now).await?;
        if attempts >= ATTEMPTS {
            return Ok(Remedy::Refused(format!("it was tried {attempts} times within an hour")));
        }
        Ok(Remedy::Rollout)
    }

    /// How often the node was tried to be brought back lately, on account of earlier events too.
    async fn attempts(&self, event: &DriftEvent, now: Timestamp) -> Result<usize> {
        let lately = |event: &DriftEvent| {
            event.remediations.iter().filter(|attempt| attempt.at > now - PERIOD).count()
        };
        let own = lately(event);
        if own >= ATTEMPTS {
            return Ok(own);
        }
        let query = Query::all(RecordKind::DriftEvent)
            .labelled(vec![("node_id".to_owned(), event.node_id.to_string())])
            .uncounted()
            .page(PageRequest { limit: EARLIER, cursor: None });
        let events = self.store.list::<DriftEvent>(&event.scope(), query).await?.items;
        Ok(events.iter().map(|event| lately(event)).sum())
    }

    /// The rollout and the event that remembers it, in one commit.
    async fn bring_back(&self, event: &Stored<DriftEvent>, now: Timestamp) -> Result<bool> {
        let id = RolloutId::random();
        let mut tried = event.value.clone();
        tried.remediations.push(Remediation { rollout_id: id, at: now });
        tried.remediation_error = None;
        tried.updated_at = now;
        let changes = Changes::new().update(event, &tried)?;
        let new = NewRollout {
            bundle_id: event.expected_bundle_id,
            spec: RolloutSpec {
                target_selector: TargetSelector::NodeIds { node_ids: BTreeSet::from([event.node_id]) },
                strategy: "all_at_once".to_owned(),
                ..RolloutSpec::default()
            },
            auto_start: true,
            supersede: false,
            terms: Terms::default(),
        };
        let follows = Follows { changes, ..Follows::default() };
        match self.try_create(&event.scope(), Actor::System, id, &new, follows).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == Kind::Stale || error.kind().is_transient() => Err(error),
            Err(error) => {
                self.note_refusal(event, error.message().to_owned(), now).await?;
                Ok(false)
            }
        }
    }

    async fn note_refusal(&self, read: &Stored<DriftEvent>, why: String, now: Timestamp) -> Result<()> {
        if read.remediation_error.as_ref() == Some(&why) {
            return Ok(());
        }
        tracing::info!(node = %read.node_id, why, "a drifted node is not brought back");
        let mut event = read.value.clone();
        event.remediation_error = Some(why);
        event.updated_at = now;
        self.commit(Changes::new().update(read, &event)?).await
    }
}
