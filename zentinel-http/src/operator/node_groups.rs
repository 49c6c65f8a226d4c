//! Named sets of nodes.

use super::auth::{InProject, NodesRead, NodesWrite};
use super::listing::{DEFAULT_LIMIT, page_of, slice_by};
use crate::error::{ApiResult, taken_also_on};
use crate::extract::{Field, Input, Params, PathId, parse_id};
use crate::services::Api;
use crate::wire::{ChangeRefusals, GroupBody, GroupList, GroupOne, Json, NodeList, Refusals};
use axum::extract::State;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use zentinel_core::entity::{
    AuditEntry, LabelSelector, Node, NodeGroup, Rollout, RolloutTemplate, TargetSelector,
};
use zentinel_core::error::Checks;
use zentinel_core::id::{GroupId, NodeId};
use zentinel_core::port::{Order, Query, StoreExt};
use zentinel_core::{Changes, Error, RecordKind, Result, Scope};

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, update, delete))
        .routes(routes!(nodes_of, set_nodes))
}

/// Most members that one call may name.
const MAX_MEMBERS: usize = 10_000;

/// A group to create or change.
#[derive(Debug, Deserialize, ToSchema)]
struct GroupInput {
    #[schema(value_type = String, min_length = 1, max_length = 100, example = "canaries", required = true)]
    #[serde(default)]
    name: Field<String>,
    #[schema(value_type = Option<String>, max_length = 500)]
    #[serde(default)]
    description: Field<String>,
    /// `#rrggbb`
    #[schema(value_type = Option<String>, pattern = "^#[0-9a-fA-F]{6}$", example = "#6366f1")]
    #[serde(default)]
    color: Field<String>,
    /// Members are the nodes that satisfy these requirements: a text such as `region=eu,env in (prod)`, or a list of
    /// `{"key", "operator", "values"}`. Null for members that are named one by one.
    #[schema(value_type = Option<Object>, example = json!("region=eu,env in (prod)"))]
    #[serde(default)]
    selector: Field<Value>,
}

/// The members of a group.
#[derive(Debug, Deserialize, ToSchema)]
struct MembersInput {
    #[schema(value_type = Vec<uuid::Uuid>, max_items = 10_000, required = true)]
    #[serde(default)]
    node_ids: Field<Vec<String>>,
}

fn description(field: Field<String>, checks: &mut Checks) -> Option<Option<String>> {
    let description = field.change("description", checks)?;
    let fits = description.as_ref().is_none_or(|text| text.chars().count() <= 500);
    checks.that("description", fits, "should be at most 500 character(s)");
    Some(description)
}

/// What is said about the selector: `None` to leave it, `Some(None)` for none.
fn selector(field: Field<Value>, checks: &mut Checks) -> Result<Option<Option<LabelSelector>>> {
    match field.change("selector", checks) {
        None => Ok(None),
        Some(None) => Ok(Some(None)),
        Some(Some(value)) => Ok(checks.absorb(LabelSelector::from_json(&value))?.map(Some)),
    }
}

