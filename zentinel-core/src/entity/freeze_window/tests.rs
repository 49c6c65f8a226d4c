use super::*;
use proptest::prelude::*;

fn at(text: &str) -> Timestamp {
    parse_instant("at", text).unwrap()
}

fn weekly(days: &[&str], from: &str, to: &str, zone: &str) -> Recurrence {
    let days: Vec<String> = days.iter().map(|day| (*day).to_owned()).collect();
    Recurrence::parse(&days, from, to, zone).unwrap()
}

#[test]
fn a_window_may_pass_midnight() {
    let nights = weekly(&["fri"], "18:00", "06:00", "UTC");
    // 2026-11-27 is a Friday.
    assert_eq!(nights.until(at("2026-11-27T17:59:59Z")), None);
    let end = Some(at("2026-11-28T06:00:00Z"));
    assert_eq!(nights.until(at("2026-11-27T18:00:00Z")), end);
    assert_eq!(nights.until(at("2026-11-28T06:00:00Z")), end);
    assert_eq!(nights.until(at("2026-11-28T06:00:01Z")), None);
    assert_eq!(nights.until(at("2026-11-28T18:00:00Z")), None, "Saturday evening is no Friday");
    let whole_day = weekly(&["fri"], "00:00", "00:00", "UTC");
    assert_eq!(whole_day.until(at("2026-11-27T12:00:00Z")), Some(at("2026-11-28T00:00:00Z")));
}

#[test]
fn wall_clocks_are_those_of_the_place() {
    let office = weekly(&["mon"], "08:00", "17:00", "Europe/Berlin");
    // 2026-01-05 and 2026-07-06 are Mondays, in winter and in summer.
    assert_eq!(office.until(at("2026-01-05T06:59:59Z")), None);
    assert_eq!(office.until(at("2026-01-05T07:00:00Z")), Some(at("2026-01-05T16:00:00Z")));
    assert_eq!(office.until(at("2026-07-06T06:00:00Z")), Some(at("2026-07-06T15:00:00Z")));
    // It is Monday in Tokyo while it still is Sunday in UTC.
    let tokyo = weekly(&["mon"], "00:00", "04:00", "Asia/Tokyo");
    assert_eq!(tokyo.until(at("2026-01-04T15:00:00Z")), Some(at("2026-01-04T19:00:00Z")));
}

#[test]
fn clocks_that_are_set_forward_skip_no_window() {
    // Berlin skips 02:00 to 03:00 on 2026-03-29, a Sunday: at 01:00 UTC it is 03:00 at once.
    let inside = weekly(&["sun"], "02:15", "02:45", "Europe/Berlin");
    let gap = at("2026-03-29T01:00:00Z");
    assert_eq!(inside.until(gap), Some(gap), "all of it falls on one instant");
    let into = weekly(&["sun"], "01:30", "02:30", "Europe/Berlin");
    assert_eq!(into.until(at("2026-03-29T00:30:00Z")), Some(gap));
    let out_of = weekly(&["sun"], "02:30", "04:00", "Europe/Berlin");
    assert_eq!(out_of.until(gap), Some(at("2026-03-29T02:00:00Z")));
    assert_eq!(out_of.until(at("2026-03-29T00:59:59Z")), None);
    // Samoa skipped the whole of Friday, 2011-12-30.
    let friday = weekly(&["fri"], "09:00", "17:00", "Pacific/Apia");
    assert_eq!(friday.until(at("2011-12-30T10:00:00Z")), Some(at("2011-12-30T10:00:00Z")));
}

#[test]
fn clocks_that_are_set_back_show_an_hour_twice_and_both_are_frozen() {
    // Berlin shows 02:00 to 03:00 twice on 2026-10-25: at 00:00 and at 01:00 UTC.
    let inside = weekly(&["sun"], "02:00", "02:30", "Europe/Berlin");
    let end = Some(at("2026-10-25T01:30:00Z"));
    for instant in ["2026-10-25T00:00:00Z", "2026-10-25T00:45:00Z", "2026-10-25T01:30:00Z"] {
        assert_eq!(inside.until(at(instant)), end, "{instant}");
    }
    assert_eq!(inside.until(at("2026-10-25T01:30:01Z")), None);
}

#[test]
fn wrong_recurrences_name_the_field() {
    let days = |days: &[&str]| days.iter().map(|day| (*day).to_owned()).collect::<Vec<_>>();
    for (weekdays, from, to, zone, field) in [
        (days(&[]), "08:00", "09:00", "UTC", "recurrence.weekdays"),
        (days(&["someday"]), "08:00", "09:00", "UTC", "recurrence.weekdays"),
        (days(&["mon"]), "8 o'clock", "09:00", "UTC", "recurrence.from"),
        (days(&["mon"]), "08:00", "24:00", "UTC", "recurrence.to"),
        (days(&["mon"]), "08:00", "09:00", "Middle/Earth", "recurrence.time_zone"),
    ] {
        let error = Recurrence::parse(&weekdays, from, to, zone).unwrap_err();
        assert_eq!(error.fields().keys().collect::<Vec<_>>(), [field]);
    }
    let kept = weekly(&["Sun", "mon"], "22:00", "05:30", "America/New_York");
    let stored = serde_json::to_value(&kept).unwrap();
    assert_eq!(
        stored,
        serde_json::json!({
            "weekdays": ["mon", "sun"], "from": "22:00", "to": "05:30", "time_zone": "America/New_York",
        })
    );
    assert_eq!(serde_json::from_value::<Recurrence>(stored).unwrap(), kept);
}

proptest! {
    /// Where the clocks show a time between both ends on a chosen day, the window holds; and every end is
    /// at most 25 hours after an instant that it is the end for.
    #[test]
    fn it_holds_while_the_clocks_are_between_both_ends(
        seconds in 0_i64..4_000_000_000,
        from in 0_u32..1440,
        length in 1_u32..1440,
        zone in proptest::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"]),
        days in proptest::collection::btree_set(0_u8..7, 1..7),
    ) {
        let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let days: Vec<&str> = days.into_iter().map(|day| names[usize::from(day)]).collect();
        let clock = |minute: u32| format!("{:02}:{:02}", minute / 60 % 24, minute % 60);
        let window = weekly(&days, &clock(from), &clock(from + length), zone);
        let instant = DateTime::from_timestamp(seconds, 0).unwrap();
        let local = instant.with_timezone(&window.time_zone).naive_local();
        let shown = (0..2).any(|back| {
            let day = local.date() - Days::new(back);
            let start = day.and_time(window.from);
            let last = if window.to > window.from { day } else { day + Days::new(1) };
            window.weekdays.contains(&day.weekday().into()) && start <= local && local <= last.and_time(window.to)
        });
        let until = window.until(instant);
        if shown {
            prop_assert!(until.is_some(), "the clocks show {local}");
        }
        if let Some(until) = until {
            prop_assert!(until >= instant && until - instant <= TimeDelta::hours(26));
        }
    }
}
