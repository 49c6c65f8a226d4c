//! The nodes, their connections, and what falls due.
//!
//! Everything runs on one thread. Each millisecond the wheel yields what is due; a request goes out
//! on the connection that has been idle longest. When none is idle it waits, and its latency counts
//! from the instant it was due: a server that stalls cannot slow the schedule down and so hide it.

mod answer;
mod link;
#[cfg(test)]
mod tests;

use super::codec::Writer;
use super::fetch::Fetch;
use super::node::{Habits, Next, Node};
use super::stats::{Loss, Stats};
use super::wheel::Wheel;
use link::Link;
use rand::{RngExt as _, SeedableRng as _, rngs::Xoshiro256PlusPlus};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedSender;
use zentinel_core::id::{BundleId, ProjectId};
use zentinel_core::port::PublicKey;

pub(super) use link::{Links, run as run_link};

/// Most requests that wait for a connection.
const MAX_WAITING: usize = 2_000_000;
/// How far retries are spread beyond the time asked for, as a share of it.
const RETRY_SPREAD: f64 = 0.5;
/// How far paced intervals are spread either way.
const PACE_SPREAD: f64 = 0.1;
/// When to try again if nobody says, at first and after many failures, in milliseconds.
const RETRY_MS: (u64, u64) = (1_000, 60_000);

/// How requests are scheduled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// At fixed intervals whatever the answers, in milliseconds: heartbeats and polls.
    Fixed(f64, f64),
    /// Each after the answer to the one before, as real nodes do: they begin within so many
    /// milliseconds, follow poll hints, and wait as long as refusals say.
    Answers { heartbeat_ms: u64, poll_ms: u64, begin_ms: u64 },
    /// As fast as the connections allow, one heartbeat to two polls.
    Flood,
}

/// How the engine runs.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) pace: Pace,
    pub(super) habits: Habits,
    /// Share of heartbeats that say something new by themselves, 0 to 1.
    pub(super) changes: f64,
    /// Whether nodes exchange their keys for tokens.
    pub(super) tokens: bool,
    /// Requests in flight on one connection.
    pub(super) depth: usize,
    /// How long an answer may take.
    pub(super) timeout: Duration,
    pub(super) seed: u64,
}

/// What falls due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Heartbeat(u32),
    Poll(u32),
    Token(u32),
    /// A heartbeat out of turn: there is news.
    Report(u32),
    /// The node's activation goes on.
    Proceed(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Heartbeat,
    Report,
    Poll,
    Token,
}

/// A request that is due or on its way.
#[derive(Clone, Copy, Debug)]
struct Job {
    /// When it was due, in microseconds since the start.
    at: u64,
    /// When it was handed to a connection.
    sent: u64,
    node: u32,
    kind: Kind,
    /// Whether it says something that must be written down.
    news: bool,
}

/// All nodes of a run.
#[derive(Debug)]
pub(super) struct Engine {
    plan: Plan,
    writer: Writer,
    pub(super) nodes: Vec<Node>,
    wheel: Wheel<Due>,
    links: Vec<Link>,
    /// Connections with room for a request, the one idle longest first.
    ready: VecDeque<u32>,
    waiting: VecDeque<Job>,
    pub(super) stats: Stats,
    /// What the project's statements must be signed by; all nodes share what one has learnt.
    pins: (Vec<PublicKey>, u64),
    project: ProjectId,
    fetches: UnboundedSender<Fetch>,
    /// How many nodes run which bundle, and what people call it.
    pub(super) running: BTreeMap<BundleId, (String, usize)>,
    /// Nodes whose heartbeat and poll were admitted, and when the last of them was.
    pub(super) returned: (usize, Option<Duration>),
    dice: Xoshiro256PlusPlus,
    start: Instant,
    /// The next request of a flood.
    turn: u64,
    due: Vec<(u64, Due)>,
    body: Vec<u8>,
    request: Vec<u8>,
}

impl Engine {
    pub(super) fn new(
        plan: Plan,
        writer: Writer,
        nodes: Vec<Node>,
        links: usize,
        (project, keys): (ProjectId, Vec<PublicKey>),
        fetches: UnboundedSender<Fetch>,
    ) -> Self {
        let dice = Xoshiro256PlusPlus::seed_from_u64(plan.seed);
        let mut engine = Self {
            plan,
            writer,
            nodes,
            wheel: Wheel::new(),
            links: (0..links).map(|_| Link::default()).collect(),
            ready: VecDeque::new(),
            waiting: VecDeque::new(),
            stats: Stats::default(),
            pins: (keys, 0),
            project,
            fetches,
            running: BTreeMap::new(),
            returned: (0, None),
            dice,
            start: Instant::now(),
            turn: 0,
            due: Vec::new(),
            body: Vec::new(),
            request: Vec::new(),
        };
        engine.schedule();
        engine
    }

