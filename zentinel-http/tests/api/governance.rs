//! Approvals, schedules, freeze windows, templates, environments and promotion.

use crate::world::{World, ids, insert};
use chrono::TimeDelta;
use serde_json::{Value, json};
use std::time::Duration;
use zentinel_core::entity::{ApiKey, ApiScope, Membership, Role, User};

const SCOPES: [ApiScope; 6] = [
    ApiScope::RolloutsRead,
    ApiScope::RolloutsWrite,
    ApiScope::BundlesRead,
    ApiScope::BundlesWrite,
    ApiScope::NodesRead,
    ApiScope::NodesWrite,
];

/// The key of a new person with a role in the home organisation; without `orgs:admin`.
async fn person(world: &World, email: &str, role: Role) -> String {
    let user = User::new(email, "hash".to_owned(), Role::Reader, world.now()).unwrap();
    let organisation = world.home.organisation.id;
    let membership = Membership::new(organisation, user.id, role, world.now());
    let scopes = SCOPES.into_iter().collect();
    let (key, raw) =
        ApiKey::issue(organisation, None, Some(user.id), "theirs", scopes, None, world.now()).unwrap();
    insert(&*world.store, &user).await;
    insert(&*world.store, &membership).await;
    insert(&*world.store, &key).await;
    raw.expose().to_owned()
}

fn id(body: &Value) -> String {
    body["id"].as_str().unwrap().to_owned()
}

fn time(world: &World, seconds: i64) -> String {
    (world.now() + TimeDelta::seconds(seconds)).to_rfc3339()
}

/// Development, staging and production, by slug.
async fn environments(world: &World) -> [String; 3] {
    let made = world.post(&world.home.path("/environments/defaults"), json!({})).await.expect(201);
    let made = ids(&made, "environments");
    [made[0].clone(), made[1].clone(), made[2].clone()]
}

async fn place(world: &World, name: &str, environment: &str) -> String {
    let node = world.node(&world.home, name, &[]).await.0.to_string();
    let path = world.home.path(&format!("/nodes/{node}"));
    let shown = world.patch(&path, json!({"environment_id": environment})).await.expect(200);
    assert_eq!(shown["node"]["environment_id"], environment);
    node
}

#[tokio::test]
async fn a_rollout_waits_for_two_people_and_starts_with_the_second() {
    let world = World::unlimited().await;
    world.node(&world.home, "edge-1", &[]).await;
    let bundle = world.compiled(&world.home, "1").await;
    let settings = json!({"settings": {"approval_required": true, "approvals_needed": 2}});
    let project = world.patch(&world.home.path(""), settings).await.expect(200);
    assert_eq!(project["project"]["settings"]["approvals_needed"], 2);
    let creator = person(&world, "creator@example.com", Role::Operator).await;
    let path = world.home.path("/rollouts");
    let created = world.call("POST", &path, &creator, Some(json!({"bundle_id": bundle}))).await.expect(201);
    assert_eq!(
        (&created["state"], &created["approval_state"]),
        (&json!("pending"), &json!("pending_approval"))
    );
    assert_eq!(created["approvals"], json!({"count": 0, "needed": 2}));
    assert_eq!(created["waiting"]["summary"], "Waits for 2 approvals.");
    let one = format!("{path}/{}", id(&created));
    let started = world.post(&format!("{one}/start"), json!({})).await;
    assert_eq!(started.body["approval_state"], "pending_approval");
    started.expect_error(409, "Approval required");

    let say = async |key: &str, verb: &str, body: Value| {
        world.call("POST", &format!("{one}/{verb}"), key, Some(body)).await
    };
    say(&creator, "approve", json!({})).await.expect_error(409, "self_approval");
    let reader = person(&world, "reader@example.com", Role::Reader).await;
    say(&reader, "approve", json!({})).await.expect_error(403, "not_authorized");
    let first = person(&world, "first@example.com", Role::Operator).await;
    let second = person(&world, "second@example.com", Role::Admin).await;
    say(&first, "reject", json!({})).await.expect_error(422, "comment_required");
    let approved = say(&first, "approve", json!({"comment": "looks good"})).await.expect(200);
    assert_eq!(approved["waiting"]["summary"], "Waits for 1 of 2 approvals.");
    say(&first, "approve", json!({})).await.expect_error(409, "already_approved");
    assert_eq!(say(&second, "approve", json!({})).await.expect(200)["state"], "running");
    say(&second, "approve", json!({})).await.expect_error(409, "invalid_state");

    let list = world.get(&format!("{one}/approvals")).await.expect(200);
    assert_eq!(
        (&list["total"], &list["needed"], &list["approval_state"]),
        (&json!(2), &json!(2), &json!("approved"))
    );
    assert_eq!(list["approvals"][0]["comment"], "looks good");
    assert_eq!(list["approvals"][0]["by_type"], "user");
    let audited = world.audited().await;
    assert_eq!(audited.iter().filter(|action| *action == "rollout.approved").count(), 2);
    let events = world.get("/api/v1/projects/edge/events?limit=500").await;
    assert!(events.text.contains("first@example.com"), "{}", events.text);
}

