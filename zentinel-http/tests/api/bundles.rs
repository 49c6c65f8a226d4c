//! Bundles.

use crate::world::{KDL, World, ids};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use zentinel_core::entity::{ApiScope, Bundle, BundleStatus};
use zentinel_core::id::{BundleId, NodeId};
use zentinel_core::port::{Queue, Scheduler, Store, StoreExt};
use zentinel_core::{Changes, Scope};

const UNKNOWN: &str = "7b0e6a52-3c1f-4c62-9f4e-0b6a0e9f1a11";

#[tokio::test]
async fn a_bundle_is_created_compiled_and_read() {
    let world = World::new().await;
    let path = world.home.path("/bundles");
    let body = json!({"version": "1.4.0", "config_source": KDL, "risk_level": "medium",
        "files": [{"path": "ca/root.pem", "content": STANDARD.encode("not really")}]});
    let created = world.post(&path, body).await.expect(201);
    let id = created["id"].as_str().unwrap();
    let expected =
        json!({"id": id, "version": "1.4.0", "status": "pending", "project_id": world.home.project.id});
    assert_eq!(created, expected);
    let one = format!("{path}/{id}");
    let pending = world.get(&one).await.expect(200);
    assert_eq!(
        (&pending["bundle"]["status"], &pending["bundle"]["compiler_output"]),
        (&json!("pending"), &json!(null))
    );
    world.get(&format!("{one}/download")).await.expect_error(409, "Bundle is not yet compiled");
    world.get(&format!("{one}/verify")).await.expect_error(409, "Bundle is not yet compiled");
    world.get(&format!("{one}/sbom")).await.expect_error(404, "Not found");

    world.run_jobs().await;
    let bundle = world.get(&one).await.expect(200)["bundle"].clone();
    assert_eq!(bundle["status"], "compiled", "{bundle}");
    assert_eq!((&bundle["risk_level"], &bundle["signed"]), (&json!("medium"), &json!(true)));
    assert_eq!(bundle["checksum"].as_str().unwrap().len(), 64);
    assert_eq!((&bundle["source_type"], &bundle["source_ref"]), (&json!("api"), &json!(null)));

    let download = world.get(&format!("{one}/download")).await.expect(200);
    assert_eq!((&download["checksum"], &download["size"]), (&bundle["checksum"], &bundle["size_bytes"]));
    assert!(download["download_url"].as_str().unwrap().starts_with("http://cp.example/blobs/bundles/"));
    let verified = world.get(&format!("{one}/verify")).await.expect(200);
    assert_eq!(verified, json!({"verified": true, "signed": true, "key_id": bundle["signing_key_id"]}));
    let sbom = world.get(&format!("{one}/sbom")).await;
    assert_eq!(sbom.headers["content-type"], "application/vnd.cyclonedx+json");
    assert_eq!(sbom.headers["content-disposition"], "attachment; filename=\"sbom-1.4.0.json\"");
    assert_eq!(sbom.expect(200)["serialNumber"], json!(format!("urn:uuid:{id}")));
    let source = world.get(&format!("{one}/source")).await.expect(200)["source"].clone();
    assert_eq!(source["config_source"], KDL);
    assert_eq!(source["files"][0]["path"], "ca/root.pem");
    assert_eq!(world.audited().await, ["bundle.created", "bundle.compiled", "bundle.downloaded"]);
}

