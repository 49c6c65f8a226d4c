//! The database or S3 goes away for a while: clear answers, nodes keep serving, recovery by itself.

use crate::story::{compile, ended, rolling};
use std::time::Duration;
use zentinel_core::Kind;
use zentinel_core::entity::{BundleStatus, RolloutState};
use zentinel_http::client::NewBundle;
use zentinel_tests::plane::{Plane, example};
use zentinel_tests::wait_for;

/// How long a dependency stays away once its absence was noticed: `ZENTINEL_OUTAGE_SECONDS`, 2 by default.
fn outage() -> Duration {
    let seconds = std::env::var("ZENTINEL_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_away() {
    let mut plane = Plane::production().await;
    let (client, project) = (plane.operator(), plane.project.clone());
    let nodes = plane.nodes(2).await;
    let first = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;
    plane.s3.as_mut().expect("S3").go_away().await;

    let source = format!("// changed\n{}", example("edge.kdl"));
    let request = NewBundle { version: "1.0.1".into(), config_source: source, ..NewBundle::default() };
    let waiting = client.create_bundle(&project, &request).await.expect("acknowledged without S3");
    wait_for("/ready to say so", Duration::from_secs(30), || async {
        let ready = reqwest::get(plane.url.join("/ready").expect("URL")).await.ok()?;
        (ready.status() == 503).then_some(())
    })
    .await;
    tokio::time::sleep(outage()).await;
    plane.s3.as_mut().expect("S3").come_back().await;
    let compiled =
        client.wait_until_compiled(&project, waiting.id, Duration::from_secs(120)).await.expect("compiled");
    assert_eq!(compiled.status, BundleStatus::Compiled, "nothing was lost");

    let rollout = client.create_rollout(&project, &rolling(&first, 2)).await.expect("created");
    assert_eq!(ended(&client, &project, rollout.id).await.rollout.state, RolloutState::Completed);
    assert!(nodes.iter().all(|node| node.active() == Some(first.id)));
    plane.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn database_away() {
    let mut plane = Plane::production().await;
    let (client, project) = (plane.operator(), plane.project.clone());
    let nodes = plane.nodes(2).await;
    let bundle = compile(&client, &project, "1.0.0", &example("edge.kdl")).await;
    let rollout = client.create_rollout(&project, &rolling(&bundle, 1)).await.expect("created");
    plane.database.as_mut().expect("PostgreSQL").go_away().await;

    let refused = wait_for("a clear refusal", Duration::from_secs(30), || async {
        client.rollout(&project, rollout.id).await.err().filter(|error| error.kind() == Kind::Unavailable)
    })
    .await;
    assert!(!refused.to_string().contains("postgres://"), "no connection details leak");
    let health = reqwest::get(plane.url.join("/health").expect("URL")).await.expect("still serving");
    assert_eq!(health.status(), 200);
    tokio::time::sleep(outage()).await;
    plane.database.as_mut().expect("PostgreSQL").come_back().await;

    let ended = ended(&client, &project, rollout.id).await;
    assert_eq!(ended.rollout.state, RolloutState::Completed, "it went on by itself: {ended:?}");
    assert!(nodes.iter().all(|node| node.active() == Some(bundle.id)));
    plane.stop().await;
}
