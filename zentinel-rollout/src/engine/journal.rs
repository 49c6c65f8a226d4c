//! What was committed since a rollout was last looked at, as the store's notices tell it.

use futures_util::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use zentinel_core::RecordKind;
use zentinel_core::id::{NodeId, ProjectId, RolloutId, TypedId as _};
use zentinel_core::port::{Notice, NoticeStream, Store};

/// How often notices are taken in between ticks, so that the store need not hold many back.
const PACE: Duration = Duration::from_millis(500);
/// Most nodes that are noted one by one.
const MAX_NODES: usize = 500_000;

/// What changed for one rollout.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Nobody knows: everything must be read.
    pub(super) everything: bool,
    /// Nodes of the project whose record or report changed.
    pub(super) changed: HashSet<NodeId>,
    /// Nodes that only reported again.
    pub(super) renewed: HashSet<NodeId>,
}

impl News {
    fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }
}

/// A rollout that is followed.
struct Followed {
    project: ProjectId,
    /// The number of its latest tick.
    turn: u64,
    news: News,
}

/// The notices about nodes, sorted by the rollouts that are looked at again and again.
#[derive(Default)]
pub(super) struct Journal {
    notices: Option<NoticeStream>,
    rollouts: HashMap<RolloutId, Followed>,
    turns: u64,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("rollouts", &self.rollouts.len()).finish_non_exhaustive()
    }
}

impl Journal {
    /// Begins a tick: its number, and what happened since the one before began. What is committed
    /// from now on is news for the next one.
    pub(super) fn begin(
        this: &Arc<Mutex<Self>>,
        store: &dyn Store,
        rollout: RolloutId,
        project: ProjectId,
    ) -> (u64, News) {
        let mut journal = this.lock();
        if journal.notices.is_none() {
            journal.notices = Some(store.watch());
            journal.everything_is_new();
            tokio::spawn(Self::take_in_until_idle(Arc::downgrade(this)));
        }
        journal.take_in();
        journal.turns += 1;
        let turn = journal.turns;
        let before = journal.rollouts.insert(rollout, Followed { project, turn, news: News::default() });
        (turn, before.map_or_else(News::everything, |followed| followed.news))
    }

    /// Whether no later tick of this rollout has begun.
    pub(super) fn is_latest(&self, rollout: RolloutId, turn: u64) -> bool {
        self.rollouts.get(&rollout).is_some_and(|followed| followed.turn == turn)
    }

    pub(super) fn forget(&mut self, rollout: RolloutId) {
        self.rollouts.remove(&rollout);
    }

    pub(super) fn clear(&mut self) {
        self.rollouts.clear();
    }

    /// Takes in what was told so far, without waiting.
    fn take_in(&mut self) {
        while let Some(notices) = &mut self.notices {
            // Constrained, a busy task would be told that there is nothing, to make it pause.
            match tokio::task::unconstrained(notices.next()).now_or_never() {
                None => return,
                Some(Some(notice)) => self.note(notice),
                Some(None) => {
                    self.notices = None;
                    self.everything_is_new();
                }
            }
        }
    }

    fn note(&mut self, notice: Notice) {
        match notice {
            Notice::Records { kind: RecordKind::Node | RecordKind::NodeReport, project_id, ids, renewed } => {
                for followed in self.rollouts.values_mut() {
                    if project_id.is_some_and(|project| project != followed.project) {
                        continue;
                    }
                    let news = &mut followed.news;
                    let nodes = if renewed { &mut news.renewed } else { &mut news.changed };
                    nodes.extend(ids.iter().copied().map(NodeId::from_uuid));
                    if nodes.len() > MAX_NODES {
                        *news = News::everything();
                    }
                }
            }
            Notice::Lagged => self.everything_is_new(),
            Notice::Records { .. } | Notice::Events | Notice::Jobs => {}
        }
    }

    fn everything_is_new(&mut self) {
        for followed in self.rollouts.values_mut() {
            followed.news = News::everything();
        }
    }

    /// Takes in notices now and then until no rollout is followed.
    async fn take_in_until_idle(this: std::sync::Weak<Mutex<Self>>) {
        loop {
            tokio::time::sleep(PACE).await;
            let Some(this) = this.upgrade() else { return };
            let mut journal = this.lock();
            journal.take_in();
            if journal.rollouts.is_empty() {
                journal.notices = None;
            }
            if journal.notices.is_none() {
                return;
            }
        }
    }
}
