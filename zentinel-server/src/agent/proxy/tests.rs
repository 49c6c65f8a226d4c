//! The activator with a proxy inside the test: it listens and answers as the real one does, and
//! obeys special lines in its configuration.

mod before;
mod site;

use super::journal::{Entry, Phase};
use super::*;
use crate::agent::activator::{Activator, Incident, Outcome, Rejection, Release};
use site::*;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;
use zentinel_core::entity::Activation;
use zentinel_core::port::{Clock as _, SystemClock};

#[tokio::test]
async fn releases_are_rendered_switched_and_proved() {
    let site = Site::new();
    let activator = site.activator();
    assert_eq!((activator.active(), activator.recover().await), (None, None));
    assert_eq!(site.proxy.counted(), (0, 0), "without a bundle nothing is started");
    let (activator, first) = site.started().await;
    assert_eq!(activator.active(), Some(first.bundle_id));
    let process = activator.proxy_state();
    let second = site.release(2, "fine", Activation::Reload).await;
    activator.activate(&second).await.unwrap();
    assert_eq!((activator.proxy_state(), site.proxy.counted()), (process, (1, 1)), "the same process");
    assert_eq!(activator.active(), Some(second.bundle_id));
    activator.answers().await.unwrap();
    let asset = std::fs::read_to_string(site.path().join("current/ca/root.pem")).unwrap();
    assert_eq!(asset, "asset 2");
    let bundle = std::fs::read_to_string(second.directory.join("zentinel.kdl")).unwrap();
    let rendered = std::fs::read_to_string(site.path().join("current/zentinel.kdl")).unwrap();
    assert!(rendered.starts_with(&bundle) && rendered.len() > bundle.len());

    // Only what may be needed again is kept.
    activator.activate(&site.release(3, "fine", Activation::Reload).await).await.unwrap();
    let mut kept: Vec<_> = std::fs::read_dir(site.path().join("releases"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    kept.sort();
    assert_eq!(kept, ["2", "3"]);
}

#[tokio::test]
async fn what_a_signal_does_not_apply_takes_a_new_process() {
    let site = Site::new();
    let (activator, _) = site.started().await;
    // The statement compared with another bundle than the one that serves here.
    let mut changed = site.release(2, "fine", Activation::Reload).await;
    let config = changed.directory.join("zentinel.kdl");
    let text = std::fs::read_to_string(&config).unwrap().replace("worker-threads 1", "worker-threads 2");
    std::fs::write(&config, text).unwrap();
    activator.activate(&changed).await.unwrap();
    assert_eq!(site.proxy.counted(), (2, 0));
    changed.sequence = 3;
    changed.activation = Activation::Restart;
    activator.activate(&changed).await.unwrap();
    assert_eq!(site.proxy.counted(), (3, 0), "the statement asks for it");
}

#[tokio::test]
async fn a_reload_that_is_not_proved_is_taken_back() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let bad = site.release(2, "ignore reload", Activation::Reload).await;
    let rejection = activator.activate(&bad).await.unwrap_err();
    assert_eq!((rejection.reason.as_str(), rejection.retryable), ("reload_not_proven", false));
    assert!(rejection.message.contains("release 1") && rejection.message.contains("proved"), "{rejection:?}");
    assert!(rejection.message.ends_with("famous last words"), "{rejection:?}");
    assert_eq!(activator.active(), Some(first.bundle_id));
    assert_eq!(site.proxy.counted(), (1, 2), "and back by a signal");
    activator.answers().await.unwrap();
    let Some(Entry { phase: Phase::Restored(noted), .. }) = site.journal().load() else {
        panic!("the end is noted");
    };
    assert_eq!(noted, rejection);
}

#[tokio::test]
async fn a_restore_is_not_proved_by_routes_that_were_there_all_along() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let bad = site.release(2, "hang", Activation::Reload).await;
    let rejection = activator.activate(&bad).await.unwrap_err();
    assert_eq!(rejection.reason, "reload_not_proven");
    assert!(rejection.message.contains("release 1") && rejection.message.contains("proved"), "{rejection:?}");
    assert_eq!(site.proxy.counted(), (2, 2), "a signal was tried, and a new process came");
    assert_eq!(activator.active(), Some(first.bundle_id));
    // The next agent finds the marker that the restored copy has.
    let next = site.activator();
    next.answers().await.unwrap();
    next.activate(&site.release(3, "fine", Activation::Reload).await).await.unwrap();
    assert_eq!(site.proxy.counted(), (2, 3), "and is told of by a signal");
}