#[tokio::test]
async fn wrong_bundles_are_refused_and_leave_nothing() {
    let world = World::unlimited().await;
    let path = world.home.path("/bundles");
    let create = async |body: Value| world.post(&path, body).await;
    let reply = create(json!({})).await;
    let blank = json!(["can't be blank"]);
    assert_eq!(reply.body["error"], json!({"version": blank, "config_source": blank}));
    let with = |field: &str, value: Value| {
        let mut body = json!({"version": "1", "config_source": KDL});
        body[field] = value;
        body
    };
    create(with("version", json!(1))).await.expect_field("version", "is invalid");
    let long = json!("x".repeat(101));
    create(with("version", long)).await.expect_field("version", "should be at most 100 character(s)");
    create(with("config_source", json!(["x"]))).await.expect_field("config_source", "is invalid");
    create(with("config_source", json!("a\0b"))).await.expect_field("config_source", "is invalid");
    create(with("risk_level", json!("extreme"))).await.expect_field("risk_level", "is invalid");
    create(with("files", json!([{"path": 1}]))).await.expect_field("files", "is invalid");
    for path in ["../etc/passwd", "/etc/passwd", "a//b", "zentinel.kdl"] {
        let reply = create(with("files", json!([{"path": path, "content": ""}]))).await;
        assert!(reply.body["error"].get("files").is_some(), "{path}: {}", reply.text);
        reply.expect(422);
    }
    let reply = create(with("files", json!([{"path": "a", "content": "no base64!"}]))).await;
    assert!(reply.body["error"].get("files").is_some(), "{}", reply.text);
    reply.expect(422);
    let large = create(with("config_source", json!("/".repeat(5_000_000)))).await;
    assert!(large.body["error"].get("config_source").is_some(), "{}", large.text);
    large.expect(422);
    assert_eq!(world.get(&path).await.expect(200)["total"], 0);
    assert_eq!(world.store.next_due(Queue::Default).await.unwrap(), None);

    create(with("version", json!("1"))).await.expect(201);
    let taken = create(with("version", json!("1"))).await;
    assert_eq!(taken.body["error"]["project_id"], json!(["has already been taken"]));
    taken.expect_field("version", "has already been taken");
}

#[tokio::test]
async fn a_bundle_that_does_not_compile_says_why_and_can_be_deleted() {
    let world = World::new().await;
    let path = world.home.path("/bundles");
    let body = json!({"version": "1", "config_source": "listeners {"});
    let created = world.post(&path, body).await.expect(201);
    let one = format!("{path}/{}", created["id"].as_str().unwrap());
    world.run_jobs().await;
    let bundle = world.get(&one).await.expect(200)["bundle"].clone();
    assert_eq!(bundle["status"], "failed");
    assert!(bundle["compiler_output"].as_str().unwrap().contains("zentinel.kdl:"), "{bundle}");
    assert_eq!(bundle["diagnostics"][0]["severity"], "error");
    assert_eq!(world.delete(&one).await.status.as_u16(), 204);
    world.get(&one).await.expect_error(404, "Bundle not found");
    world.get(&format!("{one}/source")).await.expect_error(404, "Bundle not found");
    let compiled = world.compiled(&world.home, "2").await;
    let reply = world.delete(&format!("{path}/{compiled}")).await;
    reply.expect_error(409, "Only pending or failed bundles can be deleted");
}

#[tokio::test]
async fn the_version_of_a_failed_compile_can_be_handed_in_again() {
    let world = World::new().await;
    let path = world.home.path("/bundles");
    let with = |config: &str| json!({"version": "1", "config_source": config});
    let failed = world.post(&path, with("listeners {")).await.expect(201)["id"].clone();
    // Whether it compiles is not known yet: its version is taken.
    let taken = world.post(&path, with(KDL)).await;
    assert_eq!(taken.body["bundle"], json!({"id": failed, "version": "1", "status": "pending"}));
    taken.expect_field("version", "has already been taken");
    world.run_jobs().await;

    let mended = world.post(&path, with(KDL)).await.expect(201)["id"].clone();
    world.run_jobs().await;
    let all = world.get(&path).await.expect(200);
    assert_eq!(ids(&all, "bundles"), [mended.as_str().unwrap()], "the failed one is gone");
    assert_eq!(all["bundles"][0]["status"], "compiled");
    let source = format!("{path}/{}/source", failed.as_str().unwrap());
    world.get(&source).await.expect_error(404, "Bundle not found");
    let expected = [
        "bundle.created",
        "bundle.compilation_failed",
        "bundle.deleted",
        "bundle.created",
        "bundle.compiled",
    ];
    assert_eq!(world.audited().await, expected);

    let taken = world.post(&path, with(KDL)).await;
    assert_eq!(taken.body["bundle"]["status"], "compiled");
    assert!(taken.body["hint"].as_str().unwrap().contains("another version"), "{}", taken.text);
    taken.expect_field("version", "has already been taken");
}

#[tokio::test]
async fn of_many_that_replace_a_failed_compile_one_wins() {
    let world = World::unlimited().await;
    let path = world.home.path("/bundles");
    let with = |config: &str| json!({"version": "1", "config_source": config});
    world.post(&path, with("listeners {")).await.expect(201);
    world.run_jobs().await;
    let tries = futures_util::future::join_all((0..8).map(|_| world.post(&path, with(KDL)))).await;
    let made = tries.iter().filter(|reply| reply.status.as_u16() == 201).count();
    assert_eq!(made, 1);
    for reply in tries.into_iter().filter(|reply| reply.status.as_u16() != 201) {
        reply.expect_field("version", "has already been taken");
    }
}

