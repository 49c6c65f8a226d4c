//! The flood: everybody at once, until the reckoning.

use super::ledger::Ledger;
use super::operators::{Roller, auditor, author, key_holder};
use super::seed::Seed;
use super::traffic::{Member, newcomers, register};
use super::verify;
use super::wire::Wire;
use crate::plane::{Plane, example};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use url::Url;

/// Nodes that take part, per role.
const MEMBERS: usize = 6;
/// Nodes that change with every heartbeat.
const FLIPPERS: usize = 3;
/// The source whose bundles nodes refuse, so that rollouts fail and are rolled back.
const POISON: usize = 3;

/// A flood under way.
#[derive(Debug)]
pub struct Flood {
    /// Its calls and their ledger.
    pub wire: Arc<Wire>,
    stop: CancellationToken,
    end: CancellationToken,
    makers: JoinSet<()>,
    members: JoinSet<()>,
}

impl Flood {
    /// Lets nodes in and begins. `others` are the addresses of further processes.
    pub async fn begin(plane: &Plane, others: &[Url], seed: Seed) -> Self {
        let mut bases = vec![plane.url.clone()];
        bases.extend_from_slice(others);
        let wire = Wire::new(bases, &plane.api_key, &plane.project, Arc::new(Ledger::default()));
        let mut flood = Self {
            wire: Arc::new(wire),
            stop: CancellationToken::new(),
            end: CancellationToken::new(),
            makers: JoinSet::new(),
            members: JoinSet::new(),
        };
        for role in ["blue", "green"] {
            for number in 0..MEMBERS {
                flood.admit(plane, &format!("{role}-{number}"), role, seed).await;
            }
            let roller = Roller {
                wire: Arc::clone(&flood.wire),
                role: role.to_owned(),
                batch: 2,
                chance: seed.stream(&format!("roller {role}")),
            };
            flood.makers.spawn(roller.run(flood.stop.clone()));
        }
        for number in 0..FLIPPERS {
            flood.admit(plane, &format!("flip-{number}"), "flip", seed).await;
        }
        let sources: Arc<Vec<String>> = Arc::new(
            (0..=POISON).map(|number| format!("// source {number}\n{}", example("edge.kdl"))).collect(),
        );
        for name in ["ada", "ben"] {
            let (wire, stop) = (Arc::clone(&flood.wire), flood.stop.clone());
            let chance = seed.stream(&format!("author {name}"));
            flood.makers.spawn(author(wire, name.to_owned(), Arc::clone(&sources), chance, stop));
        }
        let parts = || (Arc::clone(&flood.wire), flood.stop.clone());
        let (wire, stop) = parts();
        let newcomers = newcomers(wire, plane.join_token.clone(), seed.stream("newcomers"), stop);
        let (wire, stop) = parts();
        let key_holder = key_holder(wire, seed.stream("keys"), stop);
        let (wire, stop) = parts();
        let auditor = auditor(wire, seed.stream("auditor"), stop);
        flood.makers.spawn(newcomers);
        flood.makers.spawn(key_holder);
        flood.makers.spawn(auditor);
        flood
    }

    async fn admit(&mut self, plane: &Plane, name: &str, role: &str, seed: Seed) {
        let node = register(&self.wire, &plane.join_token, name, role).await.expect("nothing is wrong yet");
        let member = Member {
            wire: Arc::clone(&self.wire),
            name: name.to_owned(),
            id: node.id,
            key: node.key,
            chance: seed.stream(name),
            poison: POISON,
            active: None,
            refusal: Value::Null,
            sequence: 0,
            events: 0,
            unsent: Vec::new(),
            doubt: false,
            flips: role == "flip",
        };
        self.members.spawn(member.run(self.end.clone()));
    }

    /// Stops making new things, waits until everything has ended by itself, and looks up what was
    /// acknowledged.
    ///
    /// # Panics
    /// When something does not end, is missing or was done twice.
    pub async fn reckon(mut self, name: &str) {
        self.stop.cancel();
        let makers = async { while self.makers.join_next().await.is_some() {} };
        let ended = tokio::time::timeout(Duration::from_secs(240), makers).await;
        self.wire.ledger.summary(name);
        if ended.is_err() {
            let stuck = verify::open(&self.wire).await;
            self.wire.ledger.fault(format!("the makers did not end: {stuck}"));
        } else {
            verify::settle(&self.wire).await;
        }
        self.end.cancel();
        while let Some(ended) = self.members.join_next().await {
            ended.expect("a member ended badly");
        }
        verify::reckon(&self.wire).await;
        self.wire.ledger.summary(name);
        self.wire.ledger.must_be_clean();
    }
}
