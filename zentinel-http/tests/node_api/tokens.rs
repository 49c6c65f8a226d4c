//! Tokens, key rotation and public keys.

use crate::world::{Member, World};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::{Node, NodeReport, RolloutSpec};
use zentinel_core::{Actor, Scope};
use zentinel_rollout::engine::NewRollout;

fn decoded(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test]
async fn a_token_is_what_the_contract_says() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let body = world.node("POST", &member, "/token", None).await.expect(200);
    assert_eq!(body["token_type"], "Bearer");
    assert_eq!(body["expires_in"], 43_200);
    assert_eq!(body["expires_at"], "2026-02-23T22:00:05Z");
    let token = body["token"].as_str().unwrap();
    let parts: Vec<_> = token.split('.').collect();
    let (header, claims) = (decoded(parts[0]), decoded(parts[1]));
    assert_eq!(header["alg"], "EdDSA");
    assert_eq!(header["kid"], claims["kid"]);
    let now = world.now().timestamp();
    assert_eq!(claims["sub"], json!(member.id));
    assert_eq!(claims["prj"], json!(world.home.project.id));
    assert_eq!(claims["org"], json!(world.home.organisation.id));
    assert_eq!((&claims["iat"], &claims["exp"]), (&json!(now), &json!(now + 43_200)));
    let scope = Scope::Organisation(world.home.organisation.id);
    let kid = header["kid"].as_str().unwrap();
    let key = world.services.signer.public_key(&scope, kid).await.unwrap().unwrap();
    let input = token.rsplit_once('.').unwrap().0;
    assert!(key.verify(input.as_bytes(), &URL_SAFE_NO_PAD.decode(parts[2]).unwrap()));

    world.services.fleet.flush().await.unwrap();
    let report = world.read::<NodeReport>(member.id).await;
    assert_eq!(report.auth_method(), "jwt");
    let times = report.token.unwrap();
    assert_eq!((times.issued_at, times.expires_at.timestamp()), (world.now(), now + 43_200));
}

#[tokio::test]
async fn a_token_follows_a_rotation_of_the_signing_key() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let old = world.jwt(&member).await;
    world.advance(1);
    let scope = Scope::Organisation(world.home.organisation.id);
    let newest = world.services.signer.rotate(&scope).await.unwrap();
    let new = world.jwt(&member).await;
    assert_eq!(decoded(new.split('.').next().unwrap())["kid"], json!(newest));
    for token in [old, new] {
        world.bearer("POST", &member.path("/heartbeat"), &token).await.expect(200);
    }
    let body = world.node("GET", &member, "/signing-keys", None).await.expect(200);
    assert_eq!(body["signing_keys"].as_array().unwrap().len(), 2);
    assert_eq!(body["signing_keys"][0]["key_id"], json!(newest));
}

#[tokio::test]
async fn a_token_renews_itself_for_thirty_days() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let mut token = world.jwt(&member).await;
    let path = member.path("/token");
    let mut renewals = 0;
    let refused = loop {
        world.advance(12 * 3_600 - 1);
        let reply = world.bearer("POST", &path, &token).await;
        if reply.status.as_u16() != 200 {
            break reply;
        }
        token = reply.body["token"].as_str().unwrap().to_owned();
        renewals += 1;
    };
    assert_eq!(renewals, 60);
    assert_eq!(refused.status.as_u16(), 401);
    assert!(refused.body["error"].as_str().unwrap().starts_with("Authentication failed"));
    // The static key begins another chain.
    let token = world.jwt(&member).await;
    world.bearer("POST", &path, &token).await.expect(200);
}

#[tokio::test]
async fn a_replaced_key_works_for_five_minutes() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    let rotate = || world.node("POST", &member, "/key/rotate", None);
    let first = rotate().await.expect(200);
    assert_eq!(first["old_key_valid_until"], "2026-02-23T10:05:05Z");
    let mut renewed = member.clone();
    renewed.key = first["node_key"].as_str().unwrap().to_owned();
    world.node("POST", &renewed, "/heartbeat", None).await.expect(200);
    world.node("POST", &member, "/heartbeat", None).await.expect(200);
    // The answer was lost: the node rotates again with the old key, which lives no longer for it.
    world.advance(299);
    let second = rotate().await.expect(200);
    assert_eq!(second["old_key_valid_until"], "2026-02-23T10:05:05Z");
    world.node("POST", &renewed, "/heartbeat", None).await.expect_error(401, "Invalid node key");
    renewed.key = second["node_key"].as_str().unwrap().to_owned();
    world.advance(1);
    world.node("POST", &member, "/heartbeat", None).await.expect_error(401, "Invalid node key");
    world.node("POST", &renewed, "/heartbeat", None).await.expect(200);

    let token = world.jwt(&renewed).await;
    let refused = world.bearer("POST", &member.path("/key/rotate"), &token).await;
    refused.expect_error(403, "Key rotation needs the node's static key");
}