#[tokio::test]
async fn lists_are_newest_first_filtered_and_paged() {
    let world = World::unlimited().await;
    let path = world.home.path("/bundles");
    let mut newest_first = Vec::new();
    for number in 0..60 {
        let body = json!({"version": number.to_string(), "config_source": "x"});
        let id = world.post(&path, body).await.expect(201)["id"].as_str().unwrap().to_owned();
        newest_first.insert(0, id);
        world.clock.advance(std::time::Duration::from_secs(1));
    }
    let first = world.get(&path).await.expect(200);
    assert_eq!((ids(&first, "bundles"), first["total"].as_u64()), (newest_first[..50].to_vec(), Some(60)));
    let next = first["next_cursor"].as_str().unwrap();
    let rest = world.get(&format!("{path}?cursor={next}")).await.expect(200);
    assert_eq!((ids(&rest, "bundles"), &rest["next_cursor"]), (newest_first[50..].to_vec(), &json!(null)));
    for (status, total) in [("pending", 60), ("compiled", 0), ("purple", 0)] {
        let body = world.get(&format!("{path}?status={status}")).await.expect(200);
        assert_eq!(body["total"], total, "{status}");
    }
    for limit in ["0", "501", "-5", "many", "99999999999999999999999"] {
        let body = world.get(&format!("{path}?limit={limit}")).await.expect(200);
        assert_eq!(ids(&body, "bundles").len(), 50, "{limit}");
    }
}

#[tokio::test]
async fn a_configuration_is_validated_without_being_stored() {
    let world = World::new().await;
    let path = world.home.path("/bundles/validate");
    let good = world.post(&path, json!({"config_source": KDL})).await.expect(200);
    assert_eq!((&good["valid"], &good["errors"]), (&json!(true), &json!([])));
    let bad = world.post(&path, json!({"config_source": "listeners {"})).await.expect(200);
    assert_eq!(bad["valid"], false);
    assert!(bad["errors"][0]["line"].is_u64(), "{bad}");
    world.post(&path, json!({})).await.expect_field("config_source", "can't be blank");
    world.post(&path, json!({"config_source": 1})).await.expect_field("config_source", "is invalid");
    assert_eq!(world.get(&world.home.path("/bundles")).await.expect(200)["total"], 0);
}

#[tokio::test]
async fn two_bundles_are_compared() {
    let world = World::new().await;
    let old = world.compiled(&world.home, "1").await;
    let body = json!({"version": "2", "config_source": KDL.replace("worker-threads 2", "worker-threads 4")});
    let new = world.post(&world.home.path("/bundles"), body).await.expect(201)["id"].clone();
    let path = world.home.path(&format!("/bundles/{}/diff", new.as_str().unwrap()));
    let diff = world.get(&format!("{path}?against={old}")).await.expect(200)["diff"].clone();
    assert_eq!((&diff["bundle_id"], &diff["against"]), (&new, &json!(old)));
    let text = diff["text"].as_str().unwrap();
    assert!(text.contains("-    worker-threads 2") && text.contains("+    worker-threads 4"), "{text}");
    assert_eq!(diff["changes"].as_array().unwrap().len(), 1, "{diff}");
    let alone = world.get(&path).await.expect(200)["diff"].clone();
    assert_eq!(alone["against"], json!(null));
    for against in ["x", UNKNOWN] {
        let reply = world.get(&format!("{path}?against={against}")).await;
        reply.expect_error(404, "Bundle not found");
    }
}

