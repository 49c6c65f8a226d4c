//! Freeze windows: time spans in which no rollout starts.

use crate::error::{Checks, Error, Result};
use crate::id::{EnvironmentId, FreezeWindowId, OrganisationId, ProjectId};
use crate::record::{Keys, Record, RecordKind};
use crate::scope::{Actor, Scope};
use crate::value::Timestamp;
use chrono::{
    DateTime, Datelike, Days, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, TimeZone,
};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the days of the week")]
pub enum Weekday {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl From<chrono::Weekday> for Weekday {
    fn from(day: chrono::Weekday) -> Self {
        match day {
            chrono::Weekday::Mon => Self::Mon,
            chrono::Weekday::Tue => Self::Tue,
            chrono::Weekday::Wed => Self::Wed,
            chrono::Weekday::Thu => Self::Thu,
            chrono::Weekday::Fri => Self::Fri,
            chrono::Weekday::Sat => Self::Sat,
            chrono::Weekday::Sun => Self::Sun,
        }
    }
}

/// Wall-clock time of a place, again every week.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recurrence {
    /// The days on which it begins; at least one.
    pub weekdays: BTreeSet<Weekday>,
    /// When it begins.
    #[serde(with = "hours_and_minutes")]
    pub from: NaiveTime,
    /// When it ends: on the next day where this is not after `from`.
    #[serde(with = "hours_and_minutes")]
    pub to: NaiveTime,
    /// The place whose clocks are meant, for example `Europe/Berlin`.
    pub time_zone: Tz,
}

mod hours_and_minutes {
    use chrono::NaiveTime;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &NaiveTime, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&time.format("%H:%M"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<NaiveTime, D::Error> {
        let text = String::deserialize(deserializer)?;
        NaiveTime::parse_from_str(&text, "%H:%M").map_err(|_| D::Error::custom("expected HH:MM"))
    }
}

impl Recurrence {
    /// From texts, as callers give them.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `recurrence.weekdays`, `.from`, `.to` or `.time_zone`.
    pub fn parse(weekdays: &[String], from: &str, to: &str, time_zone: &str) -> Result<Self> {
        let mut checks = Checks::new();
        let read = |day: &String| serde_json::from_value(day.to_lowercase().into()).ok();
        let days: BTreeSet<Weekday> = weekdays.iter().filter_map(read).collect();
        let known = weekdays.iter().all(|day| read(day).is_some());
        checks.that("recurrence.weekdays", known, "must be of mon, tue, wed, thu, fri, sat, sun");
        checks.that("recurrence.weekdays", !weekdays.is_empty(), "can't be blank");
        let mut time = |field: &str, text: &str| {
            let time = NaiveTime::parse_from_str(text, "%H:%M").ok();
            checks.that(field, time.is_some(), "must be HH:MM, from 00:00 to 23:59");
            time.unwrap_or_default()
        };
        let (from, to) = (time("recurrence.from", from), time("recurrence.to", to));
        let zone: Option<Tz> = time_zone.parse().ok();
        let message = "must be a name of the IANA time zone database, for example Europe/Berlin";
        checks.that("recurrence.time_zone", zone.is_some(), message);
        checks.finish()?;
        Ok(Self { weekdays: days, from, to, time_zone: zone.unwrap_or(Tz::UTC) })
    }

    /// The end of the occurrence that covers `at`; the latest, should there be two.
    fn until(&self, at: Timestamp) -> Option<Timestamp> {
        let today = at.with_timezone(&self.time_zone).date_naive();
        // An occurrence lasts a day at most; where clocks skip a whole day, its end comes a day later.
        let days = (0..=2).filter_map(|back| today.checked_sub_days(Days::new(back)));
        let covering = days.filter_map(|day| self.on(day)).filter(|(start, end)| *start <= at && at <= *end);
        covering.map(|(_, end)| end).max()
    }

