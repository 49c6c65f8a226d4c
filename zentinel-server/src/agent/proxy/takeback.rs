//! Bringing back the release before.

use super::activator::ProxyActivator;
use super::control::ProxyState;
use super::journal::{Entry, Phase};
use super::proof::{PROBE, Unproven, Watched, ask_marker, prove};
use super::render::{self, RenderedRelease};
use super::watch::Duty;
use crate::agent::activator::{CURRENT, Rejection, switch};
use crate::agent::crash;
use crate::agent::release::remove;

impl ProxyActivator {
    /// Brings back the release before the one of the entry, proves it, and says so in the rejection.
    /// With `anew`, the proxy is started anew in any case: it is of no use as it is.
    pub(super) async fn take_back(
        &self,
        duty: &mut Duty,
        entry: Entry,
        rejection: Rejection,
        anew: bool,
    ) -> Rejection {
        self.journal.note(&Entry { phase: Phase::Restoring(rejection.clone()), ..entry.clone() });
        crash::point("restore-begun");
        let directory = &self.options.directory;
        let previous = entry.previous.and_then(|sequence| RenderedRelease::load(directory, sequence));
        let became = match &previous {
            Some(previous) => self.return_to(previous, entry.sequence, anew).await,
            None => self.serve_nothing().await,
        };
        tracing::warn!(sequence = entry.sequence, bundle_id = %entry.bundle_id, became, "taken back");
        // What the proxy said comes last: it may be long.
        let (what, words) = rejection.message.split_once('\n').unwrap_or((&rejection.message, ""));
        let message = format!("{what}; {became}\n{words}").trim_end().to_owned();
        let rejection = Rejection { message, ..rejection };
        self.journal.note(&Entry { phase: Phase::Restored(rejection.clone()), ..entry });
        crash::point("journal-restored");
        duty.begin(self.control.state(), None);
        rejection
    }

    /// What became of it.
    async fn return_to(&self, previous: &RenderedRelease, failed: u64, anew: bool) -> String {
        let name = format!("release {} (bundle {})", previous.sequence, previous.bundle_id);
        match self.bring_back(previous, failed, anew).await {
            Ok(()) => format!("{name} was restored and proved to serve"),
            Err(unproven) => {
                let Unproven { reason, message } = unproven;
                format!("restoring {name} failed too: {reason}: {message}")
            }
        }
    }

    async fn bring_back(&self, previous: &RenderedRelease, failed: u64, anew: bool) -> Result<(), Unproven> {
        let directory = &self.options.directory;
        let from = RenderedRelease::load(directory, failed);
        let restart = anew
            || from.as_ref().is_some_and(RenderedRelease::asks_for_restart)
            || self.needs_restart(from.as_ref(), &reloadable(previous)).await;
        let resumed = self.serving().is_some_and(|serving| serving.sequence == previous.sequence);
        let fresh = if restart { None } else { self.freshened(previous) };
        let previous = fresh.as_ref().unwrap_or(previous);
        crash::point("restore-switching");
        switch(directory, &render::home(directory, previous.sequence))
            .map_err(|error| Unproven::new("switch_failed", format!("current: {error}")))?;
        self.serve(Some(previous.clone()));
        crash::point("restore-switched");
        if resumed && restart && self.proved(previous).await.is_ok() {
            // An agent that ended on the way back had started the process that answers.
            return Ok(());
        }
        if !restart && self.told_and_proved(previous, false).await.is_ok() {
            return Ok(());
        }
        // What a signal does not bring back, a new process does.
        self.told_and_proved(previous, true).await
    }

    /// A route that was there all along does not prove that a reload was taken.
    fn freshened(&self, release: &RenderedRelease) -> Option<RenderedRelease> {
        let fresh = release.freshened(&self.options.directory);
        // Without room on the disk it is better to go back without that proof than to stay.
        let warn = |error: &_| tracing::warn!(sequence = release.sequence, %error, "no marker of its own");
        fresh.inspect_err(warn).ok()
    }

    async fn told_and_proved(&self, release: &RenderedRelease, restart: bool) -> Result<(), Unproven> {
        let before = self.control.state();
        let mut watched = Watched { control: &*self.control, same: before.process() };
        // A proxy that never took the failed release needs telling all the same: it may be at it.
        let told = self.tell(restart, before).await;
        watched.same = told.map_err(|fault| Unproven::new(fault.reason, fault.message))?;
        crash::point("restore-signalled");
        let unproven = if restart { "restart_not_proven" } else { "reload_not_proven" };
        prove(release, &mut watched, self.patience(), unproven, restart).await?;
        crash::point("restore-proven");
        Ok(())
    }

    /// Whether the release serves without anybody being told.
    async fn proved(&self, release: &RenderedRelease) -> Result<(), Unproven> {
        ask_marker(release, PROBE).await.map_err(|why| Unproven::new("reload_not_proven", why))?;
        let mut watched = Watched { control: &*self.control, same: self.control.state().process() };
        prove(release, &mut watched, self.patience(), "reload_not_proven", false).await
    }

    /// Nothing served before, so nothing serves.
    async fn serve_nothing(&self) -> String {
        let removed = remove(&self.options.directory.join(CURRENT));
        self.serve(None);
        let stopped = self.control.stop().await;
        match (removed, stopped, self.control.state()) {
            (Err(error), ..) => format!("no bundle served before, and the link to this one stays: {error}"),
            (Ok(()), true, _) => {
                "no bundle served before: the proxy was stopped and the node is without a bundle".to_owned()
            }
            (Ok(()), false, ProxyState::Running(process)) => format!(
                "no bundle served before: the node is without a bundle, but process {} still runs",
                process.pid
            ),
            (Ok(()), false, _) => "no bundle served before: the node is without a bundle".to_owned(),
        }
    }

    /// Whether the release that serves answers its marker.
    pub(crate) async fn answers(&self) -> Result<(), String> {
        match self.serving() {
            Some(release) => ask_marker(&release, PROBE).await,
            None => Err("no bundle is active".to_owned()),
        }
    }
}

/// What it once took to activate a release says nothing about going back to it.
fn reloadable(release: &RenderedRelease) -> RenderedRelease {
    let activation = zentinel_core::entity::Activation::Reload;
    RenderedRelease { activation, compare: false, ..release.clone() }
}