#[tokio::test]
async fn a_bundle_is_assigned_to_nodes() {
    let world = World::new().await;
    let stranger = world.stranger().await;
    let (node, _) = world.node(&world.home, "edge-1", &[]).await;
    let (theirs, _) = world.node(&stranger, "edge-1", &[]).await;
    let pending = json!({"version": "0", "config_source": KDL});
    let pending = world.post(&world.home.path("/bundles"), pending).await.expect(201)["id"].clone();
    let path = |id: &str| world.home.path(&format!("/bundles/{id}/assign"));
    let reply = world.post(&path(pending.as_str().unwrap()), json!({"node_ids": [node]})).await;
    reply.expect_error(409, "Bundle must be compiled before assignment");
    let bundle = world.compiled(&world.home, "1").await;
    let body = json!({"node_ids": [node, theirs, UNKNOWN]});
    let done = world.post(&path(&bundle), body).await.expect(200);
    assert_eq!(done["assigned"], 1);
    let skipped = done["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 2);
    assert!(skipped.iter().all(|skipped| skipped["reason"] == "not_found"), "{done}");
    let shown = world.get(&world.home.path(&format!("/nodes/{node}"))).await.expect(200);
    assert_eq!(shown["node"]["staged_bundle_id"], json!(bundle));
    // In force in memory at once.
    let target = world.services.fleet.node(node).unwrap().target().cloned().unwrap();
    assert_eq!(target.bundle_id.to_string(), bundle);

    world.post(&path(&bundle), json!({})).await.expect(200);
    world.post(&path(&bundle), json!({"node_ids": "all"})).await.expect_field("node_ids", "is invalid");
    world.post(&path(&bundle), json!({"node_ids": ["x"]})).await.expect_field("node_ids", "is invalid");
    let narrow = world.key(&[ApiScope::BundlesWrite], false).await;
    let forced = Some(json!({"node_ids": [node], "force": true}));
    let reply = world.call("POST", &path(&bundle), &narrow, forced).await;
    reply.expect_error(403, "Insufficient scope. Required: rollouts:write");
    world.post(&path(UNKNOWN), json!({"node_ids": []})).await.expect_error(404, "Bundle not found");
}

#[tokio::test]
async fn a_revoked_bundle_is_handed_out_no_more() {
    let world = World::new().await;
    let (node, _) = world.node(&world.home, "edge-1", &[]).await;
    let bundle = world.compiled(&world.home, "1").await;
    let one = world.home.path(&format!("/bundles/{bundle}"));
    world.post(&format!("{one}/assign"), json!({"node_ids": [node]})).await.expect(200);
    let revoked = world.post(&format!("{one}/revoke"), json!({})).await.expect(200);
    assert_eq!(revoked["bundle"]["status"], "revoked");
    world
        .post(&format!("{one}/revoke"), json!({}))
        .await
        .expect_error(409, "Only compiled bundles can be revoked");
    world.get(&format!("{one}/download")).await.expect_error(409, "Bundle has been revoked");
    world.get(&format!("{one}/verify")).await.expect_error(409, "Bundle has been revoked");
    let reply = world.post(&format!("{one}/assign"), json!({"node_ids": [node]})).await;
    assert_eq!(reply.status.as_u16(), 409, "{}", reply.text);
    let rollout = json!({"bundle_id": bundle});
    let reply = world.post(&world.home.path("/rollouts"), rollout).await;
    reply.expect_error(409, "Bundle must be compiled before rollout");
    let shown = world.get(&world.home.path(&format!("/nodes/{node}"))).await.expect(200);
    assert_eq!(shown["node"]["staged_bundle_id"], json!(null));
}

#[tokio::test]
async fn an_archive_that_is_gone_or_changed_is_noticed() {
    let world = World::new().await;
    let bundle = world.compiled(&world.home, "1").await;
    let one = world.home.path(&format!("/bundles/{bundle}"));
    let id: BundleId = bundle.parse().unwrap();
    let read = world.store.fetch::<Bundle>(&Scope::Instance, id).await.unwrap();
    assert_eq!(read.status, BundleStatus::Compiled);
    let mut other = read.value.clone();
    other.checksum = Some(zentinel_core::Sha256Digest::of(b"something else"));
    world.store.commit(Changes::new().update(&read, &other).unwrap()).await.unwrap();
    let verified = world.get(&format!("{one}/verify")).await.expect(200);
    assert_eq!((&verified["verified"], &verified["signed"]), (&json!(false), &json!(true)));
    let key = read.storage_key.clone().unwrap();
    world.services.blobs.delete(&key).await.unwrap();
    let reply = world.get(&format!("{one}/verify")).await;
    reply.expect_error(500, "Failed to retrieve bundle for verification");
    for rest in ["", "/download", "/verify", "/source", "/diff"] {
        for id in [NodeId::random().to_string(), "nope".to_owned()] {
            let reply = world.get(&world.home.path(&format!("/bundles/{id}{rest}"))).await;
            reply.expect_error(404, "Bundle not found");
        }
    }
}
