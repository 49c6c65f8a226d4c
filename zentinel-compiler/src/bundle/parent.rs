//! Which bundle a new one is compared with.

use zentinel_core::entity::{Bundle, BundleStatus, Rollout, RolloutState};
use zentinel_core::id::{BundleId, OrganisationId, ProjectId};
use zentinel_core::port::{Query, Store, StoreExt};
use zentinel_core::{PageRequest, Record, Result, Scope, Stored};

/// How many completed rollouts are looked at.
const RECENT: u32 = 50;

/// The bundle that a project runs: that of the rollout which completed last, as long as nodes may
/// still be given it; in a project without one, the newest compiled bundle. `except` is never it.
///
/// # Errors
/// Those of the store.
pub async fn running_bundle(
    store: &dyn Store,
    project: (OrganisationId, ProjectId),
    except: BundleId,
) -> Result<Option<Stored<Bundle>>> {
    let scope = Scope::Project(project.0, project.1);
    let completed = Query::all(Rollout::KIND)
        .owned_by(project.1)
        .in_states(&[RolloutState::Completed.as_str()])
        .page(PageRequest::first(RECENT));
    let mut rollouts = store.list::<Rollout>(&scope, completed).await?.items;
    rollouts.sort_by_key(|rollout| std::cmp::Reverse(rollout.completed_at));
    for rollout in rollouts {
        if rollout.bundle_id == except {
            continue;
        }
        let bundle = store.find::<Bundle>(&scope, rollout.bundle_id).await?;
        if let Some(bundle) = bundle.filter(|bundle| bundle.status.is_deployable()) {
            return Ok(Some(bundle));
        }
    }
    let compiled = Query::all(Bundle::KIND)
        .owned_by(project.1)
        .in_states(&[BundleStatus::Compiled.as_str()])
        .page(PageRequest::first(2));
    let bundles = store.list::<Bundle>(&scope, compiled).await?.items;
    Ok(bundles.into_iter().find(|bundle| bundle.id != except))
}
