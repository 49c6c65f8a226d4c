//! The slot and weight that the control plane gave this node, for whatever stands in front of it: as files, and
//! through a hook.
//!
//! Only answers to polls count: they are as new as the control plane knows, and one that changes is answered at once.
//! The hook runs until it succeeds, and after a restart only where it has not acknowledged the present value.

use super::Agent;
use super::events::EventKind;
use super::proxy::run_limited;
use super::state::write_durably;
use crate::backoff::Backoff;
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::process::Command;
use tokio::sync::Notify;
use zentinel_core::Timestamp;
use zentinel_core::entity::NodeTraffic;
use zentinel_core::id::BundleId;

/// How long the hook may take.
const HOOK_PATIENCE: Duration = Duration::from_secs(30);
/// The first pause after a hook that failed.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What `traffic.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    #[serde(flatten)]
    traffic: NodeTraffic,
    /// What served when it came.
    bundle_id: Option<BundleId>,
    /// The last sequence that the node had accepted then.
    sequence: u64,
    since: Timestamp,
}

/// The directory `traffic/` below the agent's own.
#[derive(Debug)]
pub(super) struct TrafficFiles {
    directory: PathBuf,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// What the control plane wants.
    wanted: Option<NodeTraffic>,
    /// What the files say.
    written: Option<Told>,
    /// What the hook has acknowledged.
    acknowledged: Option<NodeTraffic>,
    /// The failure that has been reported.
    complaint: Option<String>,
}

impl TrafficFiles {
    /// What an earlier run left. A damaged file says nothing.
    pub(super) fn in_directory(directory: &Path) -> Self {
        let directory = directory.join("traffic");
        let written = read::<Told>(&directory.join("traffic.json"));
        let state = State {
            wanted: written.as_ref().map(|told| told.traffic),
            written,
            acknowledged: read(&directory.join("hook.json")),
            complaint: None,
        };
        Self { directory, state: Mutex::new(state), changed: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The whole first, so that whoever reads more than one value has a file that is true at any instant.
    fn write(&self, told: &Told) -> std::io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        let file = |name: &str, text: String| write_durably(&self.directory.join(name), text.as_bytes());
        file("traffic.json", format!("{}\n", serde_json::to_string(told)?))?;
        file("slot", format!("{}\n", told.traffic.slot))?;
        file("weight", format!("{}\n", told.traffic.weight))
    }
}

fn read<T: for<'de> Deserialize<'de>>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

impl Agent {
    /// Takes note of what an answer says; nothing changes where it says nothing.
    pub(super) fn take_traffic(&self, traffic: Option<NodeTraffic>) {
        let Some(traffic) = traffic else { return };
        let mut state = self.traffic.state();
        if state.wanted != Some(traffic) {
            state.wanted = Some(traffic);
            self.traffic.changed.notify_one();
        }
    }

    /// Brings every new value to the files and the hook until cancelled.
    pub(super) async fn traffic_loop(&self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            match self.bring_traffic().await {
                Ok(()) => {
                    backoff.reset();
                    self.traffic.changed.notified().await;
                }
                Err(message) => {
                    tracing::warn!(node = %self.options.name, message, "the weight was not brought on; trying again");
                    self.complain(message);
                    tokio::select! {
                        () = tokio::time::sleep(backoff.pause()) => {}
                        () = self.traffic.changed.notified() => backoff.reset(),
                    }
                }
            }
        }
    }

    /// Brings the present value to the files and the hook, where they do not have it yet.
    pub(super) async fn bring_traffic(&self) -> Result<(), String> {
        let (wanted, written) = {
            let state = self.traffic.state();
            (state.wanted, state.written.as_ref().map(|told| told.traffic))
        };
        let Some(wanted) = wanted else { return Ok(()) };
        if written != Some(wanted) {
            let told = {
                let live = self.live();
                let (bundle_id, sequence) = (live.state.active_bundle_id, live.state.last_sequence);
                Told { traffic: wanted, bundle_id, sequence, since: self.clock.now() }
            };
            let failed = |error| format!("{}: {error}", self.traffic.directory.display());
            self.traffic.write(&told).map_err(failed)?;
            self.traffic.state().written = Some(told);
        }
        self.run_hook(wanted).await
    }

    async fn run_hook(&self, traffic: NodeTraffic) -> Result<(), String> {
        let Some(hook) = &self.options.traffic_hook else {
            return Ok(());
        };
        if self.traffic.state().acknowledged == Some(traffic) {
            return Ok(());
        }
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", hook])
            .env("ZENTINEL_SLOT", traffic.slot.as_str())
            .env("ZENTINEL_TRAFFIC_WEIGHT", traffic.weight.to_string())
            .env("ZENTINEL_TRAFFIC_FILE", self.traffic.directory.join("traffic.json"))
            .env("ZENTINEL_NODE_ID", self.node_id().to_string())
            .env("ZENTINEL_NODE_NAME", &self.options.name);
        if let Some(bundle) = self.active_bundle_id() {
            command.env("ZENTINEL_BUNDLE_ID", bundle.to_string());
        }
        match run_limited(&mut command, HOOK_PATIENCE).await {
            Ok((true, _)) => {}
            Ok((false, output)) => return Err(format!("the traffic hook failed: {output}")),
            Err(message) => return Err(format!("the traffic hook: {message}")),
        }
        let details = json!({ "slot": traffic.slot, "traffic_weight": traffic.weight });
        self.event(EventKind::Info, "the traffic hook has brought a weight on", details);
        {
            let mut state = self.traffic.state();
            state.acknowledged = Some(traffic);
            state.complaint = None;
        }
        let text = serde_json::to_vec(&traffic).map_err(|error| error.to_string())?;
        write_durably(&self.traffic.directory.join("hook.json"), &text)
            .map_err(|error| format!("{}: {error}", self.traffic.directory.display()))
    }

    /// Reports a failure once, until another one or a success.
    fn complain(&self, message: String) {
        let traffic = {
            let mut state = self.traffic.state();
            if state.complaint.as_ref() == Some(&message) {
                return;
            }
            state.complaint = Some(message.clone());
            state.wanted
        };
        let details = json!({
            "reason": "traffic_hook_failed",
            "slot": traffic.map(|traffic| traffic.slot),
            "traffic_weight": traffic.map(|traffic| traffic.weight),
        });
        self.event(EventKind::Warning, &message, details);
    }
}