#[tokio::test]
async fn a_rejection_is_shown_with_its_comment() {
    let world = World::new().await;
    world.node(&world.home, "edge-1", &[]).await;
    let bundle = world.compiled(&world.home, "1").await;
    let settings = json!({"settings": {"approval_required": true}});
    world.patch(&world.home.path(""), settings).await.expect(200);
    let path = world.home.path("/rollouts");
    let one = format!("{path}/{}", id(&world.post(&path, json!({"bundle_id": bundle})).await.expect(201)));
    // A key that belongs to nobody speaks for itself, and is not the one that created the rollout.
    let other = world.key(&[ApiScope::RolloutsWrite], true).await;
    let body = Some(json!({"comment": " not on a Friday "}));
    let rejected = world.call("POST", &format!("{one}/reject"), &other, body).await.expect(200);
    assert_eq!((&rejected["state"], &rejected["approval_state"]), (&json!("pending"), &json!("rejected")));
    assert_eq!(rejected["rejection_comment"], "not on a Friday");
    world.post(&format!("{one}/start"), json!({})).await.expect_error(409, "Approval required");
    assert_eq!(world.post(&format!("{one}/cancel"), json!({})).await.expect(200)["state"], "cancelled");
}

#[tokio::test]
async fn a_scheduled_rollout_starts_by_its_job() {
    let world = World::new().await;
    world.node(&world.home, "edge-1", &[]).await;
    let bundle = world.compiled(&world.home, "1").await;
    let path = world.home.path("/rollouts");
    let past = json!({"bundle_id": bundle, "scheduled_at": time(&world, -1)});
    world.post(&path, past).await.expect_field("scheduled_at", "must be in the future");
    let contradiction = json!({"bundle_id": bundle, "scheduled_at": time(&world, 60), "auto_start": false});
    world.post(&path, contradiction).await.expect_field("auto_start", "must be true with scheduled_at");
    let body = json!({"bundle_id": bundle, "scheduled_at": time(&world, 3_600)});
    let dry = world.post(&format!("{path}?dry_run=true"), body.clone()).await.expect(200);
    assert!(dry["preview"]["waits"][0].as_str().unwrap().starts_with("Starts at "), "{dry}");
    let created = world.post(&path, body).await.expect(201);
    assert_eq!((&created["state"], &created["approval_state"]), (&json!("pending"), &json!("not_required")));
    assert_eq!(created["scheduled_at"], created["waiting"]["until"]);
    let one = format!("{path}/{}", id(&created));
    world.clock.advance(Duration::from_secs(3_599));
    world.run_jobs().await;
    assert_eq!(world.get(&one).await.expect(200)["rollout"]["state"], "pending");
    world.clock.advance(Duration::from_secs(1));
    world.run_jobs().await;
    let rollout = &world.get(&one).await.expect(200)["rollout"];
    assert_eq!((&rollout["state"], &rollout["started_at"]), (&json!("running"), &rollout["scheduled_at"]));
}

