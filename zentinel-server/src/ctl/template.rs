//! `zentinelctl template`.

use super::find::every;
use super::screen::{clean, short, table};
use super::session::Session;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use zentinel_core::id::TypedId as _;
use zentinel_core::{Error, Result};
use zentinel_http::client::TemplateView;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List templates, the default first.
    List,
    /// Create a template: settings of rollouts under a name.
    Create {
        /// What to call it.
        name: String,
        /// What it is for.
        #[arg(long)]
        description: Option<String>,
        /// Rollouts that name no template and give no settings use it.
        #[arg(long)]
        default: bool,
        /// A setting of a rollout, for example batch_percentage=10 or
        /// health_gates={"max_error_rate":1}; may be repeated.
        #[arg(long = "set", value_name = "FIELD=VALUE", value_parser = setting)]
        settings: Vec<(String, Value)>,
        /// A JSON object with settings of a rollout; --set wins.
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Make a template the default of the project, in place of the one before.
    Default {
        /// Name or id; `none` for no default.
        template: String,
    },
    /// Delete a template; rollouts that were created from it stay as they are.
    Delete {
        /// Name or id.
        template: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// A value that is no JSON is a text.
fn setting(text: &str) -> Result<(String, Value), String> {
    let (name, value) = text.split_once('=').ok_or("expected FIELD=VALUE")?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    match command {
        Command::List => list(session).await,
        Command::Create { name, description, default, settings, file } => {
            let mut fields = file.map(read).transpose()?.unwrap_or_default();
            fields.extend(settings);
            fields.insert("name".to_owned(), name.into());
            fields.insert("description".to_owned(), description.into());
            fields.insert("is_default".to_owned(), default.into());
            let made = client.create_template(project, &Value::Object(fields)).await?;
            session.screen.answer(&made, || format!("template {} created", clean(&made.name)))
        }
        Command::Default { template } => {
            let (found, wanted) = match template.as_str() {
                "none" => (current_default(session).await?, false),
                text => (named(session, text).await?, true),
            };
            let changed = client.update_template(project, found.id, &json!({"is_default": wanted})).await?;
            let says = if wanted { "is the default now" } else { "is not the default any more" };
            session.screen.answer(&changed, || format!("template {} {says}", clean(&changed.name)))
        }
        Command::Delete { template, yes } => {
            let found = named(session, &template).await?;
            session.screen.confirm(&format!("Delete template {}?", clean(&found.name)), yes)?;
            client.delete_template(project, found.id).await?;
            let answer = json!({"deleted": found.id});
            session.screen.answer(&answer, || format!("template {} is gone", clean(&found.name)))
        }
    }
}

fn read(path: PathBuf) -> Result<Map<String, Value>> {
    let unreadable = |reason: String| Error::invalid(format!("{}: {reason}", path.display()));
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| unreadable(format!("not a JSON object: {error}")))
}

async fn all(session: &Session) -> Result<(Vec<TemplateView>, u64)> {
    every(None, async |cursor| session.client.templates(&session.project, cursor).await).await
}

async fn current_default(session: &Session) -> Result<TemplateView> {
    let found = all(session).await?.0.into_iter().find(|one| one.is_default);
    found.ok_or_else(|| Error::not_found("the project has no default template"))
}

/// The template of a name or an id.
///
/// # Errors
/// `NotFound`.
pub(super) async fn named(session: &Session, text: &str) -> Result<TemplateView> {
    let (all, _) = all(session).await?;
    let found = all.into_iter().find(|one| one.name == text || one.id.to_string() == text);
    found.ok_or_else(|| {
        Error::not_found(format!("there is no template `{}`", clean(text)))
            .with_hint("`zentinelctl template list` shows what there is")
    })
}

async fn list(session: &Session) -> Result<()> {
    let (all, total) = all(session).await?;
    session.screen.answer(&json!({"rollout_templates": all, "total": total}), || {
        let rows: Vec<_> = all
            .iter()
            .map(|one| {
                let text =
                    |name: &str| one.settings.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
                let number = |name: &str| one.settings.get(name).and_then(Value::as_u64);
                let step = match (number("batch_percentage"), number("batch_size")) {
                    (Some(percent), _) => format!("{percent} %"),
                    (None, Some(nodes)) => nodes.to_string(),
                    (None, None) => "-".to_owned(),
                };
                vec![
                    short(one.id.uuid()),
                    clean(&one.name),
                    if one.is_default { "default" } else { "" }.to_owned(),
                    text("strategy"),
                    step,
                    clean(one.description.as_deref().unwrap_or_default()),
                ]
            })
            .collect();
        table(&["ID", "NAME", "", "STRATEGY", "STEP", "DESCRIPTION"], &rows).join("\n")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_json_or_text() {
        assert_eq!(setting("batch_size=3"), Ok(("batch_size".to_owned(), json!(3))));
        assert_eq!(setting("strategy=rolling"), Ok(("strategy".to_owned(), json!("rolling"))));
        let gates = setting(r#"health_gates={"max_error_rate":1.5}"#).unwrap();
        assert_eq!(gates.1, json!({"max_error_rate": 1.5}));
        assert!(setting("strategy").is_err());
    }
}
