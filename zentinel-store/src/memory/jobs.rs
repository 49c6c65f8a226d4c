//! The job queue.

use crate::schedule;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use zentinel_core::id::JobId;
use zentinel_core::port::{ClaimedJob, NewJob, Queue, QueueStats, Schedule};
use zentinel_core::{Error, Result, Timestamp};

/// A kind and a unique key.
type Key = (String, String);

/// Every job and schedule.
#[derive(Default)]
pub(super) struct Jobs {
    jobs: HashMap<JobId, Job>,
    /// Waiting jobs by due time, then by the order in which they came.
    waiting: BTreeMap<Queue, BTreeSet<(Timestamp, u64, JobId)>>,
    running: BTreeMap<Queue, BTreeSet<JobId>>,
    /// Jobs that ended, by when.
    ended: BTreeSet<(Timestamp, JobId)>,
    failed: HashMap<Queue, u64>,
    waiting_keys: HashMap<Key, JobId>,
    /// Held or abandoned: until such a job ends, no other with its key is handed out.
    running_keys: HashMap<Key, JobId>,
    last_number: u64,
    last_fence: u64,
    schedules: BTreeMap<String, (Schedule, Timestamp)>,
}

struct Job {
    job: NewJob,
    number: u64,
    attempt: u32,
    state: State,
}

enum State {
    Waiting,
    Running { worker: String, fence: u64, leased_until: Timestamp },
    Ended { failed: bool },
}

impl Job {
    fn key(&self) -> Option<Key> {
        self.job.unique_key.clone().map(|key| (self.job.kind.clone(), key))
    }

    fn place(&self) -> (Timestamp, u64, JobId) {
        (self.job.run_at, self.number, self.job.id)
    }

    fn lease_is_over(&self, now: Timestamp) -> bool {
        matches!(self.state, State::Running { leased_until, .. } if leased_until <= now)
    }

    fn is_exhausted(&self) -> bool {
        self.attempt >= self.job.max_attempts.max(1)
    }
}

impl Jobs {
    /// Checks that new jobs can be enqueued.
    pub(super) fn check(&self, jobs: &[NewJob]) -> Result<()> {
        let mut seen = HashSet::new();
        if jobs.iter().all(|job| !self.jobs.contains_key(&job.id) && seen.insert(job.id)) {
            Ok(())
        } else {
            Err(Error::invalid_field("id", "has already been taken"))
        }
    }

    /// Adds a job that was checked, or brings the waiting one with its key forward.
    pub(super) fn enqueue(&mut self, job: NewJob) {
        if self.bring_forward(&job) {
            return;
        }
        self.last_number += 1;
        let job = Job { number: self.last_number, attempt: 0, state: State::Waiting, job };
        self.put_waiting(job);
    }

    /// Whether a job with the same key waits; it is due at the earlier of both instants.
    fn bring_forward(&mut self, job: &NewJob) -> bool {
        let Some(key) = &job.unique_key else { return false };
        let Some(id) = self.waiting_keys.get(&(job.kind.clone(), key.clone())) else {
            return false;
        };
        let Some(waiting) = self.jobs.get_mut(id) else {
            return false;
        };
        let queue = self.waiting.entry(waiting.job.queue).or_default();
        queue.remove(&waiting.place());
        waiting.job.run_at = waiting.job.run_at.min(job.run_at);
        queue.insert(waiting.place());
        true
    }

    fn put_waiting(&mut self, mut job: Job) {
        job.state = State::Waiting;
        self.waiting.entry(job.job.queue).or_default().insert(job.place());
        self.waiting_keys.extend(job.key().map(|key| (key, job.job.id)));
        self.jobs.insert(job.job.id, job);
    }