    /// The occurrence that begins on a day, if one does.
    fn on(&self, day: NaiveDate) -> Option<(Timestamp, Timestamp)> {
        if !self.weekdays.contains(&day.weekday().into()) {
            return None;
        }
        let last = if self.to > self.from { day } else { day.checked_add_days(Days::new(1))? };
        let (start, _) = instants(self.time_zone, day.and_time(self.from))?;
        let (_, end) = instants(self.time_zone, last.and_time(self.to))?;
        Some((start, end))
    }
}

/// The first and the last instant at which clocks show a time: two different ones when they are set back. A
/// time that clocks skip is the instant at which they are set forward.
fn instants(zone: Tz, local: NaiveDateTime) -> Option<(Timestamp, Timestamp)> {
    // No zone ever skipped more than a day, and all skip whole quarters of an hour.
    (0..=25 * 4).find_map(|quarters| {
        let local = local.checked_add_signed(TimeDelta::minutes(15 * quarters))?;
        match zone.from_local_datetime(&local) {
            LocalResult::Single(at) => Some((at.to_utc(), at.to_utc())),
            LocalResult::Ambiguous(first, last) => Some((first.to_utc(), last.to_utc())),
            LocalResult::None => None,
        }
    })
}

/// When a freeze window holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FreezeSpan {
    /// Once, from one instant to another, both included.
    Once {
        /// Its first instant.
        starts_at: Timestamp,
        /// Its last instant.
        ends_at: Timestamp,
    },
    /// Again every week.
    Weekly(Recurrence),
}

/// A time span in which no rollout starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreezeWindow {
    /// Its id.
    pub id: FreezeWindowId,
    /// Its tenant.
    pub organisation_id: OrganisationId,
    /// Its project.
    pub project_id: ProjectId,
    /// What people call it, 1 to 100 characters.
    pub name: String,
    /// Why.
    pub reason: Option<String>,
    /// The environment it is for; none for all.
    pub environment_id: Option<EnvironmentId>,
    /// When it holds.
    pub span: FreezeSpan,
    /// Who made it.
    pub created_by: Actor,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

impl FreezeWindow {
    /// Checks every field.
    ///
    /// # Errors
    /// [`Kind::Invalid`](crate::Kind::Invalid) on `name`, `reason`, `ends_at` or `recurrence`.
    pub fn check(&self) -> Result<()> {
        let mut checks = Checks::new();
        checks.text("name", &self.name, 100);
        let fits = self.reason.as_ref().is_none_or(|reason| reason.chars().count() <= 500);
        checks.that("reason", fits, "should be at most 500 character(s)");
        if let FreezeSpan::Once { starts_at, ends_at } = &self.span {
            checks.that("ends_at", ends_at > starts_at, "must be after starts_at");
        }
        checks.finish()
    }

    /// When it ends, if it holds at `at`; a weekly one holds again later.
    #[must_use]
    pub fn until(&self, at: Timestamp) -> Option<Timestamp> {
        match &self.span {
            FreezeSpan::Once { starts_at, ends_at } => {
                (*starts_at <= at && at <= *ends_at).then_some(*ends_at)
            }
            FreezeSpan::Weekly(recurrence) => recurrence.until(at),
        }
    }

    /// The scope that shows this window's project.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope::Project(self.organisation_id, self.project_id)
    }
}

impl Record for FreezeWindow {
    const KIND: RecordKind = RecordKind::FreezeWindow;
    type Id = FreezeWindowId;
    fn id(&self) -> FreezeWindowId {
        self.id
    }
    fn created_at(&self) -> Timestamp {
        self.created_at
    }
    fn keys(&self) -> Keys {
        Keys::in_project(self.organisation_id, self.project_id)
    }
}

/// Reads an instant as callers give it: RFC 3339 with a zone.
///
/// # Errors
/// [`Kind::Invalid`](crate::Kind::Invalid) on `field`.
pub fn parse_instant(field: &str, text: &str) -> Result<Timestamp> {
    let parsed = DateTime::parse_from_rfc3339(text).map(|at| at.to_utc());
    parsed.map_err(|_| Error::invalid_field(field, "must be a time such as 2026-02-23T10:00:00Z"))
}

#[cfg(test)]
mod tests;
