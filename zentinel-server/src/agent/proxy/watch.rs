//! Watching the proxy between activations: it is brought back when it ends, and a release that it
//! keeps ending with is taken back.

use super::activator::ProxyActivator;
use super::control::ProxyState;
use super::journal::{Entry, Phase};
use super::process::ProcessId;
use crate::agent::activator::{Incident, Outcome, Rejection};
use crate::backoff::Backoff;
use std::time::Duration;
use tokio::time::Instant;

/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(100);
/// How many looks pass between two rounds of upkeep.
const UPKEEP: u32 = 50;
/// How many ends within the window take a release back.
const DEATHS: usize = 2;

/// What the watch remembers.
#[derive(Debug)]
pub(super) struct Duty {
    /// The process that serves.
    known: Option<ProcessId>,
    /// When it ended, lately.
    deaths: Vec<Instant>,
    /// Until when the release that serves is on probation.
    probation: Option<Instant>,
    /// When to start it again.
    restart_at: Option<Instant>,
    backoff: Backoff,
}

impl Duty {
    pub(super) fn new(state: ProxyState) -> Self {
        Self {
            known: state.process(),
            deaths: Vec::new(),
            probation: None,
            restart_at: None,
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(30)),
        }
    }

    /// Another release serves, on probation for so long.
    pub(super) fn begin(&mut self, state: ProxyState, probation: Option<Duration>) {
        *self = Self::new(state);
        self.probation = probation.map(|time| Instant::now() + time);
        self.restart_at = state.process().is_none().then(Instant::now);
    }

    /// Counts an end; whether the release must go.
    fn count(&mut self, window: Duration) -> bool {
        let now = Instant::now();
        self.deaths.retain(|death| now.duration_since(*death) <= window);
        self.deaths.push(now);
        self.restart_at = Some(now + self.backoff.pause());
        self.deaths.len() >= DEATHS && self.probation.is_some_and(|until| now <= until)
    }
}

impl ProxyActivator {
    pub(super) async fn watch_proxy(&self) -> Incident {
        let mut looks = 0_u32;
        loop {
            tokio::time::sleep(PAUSE).await;
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(UPKEEP) {
                self.control.tidy();
            }
            // An activation looks after the process itself.
            let Ok(mut duty) = self.turn.try_lock() else {
                continue;
            };
            if self.serving().is_some()
                && let Some(incident) = self.look(&mut duty).await
            {
                return incident;
            }
        }
    }

    async fn look(&self, duty: &mut Duty) -> Option<Incident> {
        match (self.control.state(), duty.known) {
            (ProxyState::Unknown, _) => None,
            (ProxyState::Running(now), Some(known)) if now == known => {
                if now.uptime().is_some_and(|uptime| uptime > self.options.crash_window) {
                    duty.backoff.reset();
                }
                None
            }
            (ProxyState::Running(now), Some(_)) => {
                duty.known = Some(now);
                Some(self.died(duty, "the proxy ended and another process took its place").await)
            }
            (ProxyState::Running(now), None) => {
                duty.known = Some(now);
                Some(Incident::ProxyReturned(format!("the proxy runs as process {}", now.pid)))
            }
            (ProxyState::Dead, Some(_)) => {
                duty.known = None;
                Some(self.died(duty, "the proxy ended").await)
            }
            (ProxyState::Dead, None) => self.bring_back_process(duty).await,
        }
    }

    async fn died(&self, duty: &mut Duty, what: &str) -> Incident {
        let last_words = self.control.last_words();
        let message =
            last_words.map_or_else(|| what.to_owned(), |words| format!("{what}\nlast words: {words}"));
        let hopeless = duty.count(self.options.crash_window);
        let Some(entry) = self.on_probation().filter(|_| hopeless) else {
            return Incident::ProxyDied(message);
        };
        let seconds = self.options.crash_window.as_secs_f64();
        let reason = format!("{DEATHS} times within {seconds} s, lately: {message}");
        let (sequence, bundle_id) = (entry.sequence, entry.bundle_id);
        let rejection = self.take_back(duty, entry, Rejection::new("proxy_crashed", reason), true).await;
        Incident::TakenBack(Outcome { sequence, bundle_id, result: Err(rejection) })
    }

    /// The activation of the release that serves.
    fn on_probation(&self) -> Option<Entry> {
        let serving = self.serving()?;
        let entry = self.journal.load()?;
        let current = matches!(entry.phase, Phase::Served { .. }) && entry.sequence == serving.sequence;
        current.then_some(entry)
    }

    async fn bring_back_process(&self, duty: &mut Duty) -> Option<Incident> {
        let due = duty.restart_at.is_none_or(|at| at <= Instant::now());
        if !self.control.supervises() || !due {
            return None;
        }
        duty.restart_at = Some(Instant::now() + duty.backoff.pause());
        match self.control.restart().await {
            Ok(()) => {
                duty.known = self.control.state().process();
                let pid =
                    duty.known.map_or_else(String::new, |process| format!(" as process {}", process.pid));
                Some(Incident::ProxyReturned(format!("the proxy was started again{pid}")))
            }
            Err(fault) => {
                tracing::error!(reason = fault.reason, message = fault.message, "the proxy did not start");
                None
            }
        }
    }
}