#[tokio::test]
async fn where_the_statement_knows_nothing_the_node_compares() {
    let site = Site::new();
    let (activator, _) = site.started().await;
    let compared = async |sequence| {
        let release = site.release(sequence, "fine", Activation::Restart).await;
        Release { compare: true, ..release }
    };
    activator.activate(&compared(2).await).await.unwrap();
    assert_eq!(site.proxy.counted(), (1, 1), "routes take a signal");

    // A file that the proxy reads at its start alone; every release has another one.
    let with_schema = async |sequence| {
        let release = compared(sequence).await;
        let config = release.directory.join("zentinel.kdl");
        let text = std::fs::read_to_string(&config).unwrap();
        let schema = site.path().join("current/ca/root.pem");
        let schema = format!("api-schema {{\n schema-file \"{}\"\n }}\n upstream \"api\"", schema.display());
        std::fs::write(&config, text.replace("upstream \"api\"\n    }", &format!("{schema}\n    }}")))
            .unwrap();
        release
    };
    activator.activate(&with_schema(3).await).await.unwrap();
    assert_eq!(site.proxy.counted(), (2, 1), "a schema is new");
    let same_text = with_schema(4).await;
    activator.activate(&same_text).await.unwrap();
    assert_eq!(site.proxy.counted(), (3, 1), "its file is another");
    let schema = |sequence: u64| site.path().join(format!("releases/{sequence}/ca/root.pem"));
    assert_ne!(std::fs::read(schema(3)).unwrap(), std::fs::read(schema(4)).unwrap());
    activator.activate(&Release { sequence: 5, ..same_text }).await.unwrap();
    assert_eq!(site.proxy.counted(), (3, 2), "or the same");

    // What serves is not what the agent believes.
    site.proxy.routes.lock().unwrap().clear();
    activator.activate(&compared(6).await).await.unwrap();
    assert_eq!(site.proxy.counted().0, 4);
}

#[tokio::test]
async fn a_proxy_that_dies_comes_back_with_the_release_before() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    for activation in [Activation::Reload, Activation::Restart] {
        let bad = site.release(2, "die", activation).await;
        let rejection = activator.activate(&bad).await.unwrap_err();
        assert_eq!(rejection.reason, "proxy_died");
        assert_eq!(activator.active(), Some(first.bundle_id));
        activator.answers().await.unwrap();
    }
    let silent = site.release(3, "no listeners", Activation::Restart).await;
    assert_eq!(activator.activate(&silent).await.unwrap_err().reason, "restart_not_proven");
    activator.answers().await.unwrap();
}

#[tokio::test]
async fn a_missing_listener_is_no_proof() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let mut moved = site.release(2, "fine", Activation::Reload).await;
    // A proxy that was told of a new listener, and does not open it.
    let config = moved.directory.join("zentinel.kdl");
    let text = std::fs::read_to_string(&config).unwrap();
    let extra = format!("listeners {{ listener \"more\" {{ address  \"127.0.0.1:{}\"; }} }}\n", free_port());
    std::fs::write(&config, text + &extra).unwrap();
    moved.activation = Activation::Restart;
    assert_eq!(activator.activate(&moved).await.unwrap_err().reason, "listener_missing");
    assert_eq!(activator.active(), Some(first.bundle_id));
}

#[tokio::test]
async fn a_disk_without_room_changes_nothing() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let second = site.release(2, "fine", Activation::Reload).await;
    // A folder in the place of a draft makes writing fail, as a full disk does.
    for draft in ["activation.json.new", "current.new/x", "releases"] {
        let path = site.path().join(draft);
        let kept = site.path().join("kept");
        if draft == "releases" {
            std::fs::rename(&path, &kept).unwrap();
            std::fs::write(&path, "").unwrap();
        } else {
            std::fs::create_dir_all(&path).unwrap();
        }
        let rejection = activator.activate(&second).await.unwrap_err();
        assert!(rejection.retryable, "{draft}: {rejection:?}");
        assert_eq!(site.proxy.counted(), (1, 0), "{draft}: the proxy was left alone");
        if draft == "releases" {
            std::fs::remove_file(&path).unwrap();
            std::fs::rename(&kept, &path).unwrap();
        } else {
            std::fs::remove_dir_all(site.path().join(draft.split('/').next().unwrap())).unwrap();
        }
        assert_eq!(site.activator().active(), Some(first.bundle_id), "{draft}");
        activator.answers().await.unwrap();
    }
    activator.activate(&second).await.unwrap();
}

