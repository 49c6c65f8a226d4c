//! A full disk.

use crate::lifecycle::traffic;
use std::path::Path;
use std::process::Command;
use zentinel_tests::node::{LIMIT, Node, NodeOptions, which};
use zentinel_tests::plane::Plane;
use zentinel_tests::traffic::Upstream;
use zentinel_tests::wait_for;

/// A small file system of its own. Mounting one takes privileges: root, or sudo without a password.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let owner = std::os::unix::fs::MetadataExt::uid(&directory.path().metadata().unwrap());
        let options = format!("size=2m,mode=0700,uid={owner}");
        let path = directory.path().to_str().unwrap();
        privileged(&["mount", "-t", "tmpfs", "-o", &options, "tmpfs", path]);
        Self(directory)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Fills it to the last block.
    fn fill(&self) {
        let ballast = self.path().join("ballast");
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(ballast).unwrap();
        let mut size = 64 << 10;
        while size > 0 {
            match std::io::Write::write_all(&mut file, &vec![0; size]) {
                Ok(()) => {}
                Err(_) => size /= 2,
            }
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Whatever still has files open goes on with them.
        privileged(&["umount", "--lazy", self.path().to_str().unwrap()]);
    }
}

fn privileged(command: &[&str]) {
    let mut words = if rustix::process::geteuid().is_root() { vec![] } else { vec!["sudo", "-n"] };
    words.extend(command);
    let status = Command::new(words[0]).args(&words[1..]).status().unwrap();
    assert!(status.success(), "{words:?}: this test mounts a small file system, as root or with sudo");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_what_serves_and_is_got_over() {
    let disk = SmallDisk::mount();
    let (plane, upstream) = (Plane::embedded().await, Upstream::start().await);
    let directory = Some(disk.path().join("agent"));
    let options = NodeOptions { directory, ..NodeOptions::default() };
    let mut node = Node::start_with(&plane, "edge", upstream.address, options).await;
    let first = node.first(&plane).await;
    let traffic = traffic(&node);
    disk.fill();
    let next = node.assign(&plane, &node.config.version("v2")).await;
    // It goes on trying, and says what is wrong once that has lasted.
    let why =
        wait_for("the fault to be reported", 2 * LIMIT, || async { node.view(&plane).await.bundle_error })
            .await;
    assert_eq!(why.bundle_id, next.id, "{why:?}");
    assert!(why.message.to_lowercase().contains("space"), "{why:?}");
    assert_eq!(which(node.config.listen).await.as_deref(), Some("v1"));
    // Not even a new start loses what serves.
    node.kill_agent();
    node.start_agent(&[]);
    let record = wait_for("the restarted agent to report", LIMIT, || async {
        let view = node.view(&plane).await;
        (view.active_bundle_id == Some(first.id)).then_some(view)
    })
    .await;
    assert_eq!(record.active_bundle_id, Some(first.id));
    assert_eq!(which(node.config.listen).await.as_deref(), Some("v1"));
    disk.empty();
    node.runs(&plane, next.id, "v2").await;
    traffic.stop_unharmed().await;
    drop(node);
}
