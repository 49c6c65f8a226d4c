//! Who may roll out what, when and where: a schedule that outlives `kill -9`, promotion, approval by a second
//! person, a freeze.

use crate::ctl::Ctl;
use crate::story::{compile, ended};
use chrono::TimeDelta;
use serde_json::Value;
use std::time::Duration;
use zentinel_core::entity::RolloutState;
use zentinel_core::id::RolloutId;
use zentinel_core::port::{Clock as _, SystemClock};
use zentinel_http::client::{OperatorClient, RolloutView};
use zentinel_tests::plane::{Plane, example};
use zentinel_tests::wait_for;

/// Promotion rules are followed once a minute.
const PATIENCE: Duration = Duration::from_secs(150);

fn id_of(answer: &Value) -> RolloutId {
    answer["id"].as_str().expect("an id").parse().expect("an id")
}

/// The rollout that a promotion rule created.
async fn promoted(client: &OperatorClient, project: &str, environment: &Value) -> RolloutView {
    wait_for("the promotion rule to be followed", PATIENCE, || async {
        let all = client.rollouts(project, None).await.ok()?.items;
        all.into_iter()
            .find(|one| one.environment_id.map(|id| id.to_string()).as_deref() == environment.as_str())
    })
    .await
}

async fn whole_story(mut plane: Plane) {
    let (client, project) = (plane.operator(), plane.project.clone());
    let nodes = plane.nodes(2).await;
    let ops = Ctl::new(&plane);
    let environments = ops.json(&["environment", "init"]).await;
    let staging = environments["environments"][1]["id"].clone();
    ops.text(&["environment", "assign", "dev", "node-0"]).await;
    ops.text(&["environment", "assign", "staging", "node-1"]).await;
    ops.text(&["environment", "approvals", "staging", "1"]).await;
    ops.text(&["promotion-rule", "create", "dev", "staging", "--auto", "--max-risk", "high"]).await;
    ops.text(&["template", "create", "first", "--default", "--set", "batch_size=1"]).await;
    ops.text(&["template", "create", "usual", "--default", "--set", "batch_percentage=50"]).await;
    ops.text(&["template", "default", "first"]).await;
    ops.text(&["template", "default", "usual"]).await;
    let templates = ops.json(&["template", "list"]).await;
    let defaults = templates["rollout_templates"].as_array().expect("a list").iter();
    let defaults: Vec<_> = defaults.filter(|one| one["is_default"] == true).map(|one| &one["name"]).collect();
    assert_eq!(defaults, ["usual"], "it changes hands in one commit");
    let bundle = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;

    // Scheduled, the server killed: it starts on time all the same.
    let at = SystemClock.now() + TimeDelta::seconds(15);
    let made =
        ops.json(&["rollout", "create", "1.0.0", "--environment", "dev", "--at", &at.to_rfc3339()]).await;
    assert_eq!(made["state"], "pending", "{made}");
    assert!(made["template_id"].is_string(), "the default template applies: {made}");
    plane.kill().await;
    let second_key = plane.second_person("second@example.com").await;
    plane.start_again().await;
    let first = ended(&client, &project, id_of(&made)).await.rollout;
    assert_eq!(first.state, RolloutState::Completed, "{first:?}");
    let (due, began) = (first.scheduled_at.expect("its time"), first.started_at.expect("it began"));
    assert!(began >= due && began - due <= TimeDelta::seconds(10), "due {due}, started {began}");
    assert_eq!((nodes[0].active(), nodes[1].active()), (Some(bundle.id), None));

    // The rule carries it on; the author of the bundle is not enough, a second person is.
    let next = promoted(&client, &project, &staging).await;
    assert_eq!(next.approval_state, "pending_approval", "{next:?}");
    let id = next.id.to_string();
    let said = ops.text(&["rollout", "approve", &id]).await;
    assert!(said.contains("other than the author"), "{said}");
    let second = Ctl::new(&plane);
    second.use_key(&second_key);
    let answer = second.json(&["rollout", "approve", &id, "--comment", "seen in dev"]).await;
    assert_eq!(answer["state"], "running", "{answer}");
    assert_eq!(ended(&client, &project, next.id).await.rollout.state, RolloutState::Completed);
    assert_eq!(nodes[1].active(), Some(bundle.id));
    let history = ops.json(&["bundle", "promotions", "1.0.0"]).await;
    assert_eq!(history["promotions"][0]["environment_id"], staging);
    let rules = ops.json(&["promotion-rule", "list"]).await;
    assert_eq!(rules["promotion_rules"][0]["last_attempt"]["rollout_id"], id);

    // Frozen: refused with the window's name, unless an admin has a reason.
    let (from, to) = (SystemClock.now() - TimeDelta::minutes(1), SystemClock.now() + TimeDelta::hours(1));
    let (from, to) = (from.to_rfc3339(), to.to_rfc3339());
    ops.text(&["freeze", "create", "Release party", "--from", &from, "--to", &to]).await;
    let (code, said) = ops.refused(&["rollout", "create", "1.0.0", "--environment", "dev"]).await;
    assert!(code == 73 && said.contains("Freeze window active"), "{code}: {said}");
    let made = ops
        .json(&["rollout", "create", "1.0.0", "--environment", "dev", "--override-freeze", "outage"])
        .await;
    assert_eq!(ended(&client, &project, id_of(&made)).await.rollout.state, RolloutState::Completed);
    ops.text(&["freeze", "delete", "Release party", "--yes"]).await;
    drop(nodes);
    assert!(plane.stop().await, "it stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn governed_on_sqlite() {
    whole_story(Plane::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn governed_on_postgresql() {
    whole_story(Plane::production().await).await;
}