    pub(super) fn claim(
        &mut self,
        queue: Queue,
        worker: &str,
        limit: u32,
        until: Timestamp,
        now: Timestamp,
    ) -> Vec<ClaimedJob> {
        let mut places = self.overdue(queue, now, false);
        let due = self.waiting.entry(queue).or_default().iter().take_while(|place| place.0 <= now);
        let free = due.filter(|(_, _, id)| {
            let key = self.jobs.get(id).and_then(Job::key);
            key.is_none_or(|key| !self.running_keys.contains_key(&key))
        });
        places.extend(free.take(limit as usize).copied());
        places.sort_unstable();
        places.truncate(limit as usize);
        places.into_iter().filter_map(|(_, _, id)| self.lease(id, worker, until, true)).collect()
    }

    pub(super) fn claim_abandoned(
        &mut self,
        queue: Queue,
        worker: &str,
        limit: u32,
        until: Timestamp,
        now: Timestamp,
    ) -> Vec<ClaimedJob> {
        let mut places = self.overdue(queue, now, true);
        places.sort_unstable();
        places.truncate(limit as usize);
        places.into_iter().filter_map(|(_, _, id)| self.lease(id, worker, until, false)).collect()
    }

    /// Jobs whose lease has run out: with attempts left, or without.
    fn overdue(&self, queue: Queue, now: Timestamp, exhausted: bool) -> Vec<(Timestamp, u64, JobId)> {
        let running = self.running.get(&queue).into_iter().flatten().filter_map(|id| self.jobs.get(id));
        running
            .filter(|job| job.lease_is_over(now) && job.is_exhausted() == exhausted)
            .map(Job::place)
            .collect()
    }

    fn lease(&mut self, id: JobId, worker: &str, until: Timestamp, try_again: bool) -> Option<ClaimedJob> {
        let job = self.jobs.get_mut(&id)?;
        let queue = job.job.queue;
        if matches!(job.state, State::Waiting) {
            self.waiting.entry(queue).or_default().remove(&job.place());
            if let Some(key) = job.key() {
                self.waiting_keys.remove(&key);
                self.running_keys.insert(key, id);
            }
            self.running.entry(queue).or_default().insert(id);
        }
        self.last_fence += 1;
        job.attempt += u32::from(try_again);
        job.state = State::Running { worker: worker.to_owned(), fence: self.last_fence, leased_until: until };
        Some(ClaimedJob {
            job: job.job.clone(),
            attempt: job.attempt,
            fence: self.last_fence,
            leased_until: until,
        })
    }

    pub(super) fn extend(&mut self, claimed: &ClaimedJob, until: Timestamp) -> Result<()> {
        match self.jobs.get_mut(&claimed.job.id).map(|job| &mut job.state) {
            Some(State::Running { fence, leased_until, .. }) if *fence == claimed.fence => {
                *leased_until = until;
                Ok(())
            }
            _ => Err(lost()),
        }
    }

    /// Ends a job; tells whether another one with its key waits.
    pub(super) fn complete(&mut self, claimed: &ClaimedJob, now: Timestamp) -> Result<bool> {
        let job = self.take_running(claimed)?;
        Ok(self.end(job, now, false))
    }