/// List node groups
///
/// By name.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/node-groups", tag = "Node groups",
    params(
        ("project_slug" = String, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = GroupList), Refusals), security(("api_key" = ["nodes:read"])),
)]
async fn list(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    params: Params,
) -> ApiResult<Json<GroupList>> {
    let query = Query::all(RecordKind::NodeGroup).ordered(Order::Name).page(params.page(DEFAULT_LIMIT));
    let page = page_of::<NodeGroup>(&api, &at.scope(), query).await?;
    Ok(Json(GroupList {
        node_groups: page.items.iter().map(|group| GroupBody::from(&group.value)).collect(),
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Create a node group
#[utoipa::path(
    post, path = "/api/v1/projects/{project_slug}/node-groups", tag = "Node groups",
    params(("project_slug" = String, Path)), request_body = GroupInput,
    responses((status = 201, body = GroupOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
async fn create(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    Input(input): Input<GroupInput>,
) -> ApiResult<(StatusCode, Json<GroupOne>)> {
    let now = api.now();
    let mut checks = Checks::new();
    let name = input.name.required("name", &mut checks);
    let color = input.color.optional("color", &mut checks);
    let description = description(input.description, &mut checks).flatten();
    let selector = selector(input.selector, &mut checks)?.flatten();
    let name = name.as_deref().unwrap_or("draft");
    let group = checks.absorb(NodeGroup::new(at.ids(), name, color.as_deref(), now))?;
    checks.finish()?;
    let Some(mut group) = group else {
        return Err(zentinel_core::Error::internal("a group was refused without a reason").into());
    };
    group.description = description;
    group.selector = selector;
    let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "node_group.created", group.id, now)
        .with_changes(json!({"name": group.name}));
    let committed = api.store.commit(Changes::new().insert(&group)?.audit(entry)).await;
    committed.map_err(|error| taken_also_on(error, "project_id"))?;
    let node_group = GroupBody::from(&group);
    Ok((StatusCode::CREATED, Json(GroupOne { node_group })))
}

/// Show a node group
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/node-groups/{id}", tag = "Node groups",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 200, body = GroupOne), Refusals), security(("api_key" = ["nodes:read"])),
)]
async fn show(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    id: PathId<NodeGroup>,
) -> ApiResult<Json<GroupOne>> {
    let group = api.store.fetch::<NodeGroup>(&at.scope(), id.0).await?;
    let node_group = GroupBody::from(&group.value);
    Ok(Json(GroupOne { node_group }))
}

/// Change a node group
///
/// Fields that are left out stay as they are.
#[utoipa::path(
    patch, path = "/api/v1/projects/{project_slug}/node-groups/{id}", tag = "Node groups",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = GroupInput,
    responses((status = 200, body = GroupOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
async fn update(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<NodeGroup>,
    Input(input): Input<GroupInput>,
) -> ApiResult<Json<GroupOne>> {
    let input = &input;
    edit(&api, &at, &id, "node_group.updated", |mut group| async move {
        let mut checks = Checks::new();
        let name = input.name.clone().optional("name", &mut checks);
        let color = input.color.clone().optional("color", &mut checks);
        let name = name.unwrap_or_else(|| group.name.clone());
        let color = color.unwrap_or_else(|| group.color.clone());
        let ids = (group.organisation_id, group.project_id);
        checks.absorb(NodeGroup::new(ids, &name, Some(&color), group.created_at))?;
        if let Some(description) = description(input.description.clone(), &mut checks) {
            group.description = description;
        }
        if let Some(selector) = selector(input.selector.clone(), &mut checks)? {
            group.selector = selector;
            if group.selector.is_some() {
                group.node_ids.clear();
            }
        }
        checks.finish()?;
        (group.name, group.color) = (name, color);
        Ok(group)
    })
    .await
}

/// List the nodes of a node group
///
/// By name; those that a selector means now.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/node-groups/{id}/nodes", tag = "Node groups",
    params(
        ("project_slug" = String, Path), ("id" = uuid::Uuid, Path),
        ("limit" = Option<u32>, Query, description = "1 to 500; 100 by default"), ("cursor" = Option<String>, Query),
    ),
    responses((status = 200, body = NodeList), Refusals), security(("api_key" = ["nodes:read"])),
)]
async fn nodes_of(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    id: PathId<NodeGroup>,
    params: Params,
) -> ApiResult<Json<NodeList>> {
    let scope = at.scope();
    let group = api.store.fetch::<NodeGroup>(&scope, id.0).await?;
    let mut query = Query::all(RecordKind::Node);
    if group.selector.is_none() {
        query = query.with_ids(group.node_ids.iter().copied());
    }
    let mut nodes = api.store.list_all::<Node>(&scope, query).await?;
    nodes.retain(|node| group.contains(node));
    let page = slice_by(nodes, &params.page(DEFAULT_LIMIT), |node| node.name.clone())?;
    Ok(Json(NodeList {
        nodes: super::nodes::bodies(&api, &scope, &page.items).await?,
        total: page.total,
        next_cursor: page.next_cursor,
    }))
}

/// Demands that nothing to come depends on a group.
async fn require_unused(api: &Api, scope: &Scope, id: GroupId) -> Result<()> {
    let names = |selector: &TargetSelector| matches!(selector, TargetSelector::Groups { group_ids } if group_ids.contains(&id));
    let open = Query::all(RecordKind::Rollout).in_states(&["pending", "running", "paused"]);
    let rollouts = api.store.list_all::<Rollout>(scope, open).await?;
    let rollouts: Vec<_> =
        rollouts.iter().filter(|rollout| names(&rollout.spec.target_selector)).map(|one| one.id).collect();
    let templates =
        api.store.list_all::<RolloutTemplate>(scope, Query::all(RecordKind::RolloutTemplate)).await?;
    let group = Value::String(id.to_string());
    let templates: Vec<_> = templates
        .iter()
        .filter(|template| {
            let named = template.settings.get("target_selector").and_then(|named| named.get("group_ids"));
            named.and_then(Value::as_array).is_some_and(|ids| ids.contains(&group))
        })
        .map(|template| template.name.clone())
        .collect();
    if rollouts.is_empty() && templates.is_empty() {
        return Ok(());
    }
    Err(Error::conflict("Node group is in use")
        .with_details(json!({"rollout_ids": rollouts, "templates": templates}))
        .with_hint("end these rollouts and change these templates first"))
}

/// Set the members of a node group
///
/// Every node must belong to the project.
#[utoipa::path(
    put, path = "/api/v1/projects/{project_slug}/node-groups/{id}/nodes", tag = "Node groups",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)), request_body = MembersInput,
    responses((status = 200, body = GroupOne), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
async fn set_nodes(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<NodeGroup>,
    Input(input): Input<MembersInput>,
) -> ApiResult<Json<GroupOne>> {
    // An unknown group is reported before its members are looked at.
    api.store.fetch::<NodeGroup>(&at.scope(), id.0).await?;
    let members = &members(&api, &at.scope(), input.node_ids).await?;
    edit(&api, &at, &id, "node_group.nodes_set", |mut group| async move {
        if group.selector.is_some() {
            return Err(Error::conflict("The members of this group follow from its selector")
                .with_hint("set `selector` to null to name them one by one"));
        }
        group.node_ids = members.clone();
        Ok(group)
    })
    .await
}

async fn members(api: &Api, scope: &Scope, field: Field<Vec<String>>) -> Result<BTreeSet<NodeId>> {
    let mut checks = Checks::new();
    let texts = field.required("node_ids", &mut checks).unwrap_or_default();
    checks.that("node_ids", texts.len() <= MAX_MEMBERS, "should have at most 10000 item(s)");
    let ids: BTreeSet<NodeId> = texts.iter().filter_map(|text| parse_id(text)).collect();
    let well_formed = texts.iter().all(|text| parse_id::<NodeId>(text).is_some());
    checks.that("node_ids", well_formed, "is invalid");
    checks.finish()?;
    let query = Query::all(RecordKind::Node).with_ids(ids.iter().copied());
    let found = api.store.list_all::<Node>(scope, query).await?;
    let mut checks = Checks::new();
    checks.that("node_ids", found.len() == ids.len(), "does not exist");
    checks.finish()?;
    Ok(ids)
}

/// Reads a group, changes it, commits it with its audit entry.
async fn edit<F, Fut>(
    api: &Api,
    at: &InProject<NodesWrite>,
    id: &PathId<NodeGroup>,
    action: &str,
    change: F,
) -> ApiResult<Json<GroupOne>>
where
    F: Fn(NodeGroup) -> Fut,
    Fut: Future<Output = Result<NodeGroup>>,
{
    let change = &change;
    let group = super::retrying(|| async move {
        let now = api.now();
        let read = api.store.fetch::<NodeGroup>(&at.scope(), id.0).await?;
        let group = change(read.value.clone()).await?;
        let entry =
            AuditEntry::new(&at.scope(), at.caller.actor(), action, group.id, now).with_changes(json!({
                "name": group.name,
                "description": group.description,
                "color": group.color,
                "nodes": group.node_ids.len(),
                "selector": group.selector,
            }));
        let committed = api.store.commit(Changes::new().update(&read, &group)?.audit(entry)).await;
        committed.map_err(|error| taken_also_on(error, "project_id"))?;
        Ok(group)
    })
    .await?;
    let node_group = GroupBody::from(&group);
    Ok(Json(GroupOne { node_group }))
}

/// Delete a node group
///
/// Its nodes stay. Refused while a rollout that has not ended or a template names it.
#[utoipa::path(
    delete, path = "/api/v1/projects/{project_slug}/node-groups/{id}", tag = "Node groups",
    params(("project_slug" = String, Path), ("id" = uuid::Uuid, Path)),
    responses((status = 204, description = "Deleted"), ChangeRefusals), security(("api_key" = ["nodes:write"])),
)]
async fn delete(
    State(api): State<Api>,
    at: InProject<NodesWrite>,
    id: PathId<NodeGroup>,
) -> ApiResult<StatusCode> {
    super::retrying(|| async {
        let now = api.now();
        let read = api.store.fetch::<NodeGroup>(&at.scope(), id.0).await?;
        require_unused(&api, &at.scope(), id.0).await?;
        let entry = AuditEntry::new(&at.scope(), at.caller.actor(), "node_group.deleted", read.id, now)
            .with_changes(json!({"name": read.name}));
        api.store.commit(Changes::new().delete(&read).audit(entry)).await?;
        Ok(())
    })
    .await?;
    Ok(StatusCode::NO_CONTENT)
}
