//! `zentinelctl rollout`.

mod approve;
mod create;
mod explain;
mod watch;

use super::find::{self, every};
use super::screen::{age, clean, instant, pairs, paragraph, short, state, table};
use super::session::{Session, Versions};
use serde_json::json;
use std::collections::BTreeMap;
use zentinel_core::Result;
use zentinel_core::entity::{NodeProgress, TargetSelector};
use zentinel_core::id::TypedId as _;
use zentinel_http::client::{Progress, RolloutDetailView, RolloutView};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List rollouts, newest first.
    List {
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show a rollout: its steps, what it waits for, which nodes failed.
    Show(Which),
    /// Say in plain sentences what a rollout waits for, gate by gate and node by node.
    Explain(Which),
    /// Show what was decided and found, with the evidence of each analysis.
    Log {
        #[command(flatten)]
        which: Which,
        /// At most so many entries, the newest ones.
        #[arg(long, value_name = "N", default_value_t = 200)]
        limit: usize,
    },
    /// Bring a bundle to nodes.
    Create(Box<create::Create>),
    /// Follow a rollout to its end; fails when the rollout does.
    Watch {
        #[command(flatten)]
        which: Which,
        /// Seconds between two looks.
        #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = super::node::seconds)]
        interval: std::time::Duration,
    },
    /// Start a rollout that waits, now.
    Start {
        #[command(flatten)]
        which: Which,
        /// In spite of freeze windows, for this reason; takes an admin's key.
        #[arg(long, value_name = "REASON")]
        override_freeze: Option<String>,
    },
    /// Agree to a rollout that waits for approval.
    Approve {
        #[command(flatten)]
        which: Which,
        /// Why.
        #[arg(long)]
        comment: Option<String>,
    },
    /// Refuse a rollout, for good.
    Reject {
        #[command(flatten)]
        which: Which,
        /// Why.
        #[arg(long)]
        comment: String,
    },
    /// Show who agreed to a rollout.
    Approvals(Which),
    /// Hold a rollout: no new step begins.
    Pause(Which),
    /// Let a held rollout go on.
    Resume(Which),
    /// Complete the step that a paused rollout holds, and go on: the next weight of a blue-green rollout.
    Advance(Which),
    /// Blue-green: take the traffic of the step under way back at once, and pause.
    SwapSlot(Which),
    /// End a rollout; nodes keep what they have.
    Cancel(Which),
    /// Bring every node back to what it ran before.
    Rollback(Which),
    /// Bring the bundle once more to the nodes that failed, and to them alone.
    Retry(Which),
    /// Go straight back to a bundle that was recently healthy: all at once, in place of whatever is under way.
    Revert {
        /// Version, id or beginning of the id of the bundle.
        bundle: String,
        /// Why, for the audit log.
        #[arg(long)]
        reason: String,
        /// Only nodes with this label; may be repeated, all must match. Every node by default.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = super::node::pair)]
        labels: Vec<(String, String)>,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// Id, beginning of the id, or `latest`.
    rollout: String,
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    match command {
        Command::List { limit } => list(session, limit).await,
        Command::Show(which) => show(session, &which.rollout).await,
        Command::Explain(which) => explain::explain(session, &which.rollout).await,
        Command::Log { which, limit } => explain::log(session, &which.rollout, limit).await,
        Command::Create(create) => create::run(session, *create).await,
        Command::Watch { which, interval } => {
            let rollout = find::rollout(session, &which.rollout).await?;
            watch::run(session, rollout.id, interval).await
        }
        Command::Start { which, override_freeze: None } => steer(session, &which.rollout, "start").await,
        Command::Start { which, override_freeze: Some(reason) } => {
            let id = find::rollout(session, &which.rollout).await?.id;
            let rollout = session.client.start_in_freeze(&session.project, id, &reason).await?;
            session.screen.answer(&rollout, || sentence(&rollout))
        }
        Command::Approve { which, comment } => {
            approve::approve(session, &which.rollout, comment.as_deref()).await
        }
        Command::Reject { which, comment } => approve::reject(session, &which.rollout, &comment).await,
        Command::Approvals(which) => approve::list(session, &which.rollout).await,
        Command::Pause(which) => steer(session, &which.rollout, "pause").await,
        Command::Resume(which) => steer(session, &which.rollout, "resume").await,
        Command::Advance(which) => steer(session, &which.rollout, "advance").await,
        Command::SwapSlot(which) => steer(session, &which.rollout, "swap-slot").await,
        Command::Cancel(which) => steer(session, &which.rollout, "cancel").await,
        Command::Rollback(which) => steer(session, &which.rollout, "rollback").await,
        Command::Retry(which) => steer(session, &which.rollout, "retry").await,
        Command::Revert { bundle, reason, labels } => revert(session, &bundle, &reason, labels).await,
    }
}

async fn steer(session: &Session, text: &str, command: &str) -> Result<()> {
    let rollout = find::rollout(session, text).await?;
    let rollout = session.client.steer_rollout(&session.project, rollout.id, command).await?;
    session.screen.answer(&rollout, || sentence(&rollout))
}

/// How many nodes are where.
pub(super) fn counts(progress: &Progress) -> String {
    let later = match progress.taken_back {
        0 => String::new(),
        count => format!(", {count} of them took it back later"),
    };
    format!("{} of {} active{later}, {} failed", progress.active, progress.total, progress.failed)
}

async fn revert(session: &Session, bundle: &str, reason: &str, labels: Vec<(String, String)>) -> Result<()> {
    let bundle = find::bundle(session, bundle).await?;
    let selector =
        (!labels.is_empty()).then(|| TargetSelector::Labels { labels: labels.into_iter().collect() });
    let rollout =
        session.client.revert_to_bundle(&session.project, bundle.id, selector.as_ref(), reason).await?;
    session.screen.answer(&rollout, || sentence(&rollout))?;
    session.screen.note(&format!("follow it with `zentinelctl rollout watch {}`", rollout.id));
    Ok(())
}

/// A rollout in one line.
pub(super) fn sentence(rollout: &RolloutView) -> String {
    let by = rollout
        .rolled_back_by
        .map_or_else(String::new, |id| format!(", rolled back by {}", short(id.uuid())));
    let traffic = weights(rollout);
    let comma = if traffic.is_empty() { "" } else { ", " };
    format!("rollout {} is {}{comma}{traffic}{by}", short(rollout.id.uuid()), state(rollout.state.as_str()))
}

/// Who has how much of the traffic; empty where there are no slots.
pub(super) fn weights(rollout: &RolloutView) -> String {
    rollout
        .traffic
        .map_or_else(String::new, |split| format!("green {} %, blue {} %", split.green, split.blue))
}

async fn list(session: &Session, limit: usize) -> Result<()> {
    let page = async |cursor: Option<&str>| session.client.rollouts(&session.project, cursor).await;
    let (rollouts, total) = every(Some(limit), page).await?;
    if session.screen.is_json() {
        return session.screen.object(&json!({"rollouts": rollouts, "total": total}));
    }
    let (versions, now) = (session.versions().await?, session.now());
    let rows: Vec<_> = rollouts
        .iter()
        .map(|rollout| {
            let error = rollout.error.as_ref().map(|error| error.message.as_str());
            vec![
                short(rollout.id.uuid()),
                versions.of(rollout.bundle_id),
                state(rollout.state.as_str()),
                rollout.strategy.clone(),
                age(Some(rollout.inserted_at), now),
                clean(error.unwrap_or(&rollout.waiting.summary)),
            ]
        })
        .collect();
    for line in table(&["ID", "BUNDLE", "STATE", "STRATEGY", "CREATED", "NOTE"], &rows) {
        session.screen.line(&line);
    }
    Ok(())
}

async fn show(session: &Session, text: &str) -> Result<()> {
    let id = find::rollout(session, text).await?.id;
    let detail = session.client.rollout(&session.project, id).await?;
    if session.screen.is_json() {
        return session.screen.object(&detail);
    }
    let versions = session.versions().await?;
    session.screen.line(&facts(&detail, &versions));
    let rows: Vec<_> = detail
        .steps
        .iter()
        .map(|step| {
            let error = step.error.as_ref().and_then(|error| error["message"].as_str()).unwrap_or_default();
            let about = match (step.deployment_slot, step.traffic_weight) {
                (Some(slot), Some(weight)) => format!("{slot} {weight} %"),
                _ => String::new(),
            };
            vec![
                step.step_index.to_string(),
                state(step.state.as_str()),
                step.node_ids.len().to_string(),
                about,
                clean(error),
            ]
        })
        .collect();
    session.screen.line("");
    for line in table(&["STEP", "STATE", "NODES", "WEIGHT", "NOTE"], &rows) {
        session.screen.line(&line);
    }
    troubled(session, &detail).await
}

fn facts(detail: &RolloutDetailView, versions: &Versions) -> String {
    let (rollout, progress) = (&detail.rollout, detail.progress);
    let time = |at| Option::map_or_else(at, || "-".to_owned(), instant);
    let mut lines = vec![
        ("id", rollout.id.to_string()),
        ("bundle", format!("{} ({})", versions.of(rollout.bundle_id), rollout.bundle_id)),
        ("state", state(rollout.state.as_str())),
        ("strategy", rollout.strategy.clone()),
        ("nodes", counts(&progress)),
        ("left out", rollout.excluded.len().to_string()),
        ("created", instant(rollout.inserted_at)),
        ("started", time(rollout.started_at)),
        ("ended", time(rollout.completed_at)),
    ];
    if rollout.traffic.is_some() {
        lines.push(("traffic", weights(rollout)));
    }
    if let Some(error) = &rollout.error {
        lines.push(("error", paragraph(&format!("{}: {}", error.reason, error.message))));
    }
    if let Some(at) = rollout.scheduled_at {
        lines.push(("scheduled", instant(at)));
    }
    if !matches!(rollout.approval_state.as_str(), "" | "not_required") {
        lines.push(("approval", approve::figures(rollout)));
    }
    if let Some(comment) = &rollout.rejection_comment {
        lines.push(("rejected", clean(comment)));
    }
    if !rollout.waiting.summary.is_empty() {
        lines.push(("waiting", clean(&rollout.waiting.summary)));
    }
    if let Some(of) = rollout.rollback_of {
        lines.push(("undoes", of.to_string()));
    }
    if let Some(by) = rollout.rolled_back_by {
        lines.push(("undone by", by.to_string()));
    }
    pairs(&lines)
}

/// The nodes that are in the way, by name.
async fn troubled(session: &Session, detail: &RolloutDetailView) -> Result<()> {
    let mut trouble: BTreeMap<_, (String, String)> = BTreeMap::new();
    for waiting in &detail.rollout.waiting.nodes {
        let measured = match (&waiting.gate, waiting.value, waiting.limit) {
            (Some(gate), Some(value), Some(limit)) => format!("{gate} is {value}, at most {limit}"),
            (Some(gate), ..) => gate.clone(),
            _ => String::new(),
        };
        trouble.insert(waiting.node_id, (waiting.reason.clone(), measured));
    }
    for status in detail.node_statuses.iter().filter(|status| status.state == NodeProgress::Failed) {
        trouble.insert(status.node_id, ("failed".to_owned(), status.error.clone().unwrap_or_default()));
    }
    for status in &detail.node_statuses {
        if let Some(why) = &status.taken_back {
            trouble.insert(status.node_id, ("took it back".to_owned(), why.clone()));
        }
    }
    if trouble.is_empty() {
        return Ok(());
    }
    let page = async |cursor: Option<&str>| session.client.nodes(&session.project, cursor).await;
    let (nodes, _) = every(None, page).await?;
    let names: BTreeMap<_, _> = nodes.into_iter().map(|node| (node.id, node.name)).collect();
    let rows: Vec<_> = trouble
        .into_iter()
        .map(|(id, (reason, why))| {
            let name = names.get(&id).map_or_else(|| short(id.uuid()), |name| clean(name));
            vec![name, state(&clean(&reason)), paragraph(&why)]
        })
        .collect();
    session.screen.line("");
    for line in table(&["NODE", "REASON", "WHY"], &rows) {
        session.screen.line(&line);
    }
    Ok(())
}
