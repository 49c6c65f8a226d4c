//! Full disks: clear refusals, nothing damaged, everything goes on once there is room.
//!
//! The disk is a small tmpfs; mounting it needs root, or `sudo` without a password.

use reqwest::Method;
use serde_json::json;
use sqlx::{Connection as _, SqliteConnection};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use zentinel_core::entity::BundleStatus;
use zentinel_http::client::NewBundle;
use zentinel_tests::faults::probe::{Probe, Seen};
use zentinel_tests::plane::{Plane, example};
use zentinel_tests::wait_for;

/// A small disk, unmounted when dropped.
struct Disk {
    directory: TempDir,
}

impl Disk {
    fn of(megabytes: u32) -> Self {
        let disk = Self { directory: tempfile::tempdir().expect("temporary directory") };
        let size = format!("size={megabytes}m,mode=0777");
        let path = disk.path().display().to_string();
        root(&["mount", "-t", "tmpfs", "-o", &size, "tmpfs", &path]);
        disk
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn ballast(&self) -> PathBuf {
        self.path().join("ballast")
    }

    /// Leaves no room.
    fn fill(&self) {
        let mut file = std::fs::File::create(self.ballast()).expect("a file");
        let mut block = vec![0_u8; 64 << 10];
        while !block.is_empty() {
            if file.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.ballast()).expect("it is there");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = self.path().display().to_string();
        root(&["umount", "-l", &path]);
    }
}

/// # Panics
/// Without the right to mount.
fn root(command: &[&str]) {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    let sudo: &[&str] = if id.stdout.trim_ascii() == b"0" { &[] } else { &["sudo", "-n"] };
    let words = [sudo, command].concat();
    let status = Command::new(words[0]).args(&words[1..]).status().expect("it runs");
    assert!(status.success(), "{words:?}: full disks are tested on a tmpfs, which needs root or sudo");
}

/// A bundle whose source takes some room.
async fn hand_in(plane: &Plane, probe: &Probe, version: &str) -> Seen {
    let source = format!("// {}\n{}", "x".repeat(200 << 10), example("edge.kdl"));
    let body = json!({"version": version, "config_source": source});
    let bearer = format!("Bearer {}", plane.api_key);
    let path = probe.in_project("bundles");
    probe.ask(Method::POST, &path, ("authorization", &bearer), Some(&body)).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_database() {
    let disk = Disk::of(24);
    let data = disk.path().join("data").display().to_string();
    let mut plane = Plane::embedded_with(&[("ZENTINEL_DATA_DIR", &data), ("ZENTINEL_LOG", "error")]).await;
    let probe = Probe::new(&plane.url, &plane.project, false);
    let (client, project) = (plane.operator(), plane.project.clone());
    let mut kept = vec![hand_in(&plane, &probe, "before").await];
    disk.fill();
    let mut refused = None;
    for number in 0..200 {
        let seen = hand_in(&plane, &probe, &format!("full-{number}")).await;
        if seen.status == 201 {
            kept.push(seen);
        } else {
            refused = Some(seen);
            break;
        }
    }
    let refused = refused.expect("no room is left");
    assert!(refused.is_clear_refusal(), "{refused:?}");
    assert_eq!(client.projects(None).await.expect("reading needs no room").items.len(), 1);

    // What was begun goes on by itself, over a kill as well.
    disk.make_room();
    let again = wait_for("writes", Duration::from_secs(60), || async {
        Some(hand_in(&plane, &probe, "after").await).filter(|seen| seen.status == 201)
    })
    .await;
    kept.push(again);
    plane.kill_and_restart().await;
    for seen in &kept {
        let id = seen.body["id"].as_str().expect("an id").parse().expect("an id");
        let compiled = client.wait_until_compiled(&project, id, Duration::from_secs(180)).await;
        assert_eq!(compiled.expect("acknowledged").status, BundleStatus::Compiled);
    }
    assert!(plane.stop().await, "it stops in order");
    let url = format!("sqlite://{data}/zentinel.db");
    let mut database = SqliteConnection::connect(&url).await.expect("the file opens");
    let verdict: String =
        sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut database).await.expect("a verdict");
    assert_eq!(verdict, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_archives() {
    let disk = Disk::of(1);
    let data = tempfile::tempdir().expect("temporary directory");
    std::os::unix::fs::symlink(disk.path(), data.path().join("blobs")).expect("a link");
    let data = data.path().display().to_string();
    let plane = Plane::embedded_with(&[("ZENTINEL_DATA_DIR", &data), ("ZENTINEL_LOG", "error")]).await;
    let (client, project) = (plane.operator(), plane.project.clone());
    disk.fill();
    let request =
        NewBundle { version: "1.0.0".into(), config_source: example("edge.kdl"), ..NewBundle::default() };
    let created = client.create_bundle(&project, &request).await.expect("taken in");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let waiting = client.bundle(&project, created.id).await.expect("it is there");
    assert_eq!(waiting.status, BundleStatus::Compiling, "it waits for room: {waiting:?}");
    disk.make_room();
    let compiled = client.wait_until_compiled(&project, created.id, Duration::from_secs(180)).await;
    assert_eq!(compiled.expect("compiled").status, BundleStatus::Compiled);
    let probe = Probe::new(&plane.url, &plane.project, false);
    let bearer = format!("Bearer {}", plane.api_key);
    let path = probe.in_project(&format!("bundles/{}/verify", created.id));
    let verified = probe.ask(Method::GET, &path, ("authorization", &bearer), None).await.expect("an answer");
    assert_eq!(verified.body["verified"], true, "{verified:?}");
    assert!(plane.stop().await, "it stops in order");
    assert_eq!(files_below(disk.path()), 1, "nothing half-written is left");
}

fn files_below(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).expect("a directory").flatten();
    entries.map(|entry| if entry.path().is_dir() { files_below(&entry.path()) } else { 1 }).sum()
}