#[tokio::test]
async fn freeze_windows_are_kept_and_kept_to() {
    let world = World::unlimited().await;
    world.node(&world.home, "edge-1", &[]).await;
    let bundle = world.compiled(&world.home, "1").await;
    let path = world.home.path("/freeze-windows");
    let once = json!({"name": "Sale", "reason": "busy", "starts_at": time(&world, -60), "ends_at": time(&world, 600)});
    let operator = person(&world, "op@example.com", Role::Operator).await;
    let refused = world.call("POST", &path, &operator, Some(once.clone())).await;
    refused.expect_error(403, "Requires an organisation admin");
    let admin = person(&world, "admin@example.com", Role::Admin).await;
    let window = &world.call("POST", &path, &admin, Some(once)).await.expect(201)["freeze_window"];
    assert_eq!((&window["active"], &window["active_until"]), (&json!(true), &window["ends_at"]));
    // 2026-02-23 is a Monday.
    let weekly = json!({
        "name": "Nights",
        "recurrence": {"weekdays": ["sun"], "from": "22:00", "to": "06:00", "time_zone": "Europe/Berlin"},
    });
    let weekly = &world.post(&path, weekly).await.expect(201)["freeze_window"];
    assert_eq!((&weekly["active"], &weekly["starts_at"]), (&json!(false), &json!(null)));
    for (body, field, message) in [
        (json!({}), "name", "can't be blank"),
        (json!({"name": "x", "starts_at": time(&world, 0)}), "ends_at", "can't be blank"),
        (
            json!({"name": "x", "starts_at": time(&world, 0), "ends_at": time(&world, -1)}),
            "ends_at",
            "must be after starts_at",
        ),
        (
            json!({"name": "x", "recurrence": {"weekdays": ["mon"], "from": "1", "to": "02:00", "time_zone": "UTC"}}),
            "recurrence.from",
            "must be HH:MM, from 00:00 to 23:59",
        ),
        (
            json!({"name": "x", "starts_at": "now", "ends_at": time(&world, 9)}),
            "starts_at",
            "must be a time such as 2026-02-23T10:00:00Z",
        ),
    ] {
        world.post(&path, body).await.expect_field(field, message);
    }
    let foreign = json!({
        "name": "x", "starts_at": time(&world, 0), "ends_at": time(&world, 9),
        "environment_id": zentinel_core::id::EnvironmentId::random(),
    });
    world.post(&path, foreign).await.expect_field("environment_id", "does not exist");
    let active = world.get(&format!("{path}?active=true")).await.expect(200);
    assert_eq!((ids(&active, "freeze_windows"), active["total"].as_u64()), (vec![id(window)], Some(1)));
    assert_eq!(world.get(&path).await.expect(200)["total"], 2);

    // A second one that overlaps ends later: that is what the refusal names.
    let longer = json!({"name": "Longer", "starts_at": time(&world, -5), "ends_at": time(&world, 900)});
    let longer = &world.post(&path, longer).await.expect(201)["freeze_window"];
    let rollouts = world.home.path("/rollouts");
    let refused = world.post(&rollouts, json!({"bundle_id": bundle})).await;
    assert_eq!(
        refused.body["freeze_window"],
        json!({"id": longer["id"], "name": "Longer", "ends_at": longer["ends_at"]})
    );
    refused.expect_error(409, "Freeze window active");
    let plea = json!({"bundle_id": bundle, "override_freeze": true});
    world.post(&rollouts, plea).await.expect_field("override_reason", "can't be blank");
    let plea = json!({"bundle_id": bundle, "override_freeze": true, "override_reason": "outage"});
    let refused = world.call("POST", &rollouts, &operator, Some(plea.clone())).await;
    refused.expect_error(403, "Requires an organisation admin");
    let made = world.call("POST", &rollouts, &admin, Some(plea)).await.expect(201);
    assert_eq!((&made["state"], &made["freeze_override_reason"]), (&json!("running"), &json!("outage")));

    let one = format!("{path}/{}", id(longer));
    let moved = world.patch(&one, json!({"ends_at": time(&world, 60)})).await.expect(200);
    assert_eq!(moved["freeze_window"]["starts_at"], longer["starts_at"]);
    let turned =
        json!({"recurrence": {"weekdays": ["mon"], "from": "00:00", "to": "00:00", "time_zone": "UTC"}});
    let turned = world.patch(&one, turned).await.expect(200);
    assert_eq!(turned["freeze_window"]["active_until"], "2026-02-24T00:00:00Z");
    world.call("DELETE", &one, &operator, None).await.expect_error(403, "Requires an organisation admin");
    world.delete(&one).await.expect(204);
    world.get(&one).await.expect_error(404, "Freeze window not found");
    let audited = world.audited().await;
    for action in [
        "freeze_window.created",
        "freeze_window.updated",
        "freeze_window.deleted",
        "rollout.freeze_overridden",
    ] {
        assert!(audited.iter().any(|one| one == action), "{action} in {audited:?}");
    }
}