    /// The first heartbeat and poll of each node, spread over the intervals.
    fn schedule(&mut self) {
        let count = self.nodes.len().max(1) as f64;
        for node in 0..self.nodes.len() as u32 {
            let share = f64::from(node) / count;
            let (heartbeat, poll) = match self.plan.pace {
                Pace::Fixed(heartbeat, poll) => (share * heartbeat, share * poll),
                Pace::Answers { begin_ms, .. } => {
                    let begin = begin_ms as f64;
                    (self.dice.random::<f64>() * begin, self.dice.random::<f64>() * begin)
                }
                Pace::Flood => break,
            };
            self.wheel.push(heartbeat as u64, Due::Heartbeat(node));
            self.wheel.push(poll as u64, Due::Poll(node));
            if self.plan.tokens {
                self.wheel.push(heartbeat as u64, Due::Token(node));
            }
        }
    }

    /// Time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_micros() as u64
    }

    fn after(&mut self, ms: u64, due: Due) {
        let at = self.now() / 1_000 + ms;
        self.wheel.push(at, due);
    }

    /// A span a little shorter or longer, so that nodes do not fall into step.
    fn spread(&mut self, ms: u64) -> u64 {
        (ms as f64 * (1.0 + PACE_SPREAD * (2.0 * self.dice.random::<f64>() - 1.0))) as u64
    }

    /// Sends what is due.
    pub(super) fn turn(&mut self) {
        let now_ms = self.now() / 1_000;
        let mut due = std::mem::take(&mut self.due);
        self.wheel.pop_due(now_ms, &mut due);
        for (at, what) in due.drain(..) {
            self.fire(at, what);
        }
        self.due = due;
        self.dispatch();
    }

    fn fire(&mut self, at: u64, what: Due) {
        let (node, kind) = match what {
            Due::Heartbeat(node) => (node, Kind::Heartbeat),
            Due::Report(node) => (node, Kind::Report),
            Due::Poll(node) => (node, Kind::Poll),
            Due::Token(node) => (node, Kind::Token),
            Due::Proceed(node) => return self.proceed(node),
        };
        let Some(state) = self.nodes.get(node as usize) else { return };
        if state.is_gone() {
            return;
        }
        let away = state.is_away(node, at, &self.plan.habits);
        let interval = match (self.plan.pace, kind) {
            (Pace::Fixed(heartbeat, _), Kind::Heartbeat) => Some(heartbeat),
            (Pace::Fixed(_, poll), Kind::Poll) => Some(poll),
            (Pace::Answers { heartbeat_ms, .. }, _) if away => Some(heartbeat_ms as f64),
            _ => None,
        };
        if let Some(interval) = interval {
            self.wheel.push(at + (interval as u64).max(1), what);
        }
        if !away {
            self.enqueue(Job { at: at * 1_000, sent: 0, node, kind, news: false });
        }
    }

    fn enqueue(&mut self, job: Job) {
        if self.waiting.len() < MAX_WAITING {
            self.waiting.push_back(job);
        } else {
            self.lost(job, Loss::Unsent);
        }
    }

    /// Hands what waits to connections with room.
    fn dispatch(&mut self) {
        let mut last = None;
        while let Some((link, job)) = self.next_to_send() {
            if let Some(before) = last.replace(link).filter(|before| *before != link) {
                self.flush(before);
            }
            self.send(link, job);
        }
        if let Some(link) = last {
            self.flush(link);
        }
    }

    /// The next request and the connection for it, when there are both.
    fn next_to_send(&mut self) -> Option<(u32, Job)> {
        while self.ready.front().is_some_and(|link| !self.has_room(*link)) {
            self.ready.pop_front();
        }
        let link = *self.ready.front()?;
        let job = self.waiting.pop_front().or_else(|| self.next_of_flood())?;
        self.ready.pop_front();
        Some((link, job))
    }

    fn next_of_flood(&mut self) -> Option<Job> {
        if self.plan.pace != Pace::Flood || self.nodes.is_empty() {
            return None;
        }
        let (turn, count) = (self.turn, self.nodes.len() as u64);
        self.turn += 1;
        // Polls of a node follow its heartbeat by half the fleet.
        let (kind, node) = match turn % 3 {
            0 => (Kind::Heartbeat, turn / 3),
            _ => (Kind::Poll, turn / 3 * 2 + turn % 3 + count / 2),
        };
        Some(Job { at: self.now(), sent: 0, node: (node % count) as u32, kind, news: false })
    }

    fn send(&mut self, link: u32, mut job: Job) {
        let uptime = self.start.elapsed().as_secs();
        let falls_ill = self.plan.changes > 0.0
            && job.kind == Kind::Heartbeat
            // An illness lasts one heartbeat, so that each is two changes.
            && self.dice.random::<f64>() < self.plan.changes / (2.0 - self.plan.changes);
        let dice = self.dice.random::<u32>();
        let Some(node) = self.nodes.get_mut(job.node as usize) else { return };
        self.request.clear();
        match job.kind {
            Kind::Heartbeat | Kind::Report => {
                node.waver(falls_ill);
                self.body.clear();
                job.news = node.heartbeat(&mut self.body, uptime, dice);
                self.writer.heartbeat(&mut self.request, node.credential(), &self.body);
            }
            Kind::Poll => self.writer.poll(&mut self.request, node.credential(), node.etag.as_deref()),
            Kind::Token => self.writer.token(&mut self.request, node.credential()),
        }
        job.sent = self.now();
        self.put(link, job);
    }

    fn proceed(&mut self, index: u32) {
        let Some(node) = self.nodes.get_mut(index as usize) else { return };
        let before = node.active;
        let next = node.proceed(&self.plan.habits);
        let active = node.active;
        if before != active {
            self.count_running(before, active);
        }
        self.follow(index, next);
    }

    fn count_running(&mut self, before: Option<BundleId>, active: Option<BundleId>) {
        if let Some((_, count)) = before.and_then(|id| self.running.get_mut(&id)) {
            *count = count.saturating_sub(1);
        }
        if let Some(id) = active {
            self.running.entry(id).or_default().1 += 1;
            self.stats.activations += 1;
        }
    }

    /// Does what a node does next.
    fn follow(&mut self, node: u32, next: Next) {
        match next {
            Next::Rest | Next::Fetch => {}
            Next::Proceed(ms) => self.after(ms, Due::Proceed(node)),
            Next::Report(then) => {
                let failed = self.nodes.get(node as usize).is_some_and(Node::has_failed);
                self.stats.failures += u64::from(failed);
                self.after(0, Due::Report(node));
                if let Some(ms) = then {
                    self.after(ms, Due::Proceed(node));
                }
            }
        }
    }

    /// An archive was fetched, or could not be.
    pub(super) fn fetched(&mut self, fetch: &Fetch, outcome: Result<bool, ()>) {
        match outcome {
            Ok(true) => {}
            Ok(false) => self.stats.untrusted += 1,
            Err(()) => self.stats.undelivered += 1,
        }
        let Some(node) = self.nodes.get_mut(fetch.node as usize) else { return };
        let next = node.fetched(fetch.sequence, outcome == Ok(true), &self.plan.habits);
        self.follow(fetch.node, next);
    }

    /// A request that got no answer.
    fn lost(&mut self, job: Job, loss: Loss) {
        self.stats.lose(loss);
        self.failed(job, None);
    }

    /// A request that did not do what it was for: real nodes try again.
    fn failed(&mut self, job: Job, retry_after: Option<u32>) {
        let Some(node) = self.nodes.get_mut(job.node as usize) else { return };
        if matches!(job.kind, Kind::Heartbeat | Kind::Report) {
            node.unheard();
        }
        let due = match job.kind {
            Kind::Heartbeat => Due::Heartbeat(job.node),
            Kind::Poll => Due::Poll(job.node),
            Kind::Token => Due::Token(job.node),
            Kind::Report => return,
        };
        if matches!(self.plan.pace, Pace::Answers { .. }) || job.kind == Kind::Token {
            node.failures = node.failures.saturating_add(1);
            let backoff = RETRY_MS.0 << (node.failures - 1).min(16);
            let wait = retry_after.map_or(backoff.min(RETRY_MS.1), |seconds| u64::from(seconds) * 1_000);
            let spread = 1.0 + RETRY_SPREAD * self.dice.random::<f64>();
            self.after((wait as f64 * spread) as u64, due);
        }
    }

    /// Gives up what has waited too long; to be called every second or so.
    pub(super) fn sweep(&mut self) {
        let limit = self.now().saturating_sub(self.plan.timeout.as_micros() as u64);
        while let Some(job) = self.waiting.front().copied().filter(|job| job.at < limit) {
            self.waiting.pop_front();
            self.lost(job, Loss::Unsent);
        }
        self.expire_links(limit);
    }

    /// Counts what is on its way as lost, at the end of a run: leaving it out would leave out the
    /// slowest.
    pub(super) fn give_up(&mut self) {
        for _ in 0..self.open() {
            self.stats.lose(Loss::Open);
        }
    }

    /// Requests without an answer.
    pub(super) fn open(&self) -> usize {
        self.unanswered().count()
    }

    fn unanswered(&self) -> impl Iterator<Item = Job> {
        self.waiting.iter().copied().chain(self.links.iter().flat_map(Link::in_flight))
    }

    /// Sends nothing new from now on.
    pub(super) fn stop(&mut self) {
        self.plan.pace = Pace::Fixed(0.0, 0.0);
        self.wheel = Wheel::new();
    }

    /// Whether every node that can return after a storm has.
    pub(super) fn all_returned(&self) -> bool {
        self.returned.0 >= self.expected()
    }

    /// Nodes that will be heard of.
    pub(super) fn expected(&self) -> usize {
        self.nodes.iter().filter(|node| !node.is_gone()).count()
    }
}
