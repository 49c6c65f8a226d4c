//! `kill -9` at random instants under a flood: nothing acknowledged is lost, nothing is done twice,
//! everything goes on by itself.
//!
//! `ZENTINEL_FAULT_KILLS` sets how often (6), `ZENTINEL_FAULT_SEED` plays the chances of a run again.

use std::time::Duration;
use zentinel_tests::cluster::Cluster;
use zentinel_tests::faults::flood::Flood;
use zentinel_tests::faults::seed::{Seed, number};
use zentinel_tests::plane::Plane;

/// Nothing that is counted afterwards may be trimmed meanwhile.
pub(crate) const SETTINGS: [(&str, &str); 2] =
    [("ZENTINEL__NODES__EVENTS_KEPT", "1000000"), ("ZENTINEL_LOG", "error")];

fn kills() -> u64 {
    number("ZENTINEL_FAULT_KILLS").unwrap_or(6)
}

async fn server_killed(mut plane: Plane, name: &str, seed: Seed) {
    let flood = Flood::begin(&plane, &[], seed).await;
    let mut chance = seed.stream("killer");
    for _ in 0..kills() {
        tokio::time::sleep(chance.millis(150, 2_000)).await;
        plane.kill().await;
        if chance.percent(30) {
            tokio::time::sleep(chance.millis(0, 500)).await;
        }
        plane.start_again().await;
    }
    flood.reckon(&format!("{name}, {} kills", kills())).await;
    assert!(plane.stop().await, "it stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_on_sqlite_and_a_directory() {
    let seed = Seed::announced("server_on_sqlite_and_a_directory");
    server_killed(Plane::embedded_with(&SETTINGS).await, "SQLite", seed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_on_postgresql_and_s3() {
    let seed = Seed::announced("server_on_postgresql_and_s3");
    let cluster = Cluster::start().await;
    server_killed(Plane::on_cluster(&cluster, &SETTINGS).await, "PostgreSQL", seed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_itself() {
    let seed = Seed::announced("postgresql_itself");
    let mut cluster = Cluster::start().await;
    let mut plane = Plane::on_cluster(&cluster, &SETTINGS).await;
    let flood = Flood::begin(&plane, &[], seed).await;
    let mut chance = seed.stream("killer");
    let count = kills().div_ceil(2);
    for _ in 0..count {
        tokio::time::sleep(chance.millis(500, 3_000)).await;
        cluster.kill().await;
        if chance.percent(30) {
            // Both at once, as in a power cut.
            plane.kill().await;
        }
        tokio::time::sleep(chance.millis(0, 1_000)).await;
        cluster.start_again().await;
        if plane.process_id().is_none() {
            plane.start_again().await;
        }
    }
    flood.reckon(&format!("PostgreSQL killed {count} times")).await;
    assert!(plane.stop().await, "it stops in order");
}

#[tokio::test(flavor = "multi_thread")]
async fn either_of_two_replicas() {
    let seed = Seed::announced("either_of_two_replicas");
    let cluster = Cluster::start().await;
    let mut plane = Plane::on_cluster(&cluster, &SETTINGS).await;
    let mut replica = plane.replica().await;
    let flood = Flood::begin(&plane, &[replica.url.clone()], seed).await;
    let mut chance = seed.stream("killer");
    for _ in 0..kills() {
        tokio::time::sleep(chance.millis(150, 2_000)).await;
        if chance.percent(50) {
            plane.kill().await;
            tokio::time::sleep(Duration::from_millis(chance.between(0, 1_000))).await;
            plane.start_again().await;
        } else {
            replica.kill().await;
            tokio::time::sleep(Duration::from_millis(chance.between(0, 1_000))).await;
            replica.start_again().await;
        }
    }
    flood.reckon(&format!("two replicas, {} kills", kills())).await;
    assert!(plane.stop().await, "it stops in order");
}