#[tokio::test]
async fn templates_fill_in_what_is_left_out() {
    let world = World::unlimited().await;
    world.node(&world.home, "edge-1", &[]).await;
    let bundle = world.compiled(&world.home, "1").await;
    let path = world.home.path("/rollout-templates");
    let careful = json!({
        "name": "careful", "batch_percentage": 10, "health_gates": {"max_error_rate": 1.0}, "is_default": true,
    });
    let careful = &world.post(&path, careful).await.expect(201)["rollout_template"];
    assert_eq!((&careful["batch_percentage"], &careful["strategy"]), (&json!(10), &json!("rolling")));
    let fast = json!({"name": "fast", "strategy": "all_at_once", "description": "for toys"});
    let fast = &world.post(&path, fast).await.expect(201)["rollout_template"];
    for (body, field, message) in [
        (json!({"strategy": "rolling"}), "name", "can't be blank"),
        (json!({"name": "careful"}), "name", "has already been taken"),
        (json!({"name": "x", "batch_size": 0}), "batch_size", "must be greater than 0"),
        (json!({"name": "x", "health_gates": {"foo": 1}}), "health_gates", "unknown keys: foo"),
    ] {
        world.post(&path, body).await.expect_field(field, message);
    }
    let rollouts = world.home.path("/rollouts");
    let create = async |extra: Value| {
        let mut body = json!({"bundle_id": bundle, "auto_start": false});
        body.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        world.post(&rollouts, body).await
    };
    let by_default = create(json!({})).await.expect(201);
    assert_eq!((&by_default["template_id"], &by_default["batch_percentage"]), (&careful["id"], &json!(10)));
    assert_eq!(by_default["health_gates"], json!({"max_error_rate": 1.0}));
    for own in [json!({"strategy": "rolling"}), json!({"template_id": null})] {
        let without = create(own).await.expect(201);
        assert_eq!((&without["template_id"], &without["batch_percentage"]), (&json!(null), &json!(null)));
    }
    let named = create(json!({"template_id": fast["id"], "max_unavailable": 2})).await.expect(201);
    assert_eq!((&named["strategy"], &named["max_unavailable"]), (&json!("all_at_once"), &json!(2)));
    let sized = create(json!({"template_id": careful["id"], "batch_size": 3})).await.expect(201);
    assert_eq!((&sized["batch_size"], &sized["batch_percentage"]), (&json!(3), &json!(null)));
    let unknown = create(json!({"template_id": bundle})).await;
    unknown.expect_field("template_id", "does not exist");

    // The default changes hands in one commit.
    let one = format!("{path}/{}", id(fast));
    world.patch(&one, json!({"is_default": true})).await.expect(200);
    let list = world.get(&path).await.expect(200);
    assert_eq!(ids(&list, "rollout_templates"), [id(fast), id(careful)], "the default first");
    let defaults =
        list["rollout_templates"].as_array().unwrap().iter().filter(|one| one["is_default"] == true);
    assert_eq!(defaults.count(), 1);
    let page = world.get(&format!("{path}?limit=1")).await.expect(200);
    let next = page["next_cursor"].as_str().unwrap();
    let rest = world.get(&format!("{path}?limit=1&cursor={next}")).await.expect(200);
    assert_eq!((ids(&rest, "rollout_templates"), &rest["next_cursor"]), (vec![id(careful)], &json!(null)));
    let back = world.patch(&one, json!({"strategy": null, "description": null})).await.expect(200);
    assert_eq!(back["rollout_template"]["strategy"], "rolling");
    world.delete(&one).await.expect(204);
    assert_eq!(create(json!({})).await.expect(201)["template_id"], json!(null));
}

#[tokio::test]
async fn a_default_template_changes_hands_under_contention() {
    let world = World::unlimited().await;
    let path = world.home.path("/rollout-templates");
    let names: Vec<String> = (0..5).map(|number| format!("t{number}")).collect();
    let made = names.iter().map(|name| world.post(&path, json!({"name": name, "is_default": true})));
    for reply in futures_util::future::join_all(made).await {
        assert!(matches!(reply.status.as_u16(), 201 | 409), "{}", reply.text);
    }
    let list = world.get(&path).await.expect(200);
    let templates = list["rollout_templates"].as_array().unwrap();
    assert_eq!(templates.iter().filter(|one| one["is_default"] == true).count(), 1);
}

