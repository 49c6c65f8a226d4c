//! `zentinelctl project`.

use super::find::every;
use super::screen::{clean, table};
use super::session::Session;
use serde_json::json;
use zentinel_core::{Error, Result};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the projects that the key can address.
    List,
    /// Create a project.
    Create {
        /// Its name; the slug follows from it.
        name: String,
    },
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    match command {
        Command::List => {
            let (projects, total) = every(None, async |cursor| session.client.projects(cursor).await).await?;
            session.screen.answer(&json!({"projects": projects, "total": total}), || {
                let rows: Vec<Vec<String>> = projects
                    .iter()
                    .map(|project| {
                        let description = project.description.as_deref().unwrap_or_default();
                        vec![project.slug.clone(), clean(&project.name), clean(description)]
                    })
                    .collect();
                table(&["SLUG", "NAME", "DESCRIPTION"], &rows).join("\n")
            })
        }
        Command::Create { name } => {
            let project = session.client.create_project(&name).await.map_err(|error| taken(error, &name))?;
            session.screen.answer(&project, || format!("project {} created", project.slug))
        }
    }
}

/// The server names the fields; here there is only the one name.
fn taken(error: Error, name: &str) -> Error {
    let is_taken = error.fields().values().flatten().any(|message| message.contains("taken"));
    if !is_taken {
        return error;
    }
    Error::invalid(format!("there is a project `{}` already, or one with the same slug", clean(name)))
        .with_hint("`zentinelctl project list` shows what there is")
}
