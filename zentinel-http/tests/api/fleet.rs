//! Selectors, groups, and nodes that are held back.

use crate::world::{World, ids};
use serde_json::{Value, json};

async fn named(world: &World, path: &str) -> Vec<String> {
    let body = world.get(&world.home.path(path)).await.expect(200);
    body["nodes"].as_array().unwrap().iter().map(|node| node["name"].as_str().unwrap().to_owned()).collect()
}

async fn preview(world: &World, bundle: &str, more: Value) -> Value {
    let mut body = json!({"bundle_id": bundle, "batch_size": 10});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body = world.post(&world.home.path("/rollouts?dry_run=true"), body).await.expect(200);
    body["preview"].clone()
}

#[tokio::test]
async fn groups_follow_their_selector() {
    let world = World::unlimited().await;
    let (a, _) = world.node(&world.home, "a", &[("region", "eu"), ("env", "prod")]).await;
    world.node(&world.home, "b", &[("region", "us"), ("env", "prod")]).await;
    world.node(&world.home, "c", &[("region", "eu")]).await;
    let path = world.home.path("/node-groups");
    let body = json!({"name": "eu", "selector": "region=eu, env in (prod,staging)", "color": "#00ff00"});
    let made = world.post(&path, body).await.expect(201);
    assert_eq!(made["node_group"]["selector"], "region=eu,env in (prod,staging)");
    let id = made["node_group"]["id"].as_str().unwrap().to_owned();
    assert_eq!(named(&world, &format!("/node-groups/{id}/nodes")).await, ["a"]);
    let node = world.get(&world.home.path(&format!("/nodes/{a}"))).await.expect(200);
    assert_eq!(node["node"]["group_ids"], json!([id]));
    // A node that gets the label belongs to it from then on.
    let late = world.home.path(&format!("/nodes/{}", world.node(&world.home, "d", &[]).await.0));
    world.patch(&late, json!({"labels": {"region": "eu", "env": "staging"}})).await.expect(200);
    assert_eq!(named(&world, &format!("/node-groups/{id}/nodes?limit=1")).await, ["a"]);
    assert_eq!(named(&world, &format!("/node-groups/{id}/nodes")).await, ["a", "d"]);

    let one = format!("{path}/{id}");
    let refused = world.put(&format!("{one}/nodes"), json!({"node_ids": [a]})).await;
    refused.expect_error(409, "The members of this group follow from its selector");
    let wrong = world.patch(&one, json!({"selector": "region in eu"})).await;
    wrong.expect_field("selector", "at character 11: expected `(`, found `e`");
    let changed = json!({"selector": [{"key": "region", "operator": "!=", "values": ["eu"]}]});
    assert_eq!(world.patch(&one, changed).await.expect(200)["node_group"]["selector"], "region!=eu");
    assert_eq!(named(&world, &format!("/node-groups/{id}/nodes")).await, ["b"]);
    world.patch(&one, json!({"selector": null})).await.expect(200);
    assert_eq!(named(&world, &format!("/node-groups/{id}/nodes")).await, Vec::<String>::new());
    world.put(&format!("{one}/nodes"), json!({"node_ids": [a]})).await.expect(200);
    assert_eq!(named(&world, &format!("/node-groups/{id}/nodes")).await, ["a"]);
}

#[tokio::test]
async fn rollouts_may_name_selectors_and_groups_with_selectors() {
    let world = World::unlimited().await;
    let bundle = world.compiled(&world.home, "1.0.0").await;
    let (a, _) = world.node(&world.home, "a", &[("region", "eu"), ("tier", "1")]).await;
    let (b, _) = world.node(&world.home, "b", &[("region", "eu")]).await;
    world.node(&world.home, "c", &[("region", "us")]).await;
    let asked = json!({"target_selector": {"type": "selector", "selector": "region=eu,!tier"}});
    assert_eq!(preview(&world, &bundle, asked).await["steps"][0]["node_ids"], json!([b]));
    let group = json!({"name": "eu", "selector": "region=eu"});
    let group = world.post(&world.home.path("/node-groups"), group).await.expect(201);
    let id = group["node_group"]["id"].as_str().unwrap().to_owned();
    let by_group = json!({"target_selector": {"type": "groups", "group_ids": [id]}});
    assert_eq!(preview(&world, &bundle, by_group.clone()).await["steps"][0]["node_ids"], json!([a, b]));

    let mut body = json!({"bundle_id": bundle, "auto_start": false});
    body["target_selector"] = by_group["target_selector"].clone();
    let rollout = world.post(&world.home.path("/rollouts"), body).await.expect(201);
    let path = world.home.path(&format!("/node-groups/{id}"));
    let refused = world.delete(&path).await;
    assert_eq!(refused.body["rollout_ids"], json!([rollout["id"]]));
    refused.expect_error(409, "Node group is in use");
    let cancel = world.home.path(&format!("/rollouts/{}/cancel", rollout["id"].as_str().unwrap()));
    world.post(&cancel, json!({})).await.expect(200);
    assert_eq!(world.delete(&path).await.status, 204);

    let wrong = json!({"bundle_id": bundle, "target_selector": {"type": "selector", "selector": "region="}});
    let refused = world.post(&world.home.path("/rollouts"), wrong).await;
    refused.expect_field("target_selector", "selector: at character 8: expected a value, found the end");
    let wrong = json!({"bundle_id": bundle, "target_selector": {"type": "selector"}});
    let refused = world.post(&world.home.path("/rollouts"), wrong).await;
    assert!(refused.text.contains("must be {type: all}"), "{}", refused.text);
}

