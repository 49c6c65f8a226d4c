//! Saying which rollouts are in the way of another.

use super::Engine;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use zentinel_core::entity::Rollout;
use zentinel_core::id::RolloutId;
use zentinel_core::port::{Query, StoreExt as _};
use zentinel_core::{Error, RecordKind, Result, Scope};

/// Most rollouts that a refusal describes.
const MAX_DESCRIBED: usize = 20;
/// Most that its hint names.
const MAX_NAMED: usize = 3;

impl Engine {
    /// Adds to a refusal whose details name rollouts what those are: `rollouts` in the details, each
    /// with the version of its bundle, and the first in the hint. Without them the refusal stands as it is.
    pub(super) async fn describe<T>(&self, scope: &Scope, outcome: Result<T>) -> Result<T> {
        let Err(error) = outcome else { return outcome };
        let ids = error.details().map(|details| details["rollout_ids"].clone()).unwrap_or_default();
        let Ok(ids) = serde_json::from_value::<Vec<RolloutId>>(ids) else { return Err(error) };
        match self.rollouts_of(scope, &ids).await {
            Ok(rollouts) if !rollouts.is_empty() => Err(described(error, &rollouts)),
            Ok(_) => Err(error),
            Err(failed) => {
                tracing::debug!(error = %failed, "the rollouts in the way could not be read");
                Err(error)
            }
        }
    }

    async fn rollouts_of(&self, scope: &Scope, ids: &[RolloutId]) -> Result<Vec<Value>> {
        let ids = ids.iter().take(MAX_DESCRIBED).copied();
        let query = Query::all(RecordKind::Rollout).with_ids(ids);
        let rollouts = self.store.list_all::<Rollout>(scope, query).await?;
        let bundles: BTreeSet<_> = rollouts.iter().map(|rollout| rollout.bundle_id).collect();
        let bundles = self.bundles(scope, &bundles).await?;
        let describe = |rollout: &Rollout| {
            json!({
                "id": rollout.id,
                "state": rollout.state,
                "bundle_id": rollout.bundle_id,
                "bundle_version": bundles.get(&rollout.bundle_id).map(|bundle| &bundle.version),
            })
        };
        Ok(rollouts.iter().map(|rollout| describe(rollout)).collect())
    }
}

fn described(error: Error, rollouts: &[Value]) -> Error {
    let name = |rollout: &Value| {
        let text = |field: &str| rollout[field].as_str().unwrap_or_default().to_owned();
        format!("rollout {} (bundle {}, {})", text("id"), text("bundle_version"), text("state"))
    };
    let names: Vec<String> = rollouts.iter().take(MAX_NAMED).map(name).collect();
    let more = if rollouts.len() > MAX_NAMED { ", …" } else { "" };
    let next = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
    let hint = format!("{}{more}{next}", names.join(", "));
    let mut details = error.details().cloned().unwrap_or_default();
    details["rollouts"] = json!(rollouts);
    error.with_details(details).with_hint(hint)
}