#[tokio::test]
async fn environments_are_ordered_and_guard_their_nodes() {
    let world = World::unlimited().await;
    let path = world.home.path("/environments");
    let [dev, staging, prod] = environments(&world).await;
    environments(&world).await;
    let list = world.get(&path).await.expect(200);
    assert_eq!(list["total"], 3, "the second call creates nothing");
    let slugs: Vec<_> =
        list["environments"].as_array().unwrap().iter().map(|one| one["slug"].as_str().unwrap()).collect();
    assert_eq!(slugs, ["dev", "staging", "prod"]);
    assert_eq!(list["environments"][2]["settings"]["approval_required"], true);
    world.post(&path, json!({"name": "Prod"})).await.expect_field("slug", "has already been taken");
    world
        .post(&path, json!({"name": "x", "slug": "No!"}))
        .await
        .expect_field("slug", "must contain only lowercase letters, numbers, and hyphens");
    let operator = person(&world, "op@example.com", Role::Operator).await;
    let body = Some(json!({"name": "QA", "ordinal": -1}));
    world
        .call("POST", &path, &operator, body.clone())
        .await
        .expect_error(403, "Requires an organisation admin");
    let admin = person(&world, "admin@example.com", Role::Admin).await;
    let qa = id(&world.call("POST", &path, &admin, body).await.expect(201)["environment"]);
    assert_eq!(ids(&world.get(&path).await.expect(200), "environments")[0], qa);
    world.delete(&format!("{path}/{qa}")).await.expect(204);

    let (node, other) = (place(&world, "dev-1", &dev).await, place(&world, "prod-1", &prod).await);
    let in_use = world.delete(&format!("{path}/{prod}")).await;
    assert_eq!(in_use.body["nodes"], 1);
    in_use.expect_error(409, "Environment is in use");
    let bundle = world.compiled(&world.home, "1").await;
    let rollouts = world.home.path("/rollouts");
    let to = |environment: &str| json!({"bundle_id": bundle, "environment_id": environment});
    let made = world.post(&rollouts, to(&dev)).await.expect(201);
    assert_eq!((&made["state"], &made["environment_id"]), (&json!("running"), &json!(dev)));
    assert_eq!(made["excluded"], json!([{"node_id": other, "reason": "wrong_environment"}]));
    let detail = world.get(&format!("{rollouts}/{}", id(&made))).await.expect(200);
    assert_eq!(detail["node_statuses"][0]["node_id"], node);
    let refused = world.post(&rollouts, to(&prod)).await;
    refused.expect_error(409, "Bundle is not promoted to this environment");

    // One environment after the other.
    let promote =
        async |body: Value| world.post(&world.home.path(&format!("/bundles/{bundle}/promote")), body).await;
    let skip = promote(json!({"environment_id": prod})).await;
    skip.expect_error(409, "not_promoted_to_current_environment");
    let next = promote(json!({})).await.expect(201);
    assert_eq!(next["promotion"]["environment_id"], staging);
    let twice = promote(json!({"environment_id": staging})).await;
    twice.expect_error(409, "bundle already promoted to this environment");
    assert_eq!(promote(json!({})).await.expect(201)["promotion"]["environment_id"], prod);
    promote(json!({})).await.expect_error(409, "no_next_environment");
    let history = world.get(&world.home.path(&format!("/bundles/{bundle}/promotions"))).await.expect(200);
    assert_eq!(history["total"], 2);
    let waits = world.post(&rollouts, to(&prod)).await.expect(201);
    assert_eq!(waits["approval_state"], "pending_approval");
    let automatic = json!({"settings": {"auto_rollback_enabled": false}});
    world.patch(&format!("{path}/{staging}"), automatic).await.expect(200);
    let mut wish = to(&staging);
    wish["auto_rollback"] = json!(true);
    world.post(&rollouts, wish).await.expect_field("auto_rollback", "is not allowed in Staging");
    assert!(world.audited().await.iter().any(|action| action == "bundle.promoted"));
}