    /// Ends or retries a job; tells whether another one with its key waits.
    pub(super) fn fail(
        &mut self,
        claimed: &ClaimedJob,
        reason: &str,
        retry_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<bool> {
        let worker = self.worker(claimed).to_owned();
        let job = self.take_running(claimed)?;
        tracing::debug!(job = %job.job.id, kind = job.job.kind, worker, reason, ?retry_at, "job failed");
        Ok(match retry_at {
            Some(at) => self.put_back(job, at, now),
            None => self.end(job, now, true),
        })
    }

    /// Lets a job wait with fresh attempts; tells whether another one with its key waits.
    pub(super) fn defer(&mut self, claimed: &ClaimedJob, at: Timestamp, now: Timestamp) -> Result<bool> {
        let mut job = self.take_running(claimed)?;
        job.attempt = 0;
        Ok(self.put_back(job, at, now))
    }

    /// Lets a job wait again, or merges it into the one with its key that waits already.
    fn put_back(&mut self, mut job: Job, at: Timestamp, now: Timestamp) -> bool {
        job.job.run_at = at;
        if self.bring_forward(&job.job) {
            return self.end(job, now, false);
        }
        self.put_waiting(job);
        false
    }

    fn worker(&self, claimed: &ClaimedJob) -> &str {
        match self.jobs.get(&claimed.job.id).map(|job| &job.state) {
            Some(State::Running { worker, .. }) => worker,
            _ => "",
        }
    }

    /// Takes a job out of its worker's hands, if it still is in them.
    fn take_running(&mut self, claimed: &ClaimedJob) -> Result<Job> {
        let id = claimed.job.id;
        let holds = |job: &Job| matches!(job.state, State::Running { fence, .. } if fence == claimed.fence);
        if !self.jobs.get(&id).is_some_and(holds) {
            return Err(lost());
        }
        let job = self.jobs.remove(&id).ok_or_else(lost)?;
        self.running.entry(job.job.queue).or_default().remove(&id);
        if let Some(key) = job.key() {
            self.running_keys.remove(&key);
        }
        Ok(job)
    }

    fn end(&mut self, mut job: Job, at: Timestamp, failed: bool) -> bool {
        let waits = job.key().is_some_and(|key| self.waiting_keys.contains_key(&key));
        job.state = State::Ended { failed };
        self.ended.insert((at, job.job.id));
        *self.failed.entry(job.job.queue).or_default() += u64::from(failed);
        self.jobs.insert(job.job.id, job);
        waits
    }

    pub(super) fn next_due(&self, queue: Queue) -> Option<Timestamp> {
        self.waiting.get(&queue)?.first().map(|place| place.0)
    }

    pub(super) fn stats(&self, queue: Queue, now: Timestamp) -> QueueStats {
        let waiting = self.waiting.get(&queue);
        let due = waiting.map_or(0, |waiting| waiting.iter().take_while(|place| place.0 <= now).count());
        let all = waiting.map_or(0, BTreeSet::len);
        QueueStats {
            due: due as u64,
            later: (all - due) as u64,
            running: self.running.get(&queue).map_or(0, BTreeSet::len) as u64,
            failed: self.failed.get(&queue).copied().unwrap_or(0),
        }
    }

    pub(super) fn prune(&mut self, before: Timestamp) -> u64 {
        let mut count = 0;
        while let Some((_, id)) = self.ended.first().copied().filter(|(at, _)| *at < before) {
            self.ended.pop_first();
            count += 1;
            if let Some(Job { job, state: State::Ended { failed: true }, .. }) = self.jobs.remove(&id)
                && let Some(failed) = self.failed.get_mut(&job.queue)
            {
                *failed = failed.saturating_sub(1);
            }
        }
        count
    }

    pub(super) fn declare(&mut self, schedules: &[Schedule], now: Timestamp) -> Result<()> {
        let mut declared = BTreeMap::new();
        for new in schedules {
            let kept = self.schedules.get(&new.name).filter(|(old, _)| old == new).map(|(_, due)| *due);
            let due = match kept {
                Some(due) => due,
                None => schedule::next_due(new, now)?,
            };
            if declared.insert(new.name.clone(), (new.clone(), due)).is_some() {
                return Err(Error::invalid_field("name", "has already been taken"));
            }
        }
        self.schedules = declared;
        Ok(())
    }

    pub(super) fn enqueue_due(&mut self, now: Timestamp) -> Result<u32> {
        let mut jobs = Vec::new();
        for (schedule, due) in self.schedules.values_mut().filter(|(_, due)| *due <= now) {
            let next = schedule::next_due(schedule, now)?;
            jobs.push(schedule::job(schedule, *due));
            *due = next;
        }
        let count = jobs.len();
        for job in jobs {
            self.enqueue(job);
        }
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

fn lost() -> Error {
    Error::stale("the job")
}
