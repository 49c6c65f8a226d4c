//! Nodes and groups.

use crate::world::{World, ids};
use serde_json::json;
use std::time::Duration;
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::{ApiScope, Node, NodeReport, NodeStatus};
use zentinel_core::id::{NodeId, TypedId};
use zentinel_core::log::{LogKind, LogRow};
use zentinel_core::port::{Queue, Scheduler, Store, StoreExt};
use zentinel_core::{Changes, Scope};

#[tokio::test]
async fn nodes_are_listed_by_name_and_filtered() {
    let world = World::new().await;
    let (b, _) =
        world.node(&world.home, "b", &[("region", "eu"), ("app.kubernetes.io/name-x", "edge")]).await;
    let (a, _) = world.node(&world.home, "a", &[("region", "us")]).await;
    let (c, _) = world.node(&world.home, "c", &[("region", "eu")]).await;
    let list = async |query: &str| world.get(&world.home.path(&format!("/nodes{query}"))).await.expect(200);
    let names = |nodes: &[NodeId]| nodes.iter().map(ToString::to_string).collect::<Vec<_>>();
    let all = list("").await;
    assert_eq!(ids(&all, "nodes"), names(&[a, b, c]));
    assert_eq!(all["total"], 3);
    assert_eq!(ids(&list("?labels[region]=eu").await, "nodes"), names(&[b, c]));
    let both = list("?labels%5Bregion%5D=eu&labels%5Bapp.kubernetes.io%2Fname-x%5D=edge").await;
    assert_eq!(ids(&both, "nodes"), names(&[b]));
    assert_eq!(list("?labels[region]=mars").await["total"], 0);
    assert_eq!(ids(&list("?name=b").await, "nodes"), names(&[b]));
    assert_eq!(list("?name=B").await["total"], 0);

    let mut report = world.services.fleet.report(c).unwrap();
    report.status = NodeStatus::Offline;
    world.store.commit(Changes::new().upsert(&report).unwrap()).await.unwrap();
    assert_eq!(ids(&list("?status=offline").await, "nodes"), names(&[c]));
    assert_eq!(ids(&list("?status=online&labels[region]=eu").await, "nodes"), names(&[b]));
    assert_eq!(list("?status=purple").await["total"], 3);

    let first = list("?limit=2").await;
    assert_eq!((ids(&first, "nodes"), first["total"].as_u64()), (names(&[a, b]), Some(3)));
    let next = first["next_cursor"].as_str().unwrap();
    let rest = list(&format!("?limit=2&cursor={next}")).await;
    assert_eq!((ids(&rest, "nodes"), &rest["next_cursor"]), (names(&[c]), &json!(null)));
    let reply = world.get(&world.home.path("/nodes?cursor=made-up")).await;
    reply.expect_field("cursor", "is invalid");
}

#[tokio::test]
async fn a_node_shows_what_is_wanted_and_what_it_said() {
    let world = World::new().await;
    let (id, _) = world.node(&world.home, "edge-1", &[("region", "eu")]).await;
    let shown = world.get(&world.home.path(&format!("/nodes/{id}"))).await.expect(200);
    let node = &shown["node"];
    assert_eq!(
        (&node["name"], &node["status"], &node["version"]),
        (&json!("edge-1"), &json!("online"), &json!("26.2.0"))
    );
    assert_eq!(node["last_seen_at"], "2026-02-23T10:00:05Z");
    assert_eq!((&node["auth_method"], &node["drifted"]), (&json!("static_key"), &json!(false)));
    for absent in
        ["ip", "hostname", "active_bundle_id", "environment_id", "min_bundle_version", "bundle_error"]
    {
        assert_eq!(node.get(absent), Some(&json!(null)), "{absent}");
    }
    let stats = world.get(&world.home.path("/nodes/stats")).await.expect(200);
    assert_eq!(stats, json!({"total": 1, "by_status": {"online": 1}}));
    for id in [NodeId::random().to_string(), "not-a-uuid".to_owned()] {
        let reply = world.get(&world.home.path(&format!("/nodes/{id}"))).await;
        reply.expect_error(404, "Node not found");
    }
}

