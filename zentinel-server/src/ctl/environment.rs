//! `zentinelctl environment`.

use super::find::{self, every};
use super::screen::{clean, table};
use super::session::Session;
use serde_json::json;
use zentinel_core::{Error, Result};
use zentinel_http::client::EnvironmentView;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List environments in the order of promotion.
    List,
    /// Create development, staging and production, as far as they are missing.
    Init,
    /// Create an environment.
    Create {
        /// What to call it.
        name: String,
        /// Made from the name by default.
        #[arg(long)]
        slug: Option<String>,
        /// Its place in the order of promotion, low first.
        #[arg(long, value_name = "N", allow_negative_numbers = true)]
        ordinal: Option<i32>,
        /// How many people must agree to a rollout; nobody by default.
        #[arg(long, value_name = "N")]
        approvals: Option<u32>,
    },
    /// Say how many people must agree to a rollout; 0 for nobody.
    Approvals {
        /// Slug, name or id of the environment.
        environment: String,
        /// How many.
        #[arg(value_name = "N")]
        needed: u32,
    },
    /// Put nodes into an environment.
    Assign {
        /// Slug, name or id of the environment; `none` takes nodes out.
        environment: String,
        /// Nodes: name, id or beginning of the id.
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
    },
    /// Delete an environment that nothing belongs to.
    Delete {
        /// Slug, name or id.
        environment: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    match command {
        Command::List => show(session, &all(session).await?),
        Command::Init => show(session, &client.create_default_environments(project).await?),
        Command::Create { name, slug, ordinal, approvals } => {
            let mut fields = json!({"name": name});
            if let Some(slug) = slug {
                fields["slug"] = slug.into();
            }
            if let Some(ordinal) = ordinal {
                fields["ordinal"] = ordinal.into();
            }
            if let Some(needed) = approvals {
                fields["settings"] = settings(needed);
            }
            let made = client.create_environment(project, &fields).await?;
            session.screen.answer(&made, || format!("environment {} created", made.slug))
        }
        Command::Approvals { environment, needed } => {
            let id = named(session, &environment).await?.id;
            let fields = json!({"settings": settings(needed)});
            let changed = client.update_environment(project, id, &fields).await?;
            session.screen.answer(&changed, || format!("{}: {}", changed.slug, approvals(&changed)))
        }
        Command::Assign { environment, nodes } => assign(session, &environment, &nodes).await,
        Command::Delete { environment, yes } => {
            let found = named(session, &environment).await?;
            session.screen.confirm(&format!("Delete environment {}?", found.slug), yes)?;
            client.delete_environment(project, found.id).await?;
            session
                .screen
                .answer(&json!({"deleted": found.id}), || format!("environment {} is gone", found.slug))
        }
    }
}

fn settings(needed: u32) -> serde_json::Value {
    json!({"approval_required": needed > 0, "approvals_needed": needed.max(1)})
}

async fn assign(session: &Session, environment: &str, nodes: &[String]) -> Result<()> {
    let to = match environment {
        "none" => None,
        text => Some(named(session, text).await?.id),
    };
    let mut found = Vec::new();
    for name in nodes {
        found.push(find::node(session, name).await?);
    }
    let mut changed = Vec::new();
    for node in found {
        changed.push(session.client.set_node_environment(&session.project, node.id, to).await?);
    }
    session.screen.answer(&json!({"nodes": changed}), || {
        let names: Vec<_> = changed.iter().map(|node| clean(&node.name)).collect();
        format!("{} now: {}", clean(environment), names.join(", "))
    })
}

/// Every environment, in the order of promotion.
///
/// # Errors
/// Those of the calls.
pub(super) async fn all(session: &Session) -> Result<Vec<EnvironmentView>> {
    let page = async |cursor: Option<&str>| session.client.environments(&session.project, cursor).await;
    Ok(every(None, page).await?.0)
}

/// The environment of a slug, a name or an id.
///
/// # Errors
/// `NotFound`.
pub(super) async fn named(session: &Session, text: &str) -> Result<EnvironmentView> {
    let all = all(session).await?;
    let slugs: Vec<String> = all.iter().map(|one| one.slug.clone()).collect();
    let matches = |one: &EnvironmentView| one.slug == text || one.name == text || one.id.to_string() == text;
    all.into_iter().find(matches).ok_or_else(|| {
        let hint = match slugs.is_empty() {
            true => "create some with `zentinelctl environment init`".to_owned(),
            false => format!("there are: {}", slugs.join(", ")),
        };
        Error::not_found(format!("there is no environment `{}`", clean(text))).with_hint(hint)
    })
}

fn approvals(environment: &EnvironmentView) -> String {
    let settings = &environment.settings;
    match (settings.approval_required, settings.approvals_needed) {
        (false, _) => "no approval".to_owned(),
        (true, 1) => "1 approval".to_owned(),
        (true, needed) => format!("{needed} approvals"),
    }
}

fn show(session: &Session, all: &[EnvironmentView]) -> Result<()> {
    session.screen.answer(&json!({"environments": all, "total": all.len()}), || {
        let rows: Vec<_> = all
            .iter()
            .map(|one| vec![one.slug.clone(), clean(&one.name), one.ordinal.to_string(), approvals(one)])
            .collect();
        table(&["SLUG", "NAME", "ORDER", "TAKES"], &rows).join("\n")
    })
}