#[tokio::test]
async fn promotion_rules_are_kept_and_gate_promotions_by_hand() {
    let world = World::unlimited().await;
    let [dev, staging, prod] = environments(&world).await;
    place(&world, "dev-1", &dev).await;
    let bundle = world.compiled(&world.home, "1").await;
    let path = world.home.path("/promotion-rules");
    for (body, field, message) in [
        (json!({"target_env_id": prod}), "source_env_id", "can't be blank"),
        (
            json!({"source_env_id": dev, "target_env_id": dev}),
            "target_env_id",
            "must be different from source_env_id",
        ),
        (json!({"source_env_id": dev, "target_env_id": bundle}), "target_env_id", "does not exist"),
        (
            json!({"source_env_id": dev, "target_env_id": staging, "delay_minutes": -1}),
            "delay_minutes",
            "must be greater than or equal to 0",
        ),
        (
            json!({"source_env_id": dev, "target_env_id": staging, "conditions": {"max_error_rate": 101}}),
            "conditions.max_error_rate",
            "must be from 0 to 100",
        ),
    ] {
        world.post(&path, body).await.expect_field(field, message);
    }
    let rule = json!({
        "source_env_id": dev, "target_env_id": staging, "conditions": {"max_risk_level": "medium"},
    });
    let operator = person(&world, "op@example.com", Role::Operator).await;
    let refused = world.call("POST", &path, &operator, Some(rule.clone())).await;
    refused.expect_error(403, "Requires an organisation admin");
    let made = &world.post(&path, rule.clone()).await.expect(201)["promotion_rule"];
    assert_eq!(
        (&made["auto_promote"], &made["enabled"], &made["delay_minutes"]),
        (&json!(false), &json!(true), &json!(0))
    );
    world.post(&path, rule).await.expect_field("target_env_id", "has already been taken");
    let promote = world.home.path(&format!("/bundles/{bundle}/promote"));
    let refused = world.post(&promote, json!({"environment_id": staging})).await;
    let reason = "No rollout of the bundle completed in the source environment.";
    assert_eq!(refused.body["reasons"], json!([reason]));
    refused.expect_error(409, "promotion_conditions_not_met");
    let one = format!("{path}/{}", id(made));
    let off = world.patch(&one, json!({"enabled": false})).await.expect(200);
    assert_eq!(off["promotion_rule"]["conditions"]["max_risk_level"], "medium");
    world.post(&promote, json!({"environment_id": staging})).await.expect(201);
    world.delete(&one).await.expect(204);
    world.get(&one).await.expect_error(404, "Promotion rule not found");
    assert_eq!(world.get(&path).await.expect(200)["total"], 0);
}

#[tokio::test]
async fn other_tenants_see_nothing_of_it() {
    let world = World::unlimited().await;
    let [dev, staging, _] = environments(&world).await;
    let rule = json!({"source_env_id": dev, "target_env_id": staging});
    let rule =
        id(&world.post(&world.home.path("/promotion-rules"), rule).await.expect(201)["promotion_rule"]);
    let template = json!({"name": "mine", "is_default": true});
    let template = id(
        &world.post(&world.home.path("/rollout-templates"), template).await.expect(201)["rollout_template"],
    );
    let stranger = world.stranger().await;
    for (list, one) in [("environments", &dev), ("promotion-rules", &rule), ("rollout-templates", &template)]
    {
        let path = stranger.path(&format!("/{list}"));
        assert_eq!(world.call("GET", &path, &stranger.key, None).await.expect(200)["total"], 0, "{list}");
        for method in ["GET", "PATCH", "DELETE"] {
            let reply = world.call(method, &format!("{path}/{one}"), &stranger.key, Some(json!({}))).await;
            assert_eq!(reply.status.as_u16(), 404, "{method} {list}: {}", reply.text);
        }
    }
    let (node, _) = world.node(&stranger, "edge-9", &[]).await;
    let path = stranger.path(&format!("/nodes/{node}"));
    let reply = world.call("PATCH", &path, &stranger.key, Some(json!({"environment_id": dev}))).await;
    reply.expect_field("environment_id", "does not exist");
    let bundle = world.compiled(&stranger, "1").await;
    let body = json!({"bundle_id": bundle});
    let made = world.call("POST", &stranger.path("/rollouts"), &stranger.key, Some(body)).await.expect(201);
    assert_eq!(made["template_id"], json!(null), "the default of another tenant is not theirs");
}
