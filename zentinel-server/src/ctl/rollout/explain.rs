//! Why a rollout stands where it does, and how it came there.

use crate::ctl::find::{self, every};
use crate::ctl::screen::{clean, instant, state};
use crate::ctl::session::Session;
use serde_json::{Value, json};
use zentinel_core::Result;
use zentinel_http::client::RolloutLogView;

/// Prints the explanation, sentence by sentence.
pub(super) async fn explain(session: &Session, text: &str) -> Result<()> {
    let id = find::rollout(session, text).await?.id;
    let explanation = session.client.explain_rollout(&session.project, id).await?;
    if session.screen.is_json() {
        return session.screen.object(&explanation);
    }
    for sentence in &explanation.sentences {
        session.screen.line(&clean(sentence));
    }
    let gates = explanation.gates.iter().map(|gate| &gate.sentence);
    let nodes = explanation.nodes.iter().map(|node| &node.sentence);
    for (title, sentences) in [("Gates", gates.collect::<Vec<_>>()), ("Nodes in the way", nodes.collect())] {
        if !sentences.is_empty() {
            session.screen.line("");
            session.screen.line(title);
        }
        for sentence in sentences {
            session.screen.line(&format!("  {}", clean(sentence)));
        }
    }
    if explanation.more > 0 {
        session.screen.line(&format!("  and {} more", explanation.more));
    }
    Ok(())
}

/// Prints the log, oldest entry first.
pub(super) async fn log(session: &Session, text: &str, limit: usize) -> Result<()> {
    let id = find::rollout(session, text).await?.id;
    let page = async |cursor: Option<&str>| session.client.rollout_log(&session.project, id, cursor).await;
    let (mut entries, total) = every(Some(limit), page).await?;
    if session.screen.is_json() {
        return session.screen.object(&json!({"entries": entries, "total": total}));
    }
    entries.reverse();
    for entry in &entries {
        let at = instant(entry.at);
        session.screen.line(&format!("{at}  {:<9} {}", state(&clean(&entry.kind)), clean(&entry.summary)));
        for line in evidence(entry) {
            session.screen.line(&format!("{:at$}  {:<9} {}", "", "", line, at = at.len()));
        }
    }
    Ok(())
}

/// The figures of an analysis, a line per measure.
fn evidence(entry: &RolloutLogView) -> Vec<String> {
    let findings = entry.details.get("findings").and_then(Value::as_array);
    let number =
        |finding: &Value, path: &str| finding.pointer(path).and_then(Value::as_f64).unwrap_or_default();
    let line = |finding: &Value| {
        let figure = |path: &str| number(finding, path);
        format!(
            "{}: {} of {} against {} of {}, {:.2} times ({:.2} to {:.2}), evidence {:.2} of {:.0}",
            clean(finding["measure"].as_str().unwrap_or_default()),
            figure("/canary_events"),
            figure("/canary_requests"),
            figure("/baseline_events"),
            figure("/baseline_requests"),
            figure("/effect/ratio"),
            figure("/effect/low"),
            figure("/effect/high"),
            figure("/evidence"),
            figure("/needed"),
        )
    };
    findings.into_iter().flatten().map(line).collect()
}
