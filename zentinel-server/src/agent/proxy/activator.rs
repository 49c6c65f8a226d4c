//! Activating a release on a real proxy.

use super::control::{ControlFault, ProxyControl, ProxyState};
use super::journal::{Entry, Journal, Phase};
use super::proof::{PROBE, Patience, Unproven, Watched, ask_marker, prove, settle};
use super::render::{self, RenderedRelease, TEST_CONFIG};
use super::test_command;
use super::watch::Duty;
use crate::agent::activator::{Activator, Incident, Outcome, Rejection, Release, switch};
use crate::agent::check::{check_files, check_text, read_config};
use crate::agent::crash;
use crate::agent::release::remove;
use async_trait::async_trait;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use url::Url;
use zentinel_core::id::BundleId;
use zentinel_core::port::{Clock, ConfigValidator};

/// How long the proxy's own test may take.
const TEST_PATIENCE: Duration = Duration::from_secs(30);

/// How a release is brought to the proxy.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// The agent's directory.
    pub directory: PathBuf,
    /// The proxy's program, for its own test of a configuration.
    pub binary: Option<PathBuf>,
    /// Where the proxy is to answer the marker.
    pub probe_listen: SocketAddr,
    /// Where the proxy reports its measurements, when not where the bundle says.
    pub metrics_url: Option<Url>,
    /// How long the marker may take.
    pub proof_timeout: Duration,
    /// How long listeners may take after the marker.
    pub listen_wait: Duration,
    /// How long the proxy must live after the proof before a bundle counts as active.
    pub settle: Duration,
    /// Two ends of the proxy within this time take back a release that was activated within ten
    /// times this time.
    pub crash_window: Duration,
    /// Whether the proxy ends with the agent.
    pub stop_with_agent: bool,
}

/// Brings releases to a proxy, proves that they serve, and brings back the one before when they
/// do not.
#[derive(Debug)]
pub struct ProxyActivator {
    pub(super) options: ProxyOptions,
    pub(super) control: Arc<dyn ProxyControl>,
    validator: Arc<dyn ConfigValidator>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) journal: Journal,
    /// Whoever changes what serves holds this.
    pub(super) turn: tokio::sync::Mutex<Duty>,
    /// The release that `current` leads to.
    serving: Mutex<Option<RenderedRelease>>,
}

/// Why a release does not serve.
#[derive(Debug)]
pub(super) enum Failure {
    /// The link could not be switched: nothing has changed.
    NotSwitched(std::io::Error),
    /// The proxy was told, and does not serve it as it should.
    Unproven(Unproven),
}

impl From<Unproven> for Failure {
    fn from(unproven: Unproven) -> Self {
        Self::Unproven(unproven)
    }
}

impl From<ControlFault> for Failure {
    fn from(fault: ControlFault) -> Self {
        Self::Unproven(Unproven::new(fault.reason, fault.message))
    }
}

impl ProxyActivator {
    /// Drives the proxy that `control` reaches.
    #[must_use]
    pub fn new(
        options: ProxyOptions,
        control: Arc<dyn ProxyControl>,
        validator: Arc<dyn ConfigValidator>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let serving = Mutex::new(RenderedRelease::current(&options.directory));
        let journal = Journal::in_directory(&options.directory);
        let turn = tokio::sync::Mutex::new(Duty::new(control.state()));
        Self { options, control, validator, clock, journal, turn, serving }
    }

    /// The release that the proxy is to serve now.
    #[must_use]
    pub fn serving(&self) -> Option<RenderedRelease> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn serve(&self, release: Option<RenderedRelease>) {
        *self.serving.lock().unwrap_or_else(PoisonError::into_inner) = release;
    }

    /// What is known about the proxy's process.
    #[must_use]
    pub fn proxy_state(&self) -> ProxyState {
        self.control.state()
    }

    pub(super) fn patience(&self) -> Patience {
        Patience { proof: self.options.proof_timeout, listeners: self.options.listen_wait }
    }

