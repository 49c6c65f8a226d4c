//! What decides when a rollout starts and where a bundle may go: approvals, freeze windows, templates,
//! environments, promotion.

mod approvals;
mod environments;
mod freeze_windows;
mod promotion_rules;
mod promotions;
mod templates;

pub(super) use templates::with_template;

use super::auth::Caller;
use crate::extract::{Field, parse_id};
use crate::services::Api;
use utoipa_axum::router::OpenApiRouter;
use zentinel_core::entity::{ApiScope, Environment, FreezeOverride, Role};
use zentinel_core::error::Checks;
use zentinel_core::id::EnvironmentId;
use zentinel_core::port::StoreExt;
use zentinel_core::{Error, Result, Scope};

/// The routes of all of it.
pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .merge(approvals::routes())
        .merge(freeze_windows::routes())
        .merge(templates::routes())
        .merge(environments::routes())
        .merge(promotion_rules::routes())
        .merge(promotions::routes())
}

/// Demands an admin: the key of a person with that role in the organisation, or one that holds `orgs:admin`.
/// Whoever could change these rules with less could let himself through.
async fn require_admin(api: &Api, caller: &Caller) -> Result<()> {
    if caller.holds(ApiScope::OrgsAdmin) {
        return Ok(());
    }
    let key = caller.key();
    if let Some(user) = key.user_id
        && api.engine.role_of(key.organisation_id, user).await? >= Some(Role::Admin)
    {
        return Ok(());
    }
    Err(Error::forbidden("Requires an organisation admin")
        .with_hint("use the key of an admin of the organisation, or one with the scope orgs:admin"))
}

/// The decision to pass over freeze windows, if the caller gave a reason and may take it.
pub(super) async fn freeze_override(
    api: &Api,
    caller: &Caller,
    reason: Option<String>,
) -> Result<Option<FreezeOverride>> {
    let Some(reason) = reason else {
        return Ok(None);
    };
    require_admin(api, caller).await?;
    Ok(Some(FreezeOverride { by: caller.person(), reason, at: api.now() }))
}

/// The environment that a change names: `None` to leave it, `Some(None)` for none.
pub(super) async fn environment(
    api: &Api,
    scope: &Scope,
    field: Field<String>,
    checks: &mut Checks,
) -> Result<Option<Option<EnvironmentId>>> {
    let Some(change) = field.change("environment_id", checks) else {
        return Ok(None);
    };
    match change {
        None => Ok(Some(None)),
        Some(text) => Ok(named("environment_id", api, scope, &text, checks).await?.map(Some)),
    }
}

/// The environment with this id; complains when the project has none.
async fn named(
    field: &str,
    api: &Api,
    scope: &Scope,
    text: &str,
    checks: &mut Checks,
) -> Result<Option<EnvironmentId>> {
    let Some(id) = parse_id::<EnvironmentId>(text) else {
        checks.that(field, false, "is invalid");
        return Ok(None);
    };
    let found = api.store.find::<Environment>(scope, id).await?;
    checks.that(field, found.is_some(), "does not exist");
    Ok(found.map(|environment| environment.id))
}

/// A description of at most 500 characters: `None` to leave it, `Some(None)` for none.
fn description(name: &str, field: Field<String>, checks: &mut Checks) -> Option<Option<String>> {
    let description = field.change(name, checks)?;
    let fits = description.as_ref().is_none_or(|text| text.chars().count() <= 500);
    checks.that(name, fits, "should be at most 500 character(s)");
    Some(description)
}