#[tokio::test]
async fn a_revocation_ends_the_replaced_key_too() {
    let world = World::new().await;
    let member = world.member(&world.home, "edge").await;
    world.node("POST", &member, "/key/rotate", None).await.expect(200);
    world.advance(1);
    let slug = &world.home.project.slug;
    let path = format!("/api/v1/projects/{slug}/nodes/{}/revoke-key", member.id);
    let key = world.home.key.clone();
    world.bearer("POST", &path, &key).await.expect(200);
    world.eventually(|| world.known(member.id).tokens_valid_after.is_some()).await;
    world.node("POST", &member, "/heartbeat", None).await.expect_error(401, "Invalid node key");
}

/// A replica that has not heard of a revocation yet still knows the caller by the revoked key.
#[tokio::test]
async fn a_revoked_credential_gets_no_new_one_where_the_revocation_is_not_known_yet() {
    let world = World::new().await;
    let revoke = async |member: &Member| {
        let now = world.now();
        let revoked = |node: &mut Node| {
            node.key_hash = CredentialHash::of(&member.id.to_string());
            node.tokens_valid_after = Some(now);
        };
        world.change::<Node>(member.id, revoked).await;
        assert_eq!(world.known(member.id).tokens_valid_after, None, "the fleet must not know yet");
    };
    for name in ["rotates", "exchanges", "renews"] {
        let member = world.member(&world.home, name).await;
        let token = world.jwt(&member).await;
        world.advance(1);
        revoke(&member).await;
        let before = world.read::<Node>(member.id).await;
        match name {
            "rotates" => {
                let reply = world.node("POST", &member, "/key/rotate", None).await;
                reply.expect_error(401, "Invalid node key");
            }
            "exchanges" => {
                let reply = world.node("POST", &member, "/token", None).await;
                reply.expect_error(401, "Invalid node key");
            }
            _ => {
                let reply = world.bearer("POST", &member.path("/token"), &token).await;
                reply.expect_error(401, "Authentication failed");
            }
        }
        assert_eq!(world.read::<Node>(member.id).await, before);
    }
}

/// All nodes of a fleet renew their tokens again and again, and a rollout writes all of them at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_rollout_is_created_while_nodes_exchange_their_keys() {
    let world = Arc::new(World::new().await);
    let mut members = Vec::new();
    for number in 0..200 {
        members.push(world.member(&world.home, &format!("edge-{number}")).await);
    }
    let bundle = world.compiled(&world.home, "1").await;
    let stop = CancellationToken::new();
    let stopping = stop.clone().drop_guard();
    let exchanging: Vec<_> = members
        .chunks(50)
        .map(|members| {
            let (world, members, stop) = (world.clone(), members.to_vec(), stop.clone());
            tokio::spawn(async move {
                let mut exchanged = 0;
                for member in members.iter().cycle() {
                    if stop.is_cancelled() {
                        break;
                    }
                    world.jwt(member).await;
                    exchanged += 1;
                    // Nothing else here waits for anything.
                    tokio::task::yield_now().await;
                }
                exchanged
            })
        })
        .collect();
    for supersede in [false, true, true, true, true] {
        let spec = RolloutSpec::default();
        let new = NewRollout {
            bundle_id: bundle.id,
            spec,
            auto_start: true,
            supersede,
            terms: zentinel_rollout::engine::Terms::default(),
        };
        world.services.engine.create(&world.home.scope(), Actor::System, new).await.unwrap();
    }
    drop(stopping);
    for exchanged in exchanging {
        assert!(exchanged.await.unwrap() > 0, "nobody was in the way");
    }
}