    /// Writes the release to its place.
    async fn render(&self, release: &Release) -> Result<RenderedRelease, Rejection> {
        let kdl = render::text(release, self.options.probe_listen)?;
        // Only what has passed the child is looked at in this process.
        check_text(&*self.validator, &kdl).await?;
        let directory = &self.options.directory;
        // Another supervisor may run the proxy as a user who may read more than the agent.
        let same_user = self.control.supervises();
        check_files(&kdl, same_user, |path| release_path(path, release, directory))?;
        let (options, release) = (self.options.clone(), release.clone());
        blocking(move || {
            let ProxyOptions { directory, probe_listen, metrics_url, .. } = &options;
            let rendered = render::describe(&release, &kdl, *probe_listen, metrics_url.as_ref())?;
            let there = RenderedRelease::load(directory, release.sequence);
            let home = render::home(directory, release.sequence);
            if there.as_ref() == Some(&rendered) && read_config(&home).is_ok_and(|found| found == kdl) {
                return Ok(rendered);
            }
            crash::point("rendering");
            render::place(directory, &release, &rendered, &kdl).map_err(|error| {
                Rejection::fault("activation_failed", format!("{}: {error}", home.display()))
            })?;
            Ok(rendered)
        })
        .await
    }

    /// What can be found out while `previous` still serves. A release that is refused is removed again.
    async fn test(
        &self,
        release: &RenderedRelease,
        previous: Option<&RenderedRelease>,
    ) -> Result<(), Rejection> {
        let tested = match self.proxys_own_test(release).await {
            Ok(()) => self.try_addresses(release, previous).await,
            refused => refused,
        };
        if tested.is_err() && self.serving().as_ref() != Some(release) {
            // It is rendered again when it is tried again.
            drop(remove(&render::home(&self.options.directory, release.sequence)));
        }
        tested
    }

    async fn proxys_own_test(&self, release: &RenderedRelease) -> Result<(), Rejection> {
        let Some(binary) = &self.options.binary else {
            return Ok(());
        };
        let directory = &self.options.directory;
        let config = render::home(directory, release.sequence).join(TEST_CONFIG);
        test_command::test(binary, &config, directory, TEST_PATIENCE).await
    }

    /// Switches to a release, tells the proxy and proves that it serves. After a crash the proxy is
    /// told again only when it does not serve the release already.
    async fn bring_up(
        &self,
        from: Option<&RenderedRelease>,
        release: &RenderedRelease,
        resumed: bool,
    ) -> Result<(), Failure> {
        let restart = self.needs_restart(from, release).await;
        crash::point("switching");
        let home = render::home(&self.options.directory, release.sequence);
        switch(&self.options.directory, &home).map_err(Failure::NotSwitched)?;
        self.serve(Some(release.clone()));
        crash::point("switched");
        let before = self.control.state();
        let answers = resumed && before != ProxyState::Dead && ask_marker(release, PROBE).await.is_ok();
        let mut watched = Watched { control: &*self.control, same: before.process() };
        if !answers {
            watched.same = self.tell(restart, before).await?;
        }
        crash::point("signalled");
        let unproven = if restart { "restart_not_proven" } else { "reload_not_proven" };
        prove(release, &mut watched, self.patience(), unproven, restart).await?;
        crash::point("proven");
        settle(&mut watched, self.options.settle).await?;
        crash::point("settled");
        Ok(())
    }

    /// Tells the proxy; the process that must go on living.
    pub(super) async fn tell(
        &self,
        restart: bool,
        before: ProxyState,
    ) -> Result<Option<super::ProcessId>, ControlFault> {
        if restart {
            self.control.restart().await?;
            return Ok(None);
        }
        self.control.reload().await?;
        Ok(before.process())
    }

    /// From a rendered release to one that serves, or back.
    pub(super) async fn carry_out(
        &self,
        duty: &mut Duty,
        release: &RenderedRelease,
        previous: Option<&RenderedRelease>,
        resumed: bool,
    ) -> Result<(), Rejection> {
        let entry = Entry {
            sequence: release.sequence,
            bundle_id: release.bundle_id,
            previous: previous.map(|previous| previous.sequence),
            phase: Phase::Served { at: self.clock.now() },
        };
        match self.bring_up(previous, release, resumed).await {
            Ok(()) => {
                self.journal.note(&Entry { phase: Phase::Served { at: self.clock.now() }, ..entry });
                crash::point("journal-served");
                duty.begin(self.control.state(), Some(self.probation()));
                let kept: Vec<u64> = [release.sequence].into_iter().chain(entry.previous).collect();
                render::prune(&self.options.directory, &kept);
                Ok(())
            }
            Err(Failure::NotSwitched(error)) => {
                self.journal.clear();
                Err(Rejection::fault("activation_failed", format!("current: {error}")))
            }
            Err(Failure::Unproven(unproven)) => {
                let rejection = self.rejection(unproven);
                Err(self.take_back(duty, entry, rejection, false).await)
            }
        }
    }

    fn rejection(&self, unproven: Unproven) -> Rejection {
        let mut message = unproven.message;
        if let Some(words) = self.control.last_words() {
            message.push_str(&format!("\nlast words of the proxy: {words}"));
        }
        Rejection::new(unproven.reason, message)
    }

