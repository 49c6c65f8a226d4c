//! What operators do with a rollout.

use super::Engine;
use super::loaded::Loaded;
use super::work::Work;
use crate::command::{Command, apply};
use serde_json::{Value, json};
use zentinel_core::entity::Rollout;
use zentinel_core::id::RolloutId;
use zentinel_core::port::StoreExt as _;
use zentinel_core::{Actor, Result, Scope, Stored};

impl Engine {
    /// Carries out an operator's command. It beats a concurrent tick.
    ///
    /// # Errors
    /// `NotFound` for the rollout; `Conflict` with the wire contract's text when its state does not
    /// allow it; for a start also as [`Engine::start`].
    pub async fn command(
        &self,
        scope: &Scope,
        actor: Actor,
        id: RolloutId,
        command: Command,
    ) -> Result<Rollout> {
        if command == Command::Start {
            return self.start(scope, actor, id, None).await;
        }
        let mut retry = self.retry();
        loop {
            let outcome = self.try_command(scope, actor, id, command).await;
            if let Some(outcome) = retry.judge(outcome).await {
                return self.describe(scope, outcome).await;
            }
        }
    }

    async fn try_command(
        &self,
        scope: &Scope,
        actor: Actor,
        id: RolloutId,
        command: Command,
    ) -> Result<Rollout> {
        let rollout = self.store.fetch::<Rollout>(scope, id).await?;
        let mut work = Work::new(self, rollout.scope());
        let loaded = self.carry_out_command(&mut work, actor, rollout, command, json!({})).await?;
        self.commit(work.finish()?).await?;
        let rollout = loaded.state.rollout().clone();
        self.keep(loaded);
        Ok(rollout)
    }

    /// Adds a command to a unit of work.
    pub(super) async fn carry_out_command(
        &self,
        work: &mut Work<'_>,
        actor: Actor,
        rollout: Stored<Rollout>,
        command: Command,
        metadata: Value,
    ) -> Result<Loaded> {
        let Loaded { state, mut revisions, .. } = self.load(rollout).await?;
        let now = self.clock.now();
        command.check(&state, now)?;
        let observation = self.observe(work, &state, &state.concerned()).await?;
        let decision = apply(command, state, &observation, now)?;
        work.record(&mut revisions, &decision)?;
        work.carry_out(&decision.state, &decision.effects).await?;
        work.audit(&decision.state, actor, action(command), metadata);
        Ok(Loaded { state: decision.state, revisions, seen: None })
    }
}

/// How the audit log calls a command.
fn action(command: Command) -> &'static str {
    match command {
        Command::Start => "rollout.started",
        Command::Pause | Command::Hold => "rollout.paused",
        Command::Resume => "rollout.resumed",
        Command::Advance => "rollout.traffic_advanced",
        Command::SwapSlot => "rollout.slot_swapped",
        Command::Cancel => "rollout.cancelled",
        Command::Rollback => "rollout.rolled_back",
    }
}