#[tokio::test]
async fn nodes_that_are_held_back_are_listed_with_the_reason() {
    let world = World::unlimited().await;
    let bundle = world.compiled(&world.home, "1.4.0").await;
    let mut nodes = Vec::new();
    for name in ["cordoned", "drained", "bounded", "within", "free"] {
        nodes.push(world.node(&world.home, name, &[]).await.0);
    }
    let path = |place: usize, rest: &str| world.home.path(&format!("/nodes/{}{rest}", nodes[place]));
    let shown = world.post(&path(0, "/cordon"), json!({})).await.expect(200);
    assert_eq!(shown["node"]["cordoned"], true);
    world.post(&path(1, "/drain"), json!({})).await.expect(200);
    let shown = world.put(&path(2, "/version-bounds"), json!({"min": "1.5.0"})).await.expect(200);
    assert_eq!(
        (&shown["node"]["min_bundle_version"], &shown["node"]["max_bundle_version"]),
        (&json!("1.5.0"), &json!(null))
    );
    world.put(&path(3, "/version-bounds"), json!({"min": "1.4.0", "max": "1.4.0"})).await.expect(200);
    let wrong = world.put(&path(3, "/version-bounds"), json!({"min": "one"})).await;
    wrong.expect_field("min", "must be a semantic version such as 1.4.0");

    let found = preview(&world, &bundle, json!({})).await;
    let excluded = found["excluded"].as_array().unwrap();
    let reason = |place: usize| {
        let id = json!(nodes[place]);
        excluded.iter().find(|one| one["node_id"] == id).map(|one| one["reason"].as_str().unwrap())
    };
    assert_eq!(
        [0, 1, 2, 3, 4].map(reason),
        [Some("cordoned"), Some("cordoned"), Some("version_bounds"), None, None]
    );
    let needs = preview(&world, &bundle, json!({"required_capabilities": ["http3"]})).await;
    let reasons: Vec<_> =
        needs["excluded"].as_array().unwrap().iter().map(|one| one["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == "missing_capability").count(), 2);
    let needs = preview(&world, &bundle, json!({"min_proxy_version": "26.3.0"})).await;
    assert!(needs["excluded"].to_string().contains("proxy_version"), "{needs}");
    let needs = preview(&world, &bundle, json!({"min_proxy_version": "26.2.0"})).await;
    assert_eq!(needs["steps"][0]["node_ids"].as_array().unwrap().len(), 2);

    let given = json!({"node_ids": nodes});
    let assigned =
        world.post(&world.home.path(&format!("/bundles/{bundle}/assign")), given).await.expect(200);
    assert_eq!(assigned["assigned"], 2);
    let skipped = assigned["skipped"].to_string();
    assert!(skipped.contains("cordoned") && skipped.contains("version_bounds"), "{skipped}");

    // What was told before the bounds were narrowed is withheld.
    assert!(world.services.fleet.offer(nodes[4]).unwrap().target.is_some());
    world.put(&path(4, "/version-bounds"), json!({"max": "1.3.0"})).await.expect(200);
    assert_eq!(world.services.fleet.offer(nodes[4]).unwrap().target, None);
    world.put(&path(4, "/version-bounds"), json!({})).await.expect(200);
    assert!(world.services.fleet.offer(nodes[4]).unwrap().target.is_some());

    let weight = || world.services.fleet.offer(nodes[1]).unwrap().traffic.unwrap().weight;
    assert_eq!(weight(), 0);
    let shown = world.post(&path(1, "/uncordon"), json!({})).await.expect(200);
    assert_eq!(shown["node"]["cordoned"], false);
    assert_eq!(weight(), 100);
    let audited = world.audited().await;
    for action in ["node.cordoned", "node.uncordoned", "node.drained", "node.version_bounds_set"] {
        assert!(audited.iter().any(|entry| entry == action), "{action}");
    }
    assert_eq!(ids(&world.get(&world.home.path("/nodes")).await.expect(200), "nodes").len(), 5);
}