#[tokio::test]
async fn labels_and_approval_are_changed() {
    let world = World::new().await;
    let (id, _) = world.node(&world.home, "edge-1", &[("region", "eu")]).await;
    let path = world.home.path(&format!("/nodes/{id}"));
    let changed = world.patch(&path, json!({"labels": {"region": "us", "tier": "1"}})).await.expect(200);
    assert_eq!(changed["node"]["labels"], json!({"region": "us", "tier": "1"}));
    world.patch(&path, json!({"approved": false})).await.expect(200);
    // In force in memory, too.
    assert!(!world.services.fleet.node(id).unwrap().approved);
    world.patch(&path, json!({"labels": ["x"]})).await.expect_field("labels", "is invalid");
    world.patch(&path, json!({"labels": {"a": 1}})).await.expect_field("labels", "is invalid");
    world.patch(&path, json!({"approved": "yes"})).await.expect_field("approved", "is invalid");
    assert_eq!(world.audited().await, ["node.updated", "node.updated"]);
}

#[tokio::test]
async fn a_pin_names_a_bundle_of_the_project() {
    let world = World::new().await;
    let stranger = world.stranger().await;
    let (id, _) = world.node(&world.home, "edge-1", &[]).await;
    let bundle = world.compiled(&world.home, "1").await;
    let theirs = world.compiled(&stranger, "1").await;
    let path = world.home.path(&format!("/nodes/{id}/pin"));
    let pinned = world.put(&path, json!({"bundle_id": bundle})).await.expect(200);
    assert_eq!(pinned["node"]["pinned_bundle_id"], json!(bundle));
    world.put(&path, json!({"bundle_id": theirs})).await.expect_field("bundle_id", "does not exist");
    world.put(&path, json!({"bundle_id": "x"})).await.expect_field("bundle_id", "is invalid");
    world.put(&path, json!({})).await.expect_field("bundle_id", "can't be blank");
    let free = world.put(&path, json!({"bundle_id": null})).await.expect(200);
    assert_eq!(free["node"]["pinned_bundle_id"], json!(null));
    let audited = world.audited().await;
    assert_eq!(audited[audited.len() - 2..], ["node.pinned", "node.unpinned"]);
}

#[tokio::test]
async fn a_revoked_node_key_stops_working_at_once() {
    let world = World::new().await;
    let (id, key) = world.node(&world.home, "edge-1", &[]).await;
    let hash = CredentialHash::of(&key);
    assert_eq!(world.services.fleet.authenticate(&hash).map(|node| node.id), Some(id));
    let path = world.home.path(&format!("/nodes/{id}/revoke-key"));
    world.post(&path, json!({})).await.expect(200);
    assert_eq!(world.services.fleet.authenticate(&hash), None);
    let node = world.services.fleet.node(id).unwrap();
    assert_eq!(node.tokens_valid_after, Some(world.now()));
    assert_eq!(world.audited().await, ["node.key_revoked"]);
}

