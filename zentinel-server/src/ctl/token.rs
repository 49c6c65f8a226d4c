//! `zentinelctl node token`: what lets new nodes in.

use super::find::{self, every};
use super::node::{keys, pair};
use super::screen::{age, clean, instant, labels, table};
use super::session::Session;
use chrono::TimeDelta;
use serde_json::json;
use std::path::PathBuf;
use zentinel_core::Result;
use zentinel_http::client::{NewRegistrationToken, RegistrationTokenView};

#[derive(Debug, clap::Subcommand)]
pub(in crate::ctl) enum Command {
    /// Issue a token. It is shown this once.
    Create {
        /// What to call it.
        #[arg(default_value = "zentinelctl")]
        name: String,
        /// How many nodes may register with it.
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "unlimited")]
        uses: u32,
        /// Any number of nodes may register with it.
        #[arg(long)]
        unlimited: bool,
        /// How long it is valid, for example `30m`, `24h` or `7d`.
        #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = period)]
        period: TimeDelta,
        /// A label that every node gets; may be repeated.
        #[arg(long = "label", value_name = "KEY=VALUE", value_parser = pair)]
        labels: Vec<(String, String)>,
        /// Write the token to this file (mode 600) instead of stdout.
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// List tokens, newest first.
    List,
    /// End a token; nodes that used it stay.
    Revoke {
        /// Name, id or beginning of the id.
        token: String,
    },
}

/// `90s`, `30m`, `24h`, `7d`.
pub(super) fn period(text: &str) -> Result<TimeDelta, String> {
    let wrong = || "expected a number with s, m, h or d, for example 24h".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: i64 = text.strip_suffix(unit).and_then(|digits| digits.parse().ok()).ok_or_else(wrong)?;
    let made = match unit {
        's' => TimeDelta::try_seconds(number),
        'm' => TimeDelta::try_minutes(number),
        'h' => TimeDelta::try_hours(number),
        'd' => TimeDelta::try_days(number),
        _ => None,
    };
    made.filter(|period| *period > TimeDelta::zero() && period.num_days() <= 366).ok_or_else(wrong)
}

pub(in crate::ctl) async fn run(session: &Session, command: Command) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    match command {
        Command::Create { name, uses, unlimited, period, labels, output } => {
            let new = NewRegistrationToken {
                name,
                labels: labels.into_iter().collect(),
                max_uses: (!unlimited).then_some(uses),
                expires_at: Some(session.now() + period),
            };
            create(session, &new, output).await
        }
        Command::List => {
            let (tokens, total) =
                every(None, async |cursor| client.registration_tokens(project, cursor).await).await?;
            session.screen.answer(&json!({"registration_tokens": tokens, "total": total}), || {
                let rows: Vec<_> = tokens.iter().map(|token| row(token, session)).collect();
                table(&["ID", "NAME", "USES", "STATE", "EXPIRES", "LABELS"], &rows).join("\n")
            })
        }
        Command::Revoke { token } => {
            let found = find::token(session, &token).await?;
            let revoked = client.revoke_registration_token(project, found.id).await?;
            session.screen.answer(&revoked, || format!("token {} is revoked", clean(&revoked.name)))
        }
    }
}

async fn create(session: &Session, new: &NewRegistrationToken, output: Option<PathBuf>) -> Result<()> {
    let file = output.as_deref().map(keys::secret_file).transpose()?;
    let made = session.client.create_registration_token(&session.project, new).await?;
    let mut answer = json!({"id": made.id, "name": made.name, "expires_at": instant(made.expires_at)});
    if let (Some(file), Some(path)) = (file, &output) {
        keys::write_secret(file, path, &made.token)?;
        answer["token_file"] = json!(path);
        session.screen.answer(&answer, || format!("the token is in {}", path.display()))?;
    } else {
        answer["token"] = made.token.expose().into();
        session.screen.answer(&answer, || made.token.expose().to_owned())?;
    }
    session.screen.note(&format!(
        "Valid until {}. On the new node, with the token in a file:\n  \
         zentinel-agent install --server {} --project {} --token-file FILE && \
         systemctl enable --now zentinel-agent",
        instant(made.expires_at),
        session.server.as_str().trim_end_matches('/'),
        session.project,
    ));
    Ok(())
}

fn row(token: &RegistrationTokenView, session: &Session) -> Vec<String> {
    let most = token.max_uses.map_or_else(|| "any".to_owned(), |most| most.to_string());
    let state = match (token.usable, token.revoked_at, token.expires_at <= session.now()) {
        (true, ..) => "usable".to_owned(),
        (false, Some(at), _) => format!("revoked {}", age(Some(at), session.now())),
        (false, None, true) => "expired".to_owned(),
        (false, None, false) => "used up".to_owned(),
    };
    vec![
        super::screen::short(zentinel_core::id::TypedId::uuid(token.id)),
        clean(&token.name),
        format!("{}/{most}", token.uses),
        state,
        instant(token.expires_at),
        labels(&token.labels),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_read() {
        assert_eq!(period("90s"), Ok(TimeDelta::seconds(90)));
        assert_eq!(period("7d"), Ok(TimeDelta::days(7)));
        for wrong in ["", "h", "24", "1w", "-1h", "0h", "400d", "99999999999999999999d", "1é"] {
            assert!(period(wrong).is_err(), "{wrong}");
        }
    }
}
