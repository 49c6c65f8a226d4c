//! `zentinelctl group`.

use super::find::{self, every};
use super::node::list_of;
use super::screen::{clean, table};
use super::session::Session;
use serde_json::{Map, json};
use zentinel_core::entity::LabelSelector;
use zentinel_core::id::GroupId;
use zentinel_core::{Error, Result};
use zentinel_http::client::GroupView;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List node groups, by name.
    List,
    /// Show the nodes that belong to a group now.
    Show {
        /// Name or id.
        group: String,
    },
    /// Create a node group.
    Create {
        /// Unique in the project.
        name: String,
        #[command(flatten)]
        fields: Fields,
        /// A member (name, id or its beginning); may be repeated.
        #[arg(long = "node", value_name = "NODE", conflicts_with = "selector")]
        nodes: Vec<String>,
    },
    /// Change a node group. What is left out stays.
    Update {
        /// Name or id.
        group: String,
        /// Another name.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        fields: Fields,
        /// Its members from now on (name, id or its beginning); may be repeated.
        #[arg(long = "node", value_name = "NODE", conflicts_with = "selector")]
        nodes: Vec<String>,
    },
    /// Delete a node group; its nodes stay.
    Delete {
        /// Name or id.
        group: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Fields {
    /// Members are the nodes with these labels: `region=eu,env in (prod),!retired`.
    #[arg(long)]
    selector: Option<LabelSelector>,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// `#rrggbb`.
    #[arg(long)]
    color: Option<String>,
}

impl Fields {
    fn object(self, name: Option<String>) -> Map<String, serde_json::Value> {
        let selector = self.selector.map(|selector| selector.to_string());
        let fields = [
            ("name", name),
            ("selector", selector),
            ("description", self.description),
            ("color", self.color),
        ];
        fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect()
    }
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    match command {
        Command::List => list(session).await,
        Command::Show { group } => {
            let id = named(session, &group).await?.id;
            let page = async |cursor: Option<&str>| client.group_nodes(project, id, cursor).await;
            let (nodes, total) = every(None, page).await?;
            list_of(session, &nodes, total).await
        }
        Command::Create { name, fields, nodes } => {
            let members = members(session, &nodes).await?;
            let fields = fields.object(Some(name)).into();
            let mut group = client.create_node_group(project, &fields).await?;
            if !members.is_empty() {
                group = client.set_group_nodes(project, group.id, &members).await?;
            }
            session.screen.answer(&group, || format!("node group {} created", clean(&group.name)))
        }
        Command::Update { group, name, mut fields, nodes } => {
            let members = members(session, &nodes).await?;
            let found = named(session, &group).await?;
            let by_name = !members.is_empty() && found.selector.is_some();
            fields.selector = fields.selector.filter(|_| members.is_empty());
            let mut given = fields.object(name);
            if by_name {
                given.insert("selector".to_owned(), serde_json::Value::Null);
            }
            let mut group = client.update_node_group(project, found.id, &given.into()).await?;
            if !members.is_empty() {
                group = client.set_group_nodes(project, group.id, &members).await?;
            }
            session.screen.answer(&group, || format!("node group {} changed", clean(&group.name)))
        }
        Command::Delete { group, yes } => {
            let found = named(session, &group).await?;
            session.screen.confirm(&format!("Delete node group {}?", clean(&found.name)), yes)?;
            client.delete_node_group(project, found.id).await?;
            let answer = json!({"deleted": found.id});
            session.screen.answer(&answer, || format!("node group {} is gone", clean(&found.name)))
        }
    }
}

async fn members(session: &Session, names: &[String]) -> Result<Vec<zentinel_core::id::NodeId>> {
    let mut ids = Vec::new();
    for name in names {
        ids.push(find::node(session, name).await?.id);
    }
    Ok(ids)
}

async fn groups(session: &Session) -> Result<Vec<GroupView>> {
    let page = async |cursor: Option<&str>| session.client.node_groups(&session.project, cursor).await;
    Ok(every(None, page).await?.0)
}

async fn list(session: &Session) -> Result<()> {
    let groups = groups(session).await?;
    if session.screen.is_json() {
        return session.screen.object(&json!({"node_groups": groups, "total": groups.len()}));
    }
    let row = |group: &GroupView| {
        let members = match &group.selector {
            Some(selector) => clean(selector),
            None => format!("{} by name", group.node_ids.len()),
        };
        let about = group.description.as_deref().map_or_else(|| "-".to_owned(), clean);
        vec![clean(&group.name), members, about]
    };
    let rows: Vec<Vec<String>> = groups.iter().map(row).collect();
    for line in table(&["NAME", "MEMBERS", "DESCRIPTION"], &rows) {
        session.screen.line(&line);
    }
    Ok(())
}

async fn named(session: &Session, text: &str) -> Result<GroupView> {
    let id = text.parse::<GroupId>().ok();
    let found = groups(session).await?.into_iter().find(|group| group.name == text || Some(group.id) == id);
    found.ok_or_else(|| {
        Error::not_found(format!("there is no node group `{}`", clean(text)))
            .with_hint("`zentinelctl group list` shows what there is")
    })
}