#[tokio::test]
async fn a_node_key_is_replaced_and_the_old_one_ends_after_five_minutes() {
    let world = World::new().await;
    let (id, key) = world.node(&world.home, "edge-1", &[]).await;
    let path = world.home.path(&format!("/nodes/{id}/rotate-key"));
    let works = |key: &str| {
        let node = world.services.fleet.authenticate(&CredentialHash::of(key));
        node.is_some_and(|node| node.id == id)
    };

    let rotated = world.post(&path, json!({})).await.expect(200);
    let new = rotated["node_key"].as_str().unwrap().to_owned();
    assert_eq!((new.len(), &rotated["old_key_valid_until"]), (43, &json!("2026-02-23T10:05:05Z")));
    assert!(works(&new) && works(&key), "both, so that the node can be told in peace");
    world.clock.advance(Duration::from_secs(300));
    assert!(works(&new) && !works(&key));

    // Nobody else may, and what is shown once is not in the audit log.
    let reader = world.key(&[ApiScope::NodesRead], true).await;
    let refused = world.call("POST", &path, &reader, Some(json!({}))).await;
    refused.expect_error(403, "Insufficient scope. Required: nodes:write");
    let stranger = world.stranger().await;
    let refused = world.call("POST", &path, &stranger.key, Some(json!({}))).await;
    refused.expect_error(404, "Node not found");
    let unknown = world.home.path(&format!("/nodes/{}/rotate-key", NodeId::random()));
    world.post(&unknown, json!({})).await.expect_error(404, "Node not found");
    let log = world.get("/api/v1/audit/logs").await.expect(200);
    assert_eq!(log["entries"][0]["action"], "node.key_rotated");
    assert!(!log.to_string().contains(&new));
}

#[tokio::test]
async fn a_new_key_lets_a_revoked_node_in_again_and_the_revoked_one_stays_out() {
    let world = World::new().await;
    let (id, key) = world.node(&world.home, "edge-1", &[]).await;
    let call = async |verb: &str| {
        world.post(&world.home.path(&format!("/nodes/{id}/{verb}-key")), json!({})).await.expect(200)
    };
    let first = call("rotate").await["node_key"].as_str().unwrap().to_owned();
    call("revoke").await;
    let works = |key: &str| {
        let node = world.services.fleet.authenticate(&CredentialHash::of(key));
        node.is_some_and(|node| node.id == id)
    };
    assert!(!works(&key) && !works(&first), "neither the key nor the one before it");
    let second = call("rotate").await["node_key"].as_str().unwrap().to_owned();
    assert!(works(&second) && !works(&key) && !works(&first));
    assert_eq!(world.audited().await, ["node.key_rotated", "node.key_revoked", "node.key_rotated"]);
}

#[tokio::test]
async fn a_deleted_node_leaves_nothing_behind() {
    let world = World::new().await;
    let (id, key) = world.node(&world.home, "edge-1", &[]).await;
    let (other, _) = world.node(&world.home, "edge-2", &[]).await;
    let group = world.post(&world.home.path("/node-groups"), json!({"name": "g"})).await.expect(201);
    let group = world.home.path(&format!("/node-groups/{}", group["node_group"]["id"].as_str().unwrap()));
    world.put(&format!("{group}/nodes"), json!({"node_ids": [id, other]})).await.expect(200);
    // It takes part in a rollout, whose next look is only due in an hour.
    let rollout = zentinel_core::id::RolloutId::random();
    let read = world.store.fetch::<Node>(&Scope::Instance, id).await.unwrap();
    let mut busy = read.value.clone();
    busy.rollout_id = Some(rollout);
    world.store.commit(Changes::new().update(&read, &busy).unwrap()).await.unwrap();

    let path = world.home.path(&format!("/nodes/{id}"));
    let reply = world.delete(&path).await;
    assert_eq!((reply.status.as_u16(), reply.text.as_str()), (204, ""));
    world.get(&path).await.expect_error(404, "Node not found");
    world.delete(&path).await.expect_error(404, "Node not found");
    assert_eq!(world.services.fleet.authenticate(&CredentialHash::of(&key)), None);
    assert!(world.store.find::<NodeReport>(&Scope::Instance, id).await.unwrap().is_none());
    let shown = world.get(&group).await.expect(200);
    assert_eq!(shown["node_group"]["node_ids"], json!([other]));
    assert_eq!(world.store.next_due(Queue::Rollouts).await.unwrap(), Some(world.now()));
    assert_eq!(world.audited().await.last().unwrap(), "node.deleted");
}