    /// How long after its activation a release is taken back when the proxy keeps ending.
    pub(super) fn probation(&self) -> Duration {
        self.options.crash_window * 10
    }

    /// Goes on with an activation that was cut off.
    async fn resume(&self, duty: &mut Duty, entry: Entry) -> Option<Outcome> {
        let directory = &self.options.directory;
        let release = self.serving().filter(|release| release.sequence == entry.sequence);
        let Some(release) = release else {
            // Nothing had changed yet. Whether it is still wanted, the control plane will say.
            self.journal.clear();
            self.ensure_running(duty).await;
            return None;
        };
        let previous = entry.previous.and_then(|sequence| RenderedRelease::load(directory, sequence));
        let result = self.carry_out(duty, &release, previous.as_ref(), true).await;
        Some(Outcome { sequence: entry.sequence, bundle_id: entry.bundle_id, result })
    }

    /// Starts the proxy when there is something to serve and nothing does.
    async fn ensure_running(&self, duty: &mut Duty) {
        let wanted = self.serving().is_some() && self.control.supervises();
        if wanted
            && self.control.state() == ProxyState::Dead
            && let Err(fault) = self.control.restart().await
        {
            tracing::error!(reason = fault.reason, message = fault.message, "the proxy did not start");
        }
        duty.begin(self.control.state(), None);
    }
}

/// Where a path of a release's configuration leads before it is rendered.
fn release_path(path: &str, release: &Release, directory: &std::path::Path) -> PathBuf {
    let placed = render::resolve(path, directory, release.sequence);
    match placed.strip_prefix(render::home(directory, release.sequence)) {
        Ok(rest) => release.directory.join(rest),
        Err(_) => placed,
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Rejection> + Send + 'static,
) -> Result<T, Rejection> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Rejection::fault("activation_failed", error.to_string()))?
}

#[async_trait]
impl Activator for ProxyActivator {
    async fn activate(&self, release: &Release) -> Result<(), Rejection> {
        let mut duty = self.turn.lock().await;
        let rendered = self.render(release).await?;
        crash::point("rendered");
        let previous = self.serving().filter(|serving| serving.sequence != rendered.sequence);
        self.test(&rendered, previous.as_ref()).await?;
        crash::point("checked");
        let entry = Entry {
            sequence: rendered.sequence,
            bundle_id: rendered.bundle_id,
            previous: previous.as_ref().map(|previous| previous.sequence),
            phase: Phase::Switching,
        };
        self.journal
            .save(&entry)
            .map_err(|error| Rejection::fault("activation_failed", format!("activation.json: {error}")))?;
        crash::point("journal-begun");
        self.carry_out(&mut duty, &rendered, previous.as_ref(), false).await
    }

    fn active(&self) -> Option<BundleId> {
        let serving = self.serving()?;
        match self.journal.load() {
            Some(Entry { sequence, previous, phase: Phase::Switching | Phase::Restoring(_), .. })
                if sequence == serving.sequence =>
            {
                let previous = RenderedRelease::load(&self.options.directory, previous?)?;
                Some(previous.bundle_id)
            }
            _ => Some(serving.bundle_id),
        }
    }

    async fn recover(&self) -> Option<Outcome> {
        let mut duty = self.turn.lock().await;
        let Some(entry) = self.journal.load() else {
            self.ensure_running(&mut duty).await;
            return None;
        };
        let Entry { sequence, bundle_id, .. } = entry;
        match entry.phase.clone() {
            Phase::Switching => self.resume(&mut duty, entry).await,
            Phase::Restoring(rejection) => {
                let rejection = self.take_back(&mut duty, entry, rejection, false).await;
                Some(Outcome { sequence, bundle_id, result: Err(rejection) })
            }
            Phase::Restored(rejection) => {
                self.ensure_running(&mut duty).await;
                Some(Outcome { sequence, bundle_id, result: Err(rejection) })
            }
            Phase::Served { at } => {
                self.ensure_running(&mut duty).await;
                let age = (self.clock.now() - at).to_std().unwrap_or_default();
                duty.begin(self.control.state(), self.probation().checked_sub(age));
                None
            }
        }
    }

    async fn watch(&self) -> Incident {
        self.watch_proxy().await
    }

    async fn stop(&self) {
        if self.options.stop_with_agent {
            self.control.dismiss();
            let ended = async {
                while self.control.state() != ProxyState::Dead {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            drop(tokio::time::timeout(Duration::from_secs(1), ended).await);
        }
    }
}
