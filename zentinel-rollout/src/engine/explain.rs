//! Telling an operator why a rollout stands where it does.

use super::Engine;
use super::work::Work;
use crate::explain::{Explanation, explain};
use zentinel_core::entity::Rollout;
use zentinel_core::id::RolloutId;
use zentinel_core::port::StoreExt as _;
use zentinel_core::{Result, Scope};

impl Engine {
    /// Why a rollout stands where it does, by what is known now. Changes nothing.
    ///
    /// # Errors
    /// `NotFound`: `Rollout not found`; those of the store.
    pub async fn explain(&self, scope: &Scope, id: RolloutId) -> Result<(Rollout, Explanation)> {
        let rollout = self.store.fetch::<Rollout>(scope, id).await?;
        let mut work = Work::new(self, rollout.scope());
        let state = self.read(rollout).await?.state;
        let gates = self.gates_of(state.rollout());
        let mut watched = state.watched();
        if gates.look_back() {
            watched.extend(state.reached());
        }
        let observation = self.observe(&mut work, &state, &watched).await?;
        let explanation = explain(&state, &gates, &observation, self.clock.now());
        Ok((state.into_parts().0, explanation))
    }
}
