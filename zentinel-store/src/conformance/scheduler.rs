//! Cases for [`Scheduler`].

mod leases;
mod queue;
mod schedules;
mod unique;

pub use leases::*;
pub use queue::*;
pub use schedules::*;
pub use unique::*;

use super::fixture::at;
use serde_json::json;
use std::time::Duration;
use zentinel_core::Changes;
use zentinel_core::port::{ClaimedJob, NewJob, Queue, Scheduler, Store};

/// Expands every case of [`conformance::scheduler`](crate::conformance::scheduler) into a
/// `#[tokio::test]`. The argument is an expression that makes a
/// [`Backend`](crate::conformance::Backend).
#[macro_export]
macro_rules! scheduler_suite {
    ($backend:expr) => {
        $crate::__conformance_cases! { $backend, scheduler:
            a_claimed_job_is_what_was_enqueued
            a_job_waits_until_it_is_due
            claims_go_oldest_due_first
            queues_are_separate
            a_claim_keeps_to_its_limit
            a_finished_job_is_never_claimed_again
            a_job_of_a_failed_commit_never_runs
            each_of_a_thousand_jobs_goes_to_one_worker
            the_next_due_time_is_told
            stats_count_what_is_where
            pruning_drops_what_ended

            a_lease_that_ran_out_hands_the_job_over
            a_lease_is_kept_by_extending_it
            a_job_that_ended_refuses_more
            a_failed_job_runs_again_at_its_time
            a_job_without_retry_is_given_up
            an_abandoned_job_is_handed_out_to_be_given_up
            a_deferred_job_starts_anew
            a_lost_lease_has_one_heir

            a_key_waits_once
            a_second_job_brings_the_first_forward
            a_key_never_runs_twice_at_once
            claimers_of_a_key_exclude_each_other
            concurrent_enqueues_of_a_key_make_one_job
            a_retry_merges_into_the_waiting_job
            an_overdue_job_goes_before_its_successor
            keys_of_different_kinds_are_different

            a_schedule_enqueues_when_due
            a_schedule_that_was_missed_runs_once
            one_replica_enqueues_a_schedule
            declaring_again_keeps_due_times
            undeclared_schedules_are_gone
            a_wrong_schedule_is_refused
        }
    };
}

const LEASE: Duration = Duration::from_secs(60);

fn job(kind: &str, due: i64) -> NewJob {
    NewJob::new(Queue::Default, kind, json!({ "kind": kind }), at(due))
}

async fn enqueue(store: &dyn Store, jobs: impl IntoIterator<Item = NewJob>) {
    store.commit(Changes { jobs: jobs.into_iter().collect(), ..Changes::new() }).await.unwrap();
}

/// Claims everything that is due in the default queue.
async fn claim(scheduler: &dyn Scheduler, now: i64) -> Vec<ClaimedJob> {
    scheduler.claim(Queue::Default, "worker", 100, LEASE, at(now)).await.unwrap()
}

/// Claims the one job that must be due.
async fn claim_one(scheduler: &dyn Scheduler, now: i64) -> ClaimedJob {
    let mut claimed = claim(scheduler, now).await;
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    claimed.remove(0)
}

fn kinds(claimed: &[ClaimedJob]) -> Vec<&str> {
    claimed.iter().map(|claimed| claimed.job.kind.as_str()).collect()
}
