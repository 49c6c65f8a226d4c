//! Verified API keys and resolved projects, remembered for a short while.
//!
//! What the store says it changed is forgotten before the next use; the time limit covers the
//! case that nobody said so.

use crate::services::Api;
use dashmap::DashMap;
use futures_util::FutureExt;
use futures_util::StreamExt;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use zentinel_core::credential::CredentialHash;
use zentinel_core::entity::{ApiKey, Project};
use zentinel_core::id::{OrganisationId, TypedId};
use zentinel_core::port::{Notice, NoticeStream, Query, StoreExt};
use zentinel_core::{Changes, Kind, Record, RecordKind, Result, Slug, Stored};

/// How long something is believed without hearing of a change, in seconds.
const TTL: i64 = 30;

/// Most entries per kind; beyond it everything is forgotten.
const CAPACITY: usize = 10_000;

/// How often the use of a key is written down, in seconds.
const TOUCH: i64 = 60;

/// A verified API key.
#[derive(Debug)]
pub(crate) struct Credential {
    /// The record as it was read.
    pub(crate) key: Stored<ApiKey>,
    read_at: i64,
    touched_at: AtomicI64,
}

impl Credential {
    /// Notes that the key was used: one write per minute, off the request's path.
    pub(crate) fn touch(self: &Arc<Self>, api: &Api) {
        let now = api.now();
        let seconds = now.timestamp();
        let last = self.touched_at.load(Ordering::Relaxed);
        let due = seconds - last >= TOUCH;
        let mine = due
            && self.touched_at.compare_exchange(last, seconds, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !mine {
            return;
        }
        let (api, read) = (api.clone(), self.key.clone());
        tokio::spawn(async move {
            let mut used = read.value.clone();
            used.last_used_at = Some(now);
            let result = match Changes::new().update(&read, &used) {
                Ok(changes) => api.store.commit(changes).await.map(drop),
                Err(error) => Err(error),
            };
            match result {
                // Somebody else wrote the key meanwhile: the next use will be noted.
                Err(error) if matches!(error.kind(), Kind::Stale | Kind::NotFound) => {}
                Err(error) => tracing::warn!(%error, "could not note the use of an API key"),
                Ok(()) => {}
            }
        });
    }
}

/// What is remembered.
pub(crate) struct Credentials {
    keys: DashMap<CredentialHash, Arc<Credential>>,
    projects: DashMap<(OrganisationId, Slug), (Arc<Project>, i64)>,
    /// Grows with every change, so that nothing read before it is remembered after it.
    generation: AtomicU64,
    notices: Mutex<NoticeStream>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("keys", &self.keys.len())
            .field("projects", &self.projects.len())
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// Remembers nothing yet; `notices` says what to forget.
    pub(crate) fn new(notices: NoticeStream) -> Self {
        Self {
            keys: DashMap::new(),
            projects: DashMap::new(),
            generation: AtomicU64::new(0),
            notices: Mutex::new(notices),
        }
    }

    /// The active key with a hash.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn api_key(&self, api: &Api, hash: &CredentialHash) -> Result<Option<Arc<Credential>>> {
        self.catch_up(|| api.store.watch());
        let now = api.now();
        let known = self.keys.get(hash).map(|entry| Arc::clone(entry.value()));
        if let Some(known) = known.filter(|known| now.timestamp() - known.read_at < TTL) {
            return Ok(known.key.is_active(now).then_some(known));
        }
        let generation = self.generation.load(Ordering::Acquire);
        let found = api.store.find_by_key::<ApiKey>(&hash.text()).await?;
        let Some(key) = found.filter(|key| key.is_active(now)) else {
            self.keys.remove(hash);
            return Ok(None);
        };
        let last_used = key.last_used_at.map_or(i64::MIN / 2, |at| at.timestamp());
        let credential =
            Arc::new(Credential { key, read_at: now.timestamp(), touched_at: AtomicI64::new(last_used) });
        self.catch_up(|| api.store.watch());
        if self.generation.load(Ordering::Acquire) == generation {
            if self.keys.len() >= CAPACITY {
                self.keys.clear();
            }
            self.keys.insert(*hash, Arc::clone(&credential));
        }
        Ok(Some(credential))
    }

    /// The project with a slug in an organisation.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn project(
        &self,
        api: &Api,
        organisation: OrganisationId,
        slug: &Slug,
    ) -> Result<Option<Arc<Project>>> {
        let now = api.now().timestamp();
        let name = (organisation, slug.clone());
        let known = self.projects.get(&name).map(|entry| entry.value().clone());
        if let Some((project, _)) = known.filter(|(_, read_at)| now - read_at < TTL) {
            return Ok(Some(project));
        }
        let generation = self.generation.load(Ordering::Acquire);
        let query = Query::all(RecordKind::Project).owned_by(organisation).named(slug.as_str());
        let scope = zentinel_core::Scope::Organisation(organisation);
        let page = api.store.list::<Project>(&scope, query).await?;
        let Some(found) = page.items.into_iter().next() else {
            return Ok(None);
        };
        let project = Arc::new(found.value);
        self.catch_up(|| api.store.watch());
        if self.generation.load(Ordering::Acquire) == generation {
            if self.projects.len() >= CAPACITY {
                self.projects.clear();
            }
            self.projects.insert(name, (Arc::clone(&project), now));
        }
        Ok(Some(project))
    }

    /// Forgets what changed since the last call; everything when nobody tells any more, and then
    /// listens anew.
    fn catch_up(&self, watch: impl FnOnce() -> NoticeStream) {
        let mut notices = self.notices.lock();
        while let Some(next) = notices.next().now_or_never() {
            let Some(notice) = next else {
                // First, so that what is read afterwards is not missed when it changes.
                *notices = watch();
                self.forget_all();
                return;
            };
            match notice {
                Notice::Records { kind: RecordKind::ApiKey, ids, .. } => {
                    self.generation.fetch_add(1, Ordering::AcqRel);
                    self.keys.retain(|_, known| !ids.contains(&known.key.id().uuid()));
                }
                Notice::Records { kind: RecordKind::Project, ids, .. } => {
                    self.generation.fetch_add(1, Ordering::AcqRel);
                    self.projects.retain(|_, (project, _)| !ids.contains(&project.id.uuid()));
                }
                Notice::Lagged => self.forget_all(),
                Notice::Records { .. } | Notice::Events | Notice::Jobs => {}
            }
        }
    }

    fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.keys.clear();
        self.projects.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn known() -> (OrganisationId, Slug, Arc<Project>) {
        let project = Project::new(OrganisationId::random(), "Edge", chrono::DateTime::UNIX_EPOCH).unwrap();
        (project.organisation_id, project.slug.clone(), Arc::new(project))
    }

    #[test]
    fn when_nobody_tells_any_more_everything_is_forgotten_and_listening_begins_anew() {
        let credentials = Credentials::new(Box::pin(stream::empty()));
        let (organisation, slug, project) = known();
        let remember =
            || credentials.projects.insert((organisation, slug.clone()), (Arc::clone(&project), 0));
        remember();
        let change = Notice::Records {
            kind: RecordKind::Project,
            project_id: Some(project.id),
            ids: vec![project.id.uuid()],
            renewed: false,
        };
        credentials.catch_up(|| Box::pin(stream::iter([change]).chain(stream::pending())));
        assert!(credentials.projects.is_empty());
        assert_eq!(credentials.generation.load(Ordering::Acquire), 1);
        remember();
        credentials.catch_up(|| panic!("the new stream goes on"));
        assert!(credentials.projects.is_empty());
        assert_eq!(credentials.generation.load(Ordering::Acquire), 2);
    }
}