#[tokio::test]
async fn history_is_paged_newest_first() {
    let world = World::new().await;
    let (id, _) = world.node(&world.home, "edge-1", &[]).await;
    let mut changes = Changes::new();
    for number in 0..5 {
        for kind in [LogKind::NodeEvent, LogKind::Heartbeat] {
            changes = changes.append(LogRow {
                kind,
                id: uuid::Uuid::new_v4(),
                organisation_id: Some(world.home.organisation.id),
                project_id: Some(world.home.project.id),
                owner: id.uuid(),
                at: world.now(),
                dedup_key: None,
                body: json!({"message": number}),
            });
        }
    }
    world.store.commit(changes).await.unwrap();
    for list in ["events", "heartbeats"] {
        let path = world.home.path(&format!("/nodes/{id}/{list}"));
        let first = world.get(&format!("{path}?limit=3")).await.expect(200);
        let messages: Vec<_> = first[list].as_array().unwrap().iter().map(|item| &item["message"]).collect();
        assert_eq!(messages, [4, 3, 2], "{list}");
        assert_eq!((first["total"].as_u64(), &first[list][0]["node_id"]), (Some(5), &json!(id)));
        let next = first["next_cursor"].as_str().unwrap();
        let rest = world.get(&format!("{path}?limit=3&cursor={next}")).await.expect(200);
        assert_eq!((rest[list].as_array().unwrap().len(), &rest["next_cursor"]), (2, &json!(null)));
        let unknown = world.home.path(&format!("/nodes/{}/{list}", NodeId::random()));
        world.get(&unknown).await.expect_error(404, "Node not found");
    }
}

#[tokio::test]
async fn groups_are_created_filled_changed_and_deleted() {
    let world = World::new().await;
    let stranger = world.stranger().await;
    let (node, _) = world.node(&world.home, "edge-1", &[]).await;
    let (theirs, _) = world.node(&stranger, "edge-1", &[]).await;
    let path = world.home.path("/node-groups");
    let created = world.post(&path, json!({"name": "canaries", "description": "first"})).await.expect(201);
    assert_eq!(created["node_group"]["color"], "#6366f1");
    let taken = world.post(&path, json!({"name": "canaries"})).await;
    assert_eq!(taken.body["error"]["project_id"], json!(["has already been taken"]));
    taken.expect_field("name", "has already been taken");
    world.post(&path, json!({})).await.expect_field("name", "can't be blank");
    world.post(&path, json!({"name": "a", "color": "red"})).await.expect_field("color", "is invalid");

    let one = format!("{path}/{}", created["node_group"]["id"].as_str().unwrap());
    let filled = world.put(&format!("{one}/nodes"), json!({"node_ids": [node]})).await.expect(200);
    assert_eq!(filled["node_group"]["node_ids"], json!([node]));
    let shown = world.get(&world.home.path(&format!("/nodes/{node}"))).await.expect(200);
    assert_eq!(shown["node"]["group_ids"], json!([created["node_group"]["id"]]));
    for bad in [json!([node, theirs]), json!([NodeId::random()])] {
        let reply = world.put(&format!("{one}/nodes"), json!({"node_ids": bad})).await;
        reply.expect_field("node_ids", "does not exist");
    }
    let reply = world.put(&format!("{one}/nodes"), json!({"node_ids": ["x"]})).await;
    reply.expect_field("node_ids", "is invalid");
    world.put(&format!("{one}/nodes"), json!({})).await.expect_field("node_ids", "can't be blank");

    let changed = world.patch(&one, json!({"name": "early", "description": null})).await.expect(200);
    assert_eq!(
        (&changed["node_group"]["name"], &changed["node_group"]["description"]),
        (&json!("early"), &json!(null))
    );
    assert_eq!(changed["node_group"]["node_ids"], json!([node]));
    assert_eq!(world.get(&path).await.expect(200)["node_groups"][0], changed["node_group"]);
    assert_eq!(world.delete(&one).await.status.as_u16(), 204);
    world.get(&one).await.expect_error(404, "Node group not found");
    let expected = ["created", "nodes_set", "updated", "deleted"].map(|verb| format!("node_group.{verb}"));
    assert_eq!(world.audited().await, expected);
}