#[tokio::test]
async fn one_death_is_mended_and_two_take_the_bundle_back() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let second = site.release(2, "fine", Activation::Reload).await;
    activator.activate(&second).await.unwrap();
    let news = || tokio::time::timeout(Duration::from_secs(20), activator.watch());
    site.proxy.die();
    let Incident::ProxyDied(message) = news().await.unwrap() else { panic!("it died") };
    assert!(message.contains("famous last words"));
    assert!(matches!(news().await.unwrap(), Incident::ProxyReturned(_)));
    activator.answers().await.unwrap();
    assert_eq!(activator.active(), Some(second.bundle_id), "once is no proof of anything");
    site.proxy.die();
    let Incident::TakenBack(outcome) = news().await.unwrap() else { panic!("it was taken back") };
    assert_eq!((outcome.sequence, outcome.bundle_id), (2, second.bundle_id));
    let rejection = outcome.result.unwrap_err();
    assert_eq!(rejection.reason, "proxy_crashed");
    assert!(rejection.message.contains("release 1"), "{rejection:?}");
    assert_eq!(activator.active(), Some(first.bundle_id));
    activator.answers().await.unwrap();
    // The one before is not on probation any more: it is only started again.
    for _ in 0..3 {
        site.proxy.die();
        assert!(matches!(news().await.unwrap(), Incident::ProxyDied(_)));
        assert!(matches!(news().await.unwrap(), Incident::ProxyReturned(_)));
    }
    assert_eq!(activator.active(), Some(first.bundle_id));
}

#[tokio::test]
async fn the_next_agent_ends_what_was_begun() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    let second = site.release(2, "fine", Activation::Reload).await;
    activator.activate(&second).await.unwrap();
    let entry = |phase| Entry { sequence: 2, bundle_id: second.bundle_id, previous: Some(1), phase };

    // Ended after the switch: the marker answers, so nobody is told again.
    site.journal().save(&entry(Phase::Switching)).unwrap();
    let next = site.activator();
    assert_eq!(next.active(), Some(first.bundle_id), "not proved, so it does not count");
    let outcome = Outcome { sequence: 2, bundle_id: second.bundle_id, result: Ok(()) };
    assert_eq!(next.recover().await, Some(outcome));
    assert_eq!((next.active(), site.proxy.counted()), (Some(second.bundle_id), (1, 1)));

    // Ended before the switch: nothing had changed.
    let begun = Entry { sequence: 9, ..entry(Phase::Switching) };
    site.journal().save(&begun).unwrap();
    let next = site.activator();
    assert_eq!((next.recover().await, next.active()), (None, Some(second.bundle_id)));

    // Ended on the way back, and the proxy is gone as well.
    let cause = Rejection::new("proxy_died", "the proxy ended");
    site.journal().save(&entry(Phase::Restoring(cause))).unwrap();
    site.proxy.die();
    let next = site.activator();
    assert_eq!(next.active(), Some(first.bundle_id));
    let outcome = next.recover().await.unwrap();
    assert_eq!(outcome.result.as_ref().unwrap_err().reason, "proxy_died");
    next.answers().await.unwrap();
    assert_eq!(next.active(), Some(first.bundle_id));

    // Ended when that was done and not noted: a reload is asked for again, for the marker of a release
    // that served all along does not prove that the proxy took it back. No process is started.
    let (started, reloaded) = site.proxy.counted();
    let cause = Rejection::new("proxy_died", "the proxy ended");
    site.journal().save(&entry(Phase::Restoring(cause))).unwrap();
    let again = site.activator().recover().await;
    assert_eq!((again.as_ref(), site.proxy.counted()), (Some(&outcome), (started, reloaded + 1)));

    // Ended after that: the outcome is told until it is noted.
    assert_eq!(site.activator().recover().await, Some(outcome));
}

#[tokio::test]
async fn a_dead_proxy_is_started_with_the_agent_and_ends_with_it_if_so_set() {
    let site = Site::new();
    let (activator, first) = site.started().await;
    site.proxy.die();
    drop(activator);
    let next = site.activator();
    assert_eq!((next.recover().await, next.active()), (None, Some(first.bundle_id)));
    next.answers().await.unwrap();
    next.stop().await;
    assert_eq!(next.proxy_state(), ProxyState::Dead);
    // An old activation is on probation no longer.
    let at = SystemClock.now() - chrono::TimeDelta::hours(1);
    let entry =
        Entry { sequence: 1, bundle_id: first.bundle_id, previous: None, phase: Phase::Served { at } };
    site.journal().save(&entry).unwrap();
    let next = site.activator();
    next.recover().await;
    for _ in 0..2 {
        site.proxy.die();
        let news = tokio::time::timeout(Duration::from_secs(20), next.watch()).await.unwrap();
        assert!(matches!(news, Incident::ProxyDied(_)), "{news:?}");
        tokio::time::timeout(Duration::from_secs(20), next.watch()).await.unwrap();
    }
    assert_eq!(next.active(), Some(first.bundle_id));
}
