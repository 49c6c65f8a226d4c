//! When periodic jobs are due, the same in every back end.

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use serde_json::Value;
use zentinel_core::port::{NewJob, Schedule};
use zentinel_core::{Error, Result, Timestamp};

/// The first instant after `after` at which a schedule is due.
///
/// # Errors
/// `Invalid` on `cron` for an expression that is not six fields of cron or never comes true.
pub(crate) fn next_due(schedule: &Schedule, after: Timestamp) -> Result<Timestamp> {
    let invalid = |error: croner::errors::CronError| {
        Error::invalid_field("cron", "is invalid")
            .with_details(serde_json::json!({ "schedule": schedule.name, "reason": error.to_string() }))
    };
    let cron: Cron = CronParser::builder()
        .seconds(Seconds::Required)
        .year(Year::Disallowed)
        .build()
        .parse(&schedule.cron)
        .map_err(invalid)?;
    cron.find_next_occurrence(&after, false).map_err(invalid)
}

/// The job of a schedule that is due. At most one of them waits at a time.
pub(crate) fn job(schedule: &Schedule, due: Timestamp) -> NewJob {
    NewJob::new(schedule.queue, &schedule.name, Value::Null, due).unique(&schedule.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_core::port::Queue;

    fn schedule(cron: &str) -> Schedule {
        Schedule { name: "sweep".to_owned(), queue: Queue::Maintenance, cron: cron.to_owned() }
    }

    #[test]
    fn six_fields_with_seconds() {
        let start = Timestamp::from_timestamp(1_000_000_000, 1_000).unwrap();
        let due = next_due(&schedule("*/15 * * * * *"), start).unwrap();
        assert_eq!(due.timestamp(), 1_000_000_005);
        assert_eq!(next_due(&schedule("*/15 * * * * *"), due).unwrap().timestamp(), 1_000_000_020);
    }

    #[test]
    fn anything_else_is_refused() {
        let start = Timestamp::UNIX_EPOCH;
        for cron in ["", "* * * * *", "61 * * * * *", "0 0 0 30 2 *", "soon"] {
            let error = next_due(&schedule(cron), start).unwrap_err();
            assert!(error.fields().contains_key("cron"), "{cron}");
        }
    }
}
