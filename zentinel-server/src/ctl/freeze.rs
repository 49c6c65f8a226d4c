//! `zentinelctl freeze`.

use super::environment;
use super::find::every;
use super::screen::{clean, instant, short, table};
use super::session::Session;
use serde_json::json;
use std::collections::BTreeMap;
use zentinel_core::id::{EnvironmentId, TypedId as _};
use zentinel_core::{Error, Result};
use zentinel_http::client::FreezeWindowView;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List freeze windows, newest first.
    List {
        /// Only those that hold now.
        #[arg(long)]
        active: bool,
    },
    /// Create a freeze window: once (--from, --to), or every week (--weekdays, --from, --to, --time-zone).
    Create {
        /// What to call it.
        name: String,
        /// When it begins: an instant such as 2026-12-24T18:00:00Z, or HH:MM with --weekdays.
        #[arg(long, value_name = "TIME")]
        from: String,
        /// When it ends, likewise.
        #[arg(long, value_name = "TIME")]
        to: String,
        /// Every week, beginning on these days: mon to sun, separated by commas.
        #[arg(long, value_name = "DAYS", value_delimiter = ',')]
        weekdays: Vec<String>,
        /// Whose wall clocks are meant with --weekdays, for example Europe/Berlin.
        #[arg(long, value_name = "ZONE", default_value = "UTC", requires = "weekdays")]
        time_zone: String,
        /// Only this environment; all by default.
        #[arg(long, value_name = "SLUG")]
        environment: Option<String>,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Delete a freeze window; what waits for its end starts.
    Delete {
        /// Name, id or beginning of the id.
        window: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    match command {
        Command::List { active } => list(session, active).await,
        Command::Create { name, from, to, weekdays, time_zone, environment, reason } => {
            let environment = match environment {
                Some(text) => Some(environment::named(session, &text).await?.id),
                None => None,
            };
            let mut fields = json!({"name": name, "reason": reason, "environment_id": environment});
            if weekdays.is_empty() {
                fields["starts_at"] = from.into();
                fields["ends_at"] = to.into();
            } else {
                fields["recurrence"] =
                    json!({"weekdays": weekdays, "from": from, "to": to, "time_zone": time_zone});
            }
            let made = client.create_freeze_window(project, &fields).await?;
            session.screen.answer(&made, || {
                let now = made
                    .active_until
                    .map_or_else(String::new, |at| format!("; it holds until {}", instant(at)));
                format!("freeze window {} created{now}", clean(&made.name))
            })
        }
        Command::Delete { window, yes } => {
            let found = named(session, &window).await?;
            session.screen.confirm(&format!("Delete freeze window {}?", clean(&found.name)), yes)?;
            client.delete_freeze_window(project, found.id).await?;
            let answer = json!({"deleted": found.id});
            session.screen.answer(&answer, || format!("freeze window {} is gone", clean(&found.name)))
        }
    }
}

async fn windows(session: &Session, active: bool) -> Result<(Vec<FreezeWindowView>, u64)> {
    every(None, async |cursor| session.client.freeze_windows(&session.project, active, cursor).await).await
}

async fn named(session: &Session, text: &str) -> Result<FreezeWindowView> {
    let (all, _) = windows(session, false).await?;
    let long = text.len() >= 4;
    let matches = |one: &FreezeWindowView| one.name == text || (long && one.id.to_string().starts_with(text));
    let mut found: Vec<_> = all.into_iter().filter(matches).collect();
    match (found.pop(), found.is_empty()) {
        (Some(only), true) => Ok(only),
        (Some(_), false) => Err(Error::invalid(format!("`{}` may be several freeze windows", clean(text)))
            .with_hint("name it by its id, see `zentinelctl freeze list`")),
        (None, _) => Err(Error::not_found(format!("there is no freeze window `{}`", clean(text)))
            .with_hint("`zentinelctl freeze list` shows what there is")),
    }
}

async fn list(session: &Session, active: bool) -> Result<()> {
    let (all, total) = windows(session, active).await?;
    if session.screen.is_json() {
        return session.screen.object(&json!({"freeze_windows": all, "total": total}));
    }
    let environments = environment::all(session).await?;
    let slugs: BTreeMap<EnvironmentId, String> =
        environments.into_iter().map(|one| (one.id, one.slug)).collect();
    let rows: Vec<_> = all.iter().map(|one| row(one, &slugs)).collect();
    for line in table(&["ID", "NAME", "FOR", "WHEN", "NOW", "REASON"], &rows) {
        session.screen.line(&line);
    }
    Ok(())
}

fn row(window: &FreezeWindowView, slugs: &BTreeMap<EnvironmentId, String>) -> Vec<String> {
    let when = match (&window.recurrence, window.starts_at, window.ends_at) {
        (Some(weekly), ..) => {
            let days: Vec<String> =
                weekly.weekdays.iter().map(|day| format!("{day:?}").to_lowercase()).collect();
            let (from, to) = (weekly.from.format("%H:%M"), weekly.to.format("%H:%M"));
            format!("{} {from} to {to} {}", days.join(","), weekly.time_zone)
        }
        (None, Some(from), Some(to)) => format!("{} to {}", instant(from), instant(to)),
        (None, ..) => "-".to_owned(),
    };
    let place = window.environment_id.map(|id| slugs.get(&id).cloned().unwrap_or_else(|| short(id.uuid())));
    vec![
        short(window.id.uuid()),
        clean(&window.name),
        place.unwrap_or_else(|| "all".to_owned()),
        when,
        window.active_until.map_or_else(|| "-".to_owned(), |at| format!("until {}", instant(at))),
        clean(window.reason.as_deref().unwrap_or_default()),
    ]
}
