//! Bringing nodes into a project: those that come together with one token are committed together.
//!
//! Every use of a token is counted in the commit that lets the node in, so registrations with one
//! token cannot overtake each other. Whoever is next in turn takes in everybody who waits.

use super::enrol::required;
use super::memory::Memory;
use super::repeat::Applicant;
use crate::error::taken_also_on;
use crate::services::Api;
use dashmap::DashMap;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::oneshot;
use zentinel_core::entity::{AuditEntry, Event, Node, NodeReport, Registration, RegistrationToken};
use zentinel_core::id::{NodeId, OrganisationId, ProjectId, RegistrationTokenId, TypedId};
use zentinel_core::port::StoreExt;
use zentinel_core::{Actor, Changes, Error, Kind, Result, Scope, Secret, Stored, Timestamp};

/// Most nodes that one commit lets in.
const MAX_GROUP: usize = 256;
/// Most registrations that wait for their turn; further ones are told to come back.
const MAX_WAITING: usize = 1_024;
/// How often a lost race for a token is run again; registrations of this replica do not race.
const RACES: usize = 16;

/// A node that was let in, with its key.
pub(super) type Admitted = (Node, NodeReport, Secret);

/// A registration that waits for its turn.
#[derive(Debug)]
struct Waiting {
    applicant: Applicant,
    answer: oneshot::Sender<Result<Admitted>>,
}

/// Everybody who waits, by token.
#[derive(Debug, Default)]
pub(super) struct Joining {
    waiting: DashMap<RegistrationTokenId, Vec<Waiting>>,
    count: AtomicUsize,
}

impl Joining {
    fn push(&self, token: RegistrationTokenId, waiting: Waiting) -> Result<()> {
        if self.count.fetch_add(1, Ordering::AcqRel) >= MAX_WAITING {
            self.count.fetch_sub(1, Ordering::AcqRel);
            return Err(Error::unavailable("Too many nodes are registering. Try again."));
        }
        self.waiting.entry(token).or_default().push(waiting);
        Ok(())
    }

    /// The next group, without those who went away: nobody would ever hear of their keys.
    fn take(&self, token: RegistrationTokenId) -> Vec<Waiting> {
        let Some(mut queue) = self.waiting.get_mut(&token) else { return Vec::new() };
        let most = queue.len().min(MAX_GROUP);
        let mut group: Vec<Waiting> = queue.drain(..most).collect();
        drop(queue);
        self.waiting.remove_if(&token, |_, queue| queue.is_empty());
        self.count.fetch_sub(most, Ordering::AcqRel);
        group.retain(|waiting| !waiting.answer.is_closed());
        group
    }
}

/// Lets a node in with a token, together with all others that wait for the same one.
///
/// # Errors
/// `Unauthenticated` when the token has no use left, `Invalid` for a name that is taken, those of the
/// store.
pub(super) async fn join(
    api: &Api,
    memory: &Memory,
    token: &RegistrationToken,
    applicant: Applicant,
) -> Result<Admitted> {
    let (answer, mut outcome) = oneshot::channel();
    memory.joining.push(token.id, Waiting { applicant, answer })?;
    loop {
        let _turn = tokio::select! {
            biased;
            outcome = &mut outcome => return outcome.unwrap_or_else(|_| Err(broken_off())),
            turn = memory.gate(token.id.uuid()).lock() => turn,
        };
        if let Ok(outcome) = outcome.try_recv() {
            return outcome;
        }
        let group = memory.joining.take(token.id);
        let (api, scope, id) = (api.clone(), scope_of(token), token.id);
        // A task of its own: a caller that goes away must not take the others' answers with it.
        let done = tokio::spawn(async move { admit_group(&api, &scope, id, group).await });
        done.await.map_err(|error| Error::internal("a group of registrations failed").with_source(error))?;
    }
}

fn broken_off() -> Error {
    Error::unavailable("The registration was broken off. Try again.")
}

/// What the audit log says of a token's part.
pub(super) fn origin_of(token: &RegistrationToken) -> Value {
    json!({"registration_token_id": token.id})
}

pub(super) fn scope_of(token: &RegistrationToken) -> Scope {
    Scope::Project(token.organisation_id, token.project_id)
}

/// Lets in as many as the token may. A group that is refused is halved until those are found whom the
/// refusal is about.
async fn admit_group(api: &Api, scope: &Scope, token: RegistrationTokenId, group: Vec<Waiting>) {
    let mut groups = vec![group];
    let mut races = 0;
    while let Some(mut group) = groups.pop() {
        if group.is_empty() {
            continue;
        }
        let refused = match admit_some(api, scope, token, &mut group).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        let races_on = refused.kind() == Kind::Stale && races < RACES;
        if races_on {
            races += 1;
            groups.push(group);
        } else if group.len() > 1 && !refused.kind().is_transient() {
            groups.push(group.split_off(group.len() / 2));
            groups.push(group);
        } else {
            for waiting in group {
                let again = Error::new(refused.kind(), refused.message().to_owned());
                let fields = refused
                    .fields()
                    .iter()
                    .flat_map(|(field, texts)| texts.iter().map(move |text| (field, text)));
                let error =
                    fields.fold(again, |error, (field, text)| error.with_field(field.clone(), text.clone()));
                drop(waiting.answer.send(Err(error)));
            }
        }
    }
}

/// Counts the uses and inserts the nodes in one commit, so that a token never lets in more nodes than
/// it may. Who was answered is no longer in the group.
async fn admit_some(
    api: &Api,
    scope: &Scope,
    token: RegistrationTokenId,
    group: &mut Vec<Waiting>,
) -> Result<()> {
    let read: Option<Stored<RegistrationToken>> = api.store.find(scope, token).await?;
    let usable = read.filter(|token| token.is_usable(api.now()));
    let left = usable.as_ref().map_or(0, |token| match token.uses.max {
        Some(max) => max.saturating_sub(token.uses.used) as usize,
        None => usize::MAX,
    });
    for waiting in group.drain(left.min(group.len())..) {
        drop(waiting.answer.send(Err(required())));
    }
    let Some(token) = usable.filter(|_| !group.is_empty()) else { return Ok(()) };
    let mut used = token.value.clone();
    used.uses.used = used.uses.used.saturating_add(u32::try_from(group.len()).unwrap_or(u32::MAX));
    let origin = origin_of(&token);
    let mut changes = Changes::new().update(&token, &used)?;
    let mut admitted = Vec::with_capacity(group.len());
    for waiting in group.iter() {
        let mut labelled = waiting.applicant.clone();
        labelled.registration.labels.extend(token.labels.clone());
        let ids = (token.organisation_id, token.project_id);
        let (with_node, node) = add(changes, ids, &labelled, true, &origin, api.now())?;
        changes = with_node;
        admitted.push(node);
    }
    let committed = api.store.commit(changes).await;
    committed.map_err(|error| taken_also_on(error, "project_id"))?;
    for (waiting, node) in group.drain(..).zip(admitted) {
        // Known before it is answered, and also when the caller is gone.
        api.fleet.admit(node.0.clone(), node.1.clone());
        drop(waiting.answer.send(Ok(node)));
    }
    Ok(())
}

/// Lets one node in, without a token.
///
/// # Errors
/// `Invalid` for a name that is taken; those of the store.
pub(super) async fn admit(
    api: &Api,
    ids: (OrganisationId, ProjectId),
    applicant: &Applicant,
    approved: bool,
    origin: &Value,
) -> Result<Admitted> {
    let (changes, node) = add(Changes::new(), ids, applicant, approved, origin, api.now())?;
    let committed = api.store.commit(changes).await;
    committed.map_err(|error| taken_also_on(error, "project_id"))?;
    api.fleet.admit(node.0.clone(), node.1.clone());
    Ok(node)
}

/// Adds a node with everything that belongs to it.
fn add(
    changes: Changes,
    ids: (OrganisationId, ProjectId),
    applicant: &Applicant,
    approved: bool,
    origin: &Value,
    now: Timestamp,
) -> Result<(Changes, Admitted)> {
    let registration = &applicant.registration;
    let id = NodeId::random();
    let key = applicant.key_of(id)?;
    let node = Node { id, ..Node::register(ids, registration, approved, key.hash, now)? };
    let report = NodeReport::registered(&node, registration);
    let changes = changes
        .insert(&node)?
        .insert(&report)?
        .audit(audit(&node, registration, origin, now))
        .event(event(&node, now));
    Ok((changes, (node, report, key.raw)))
}

fn audit(node: &Node, registration: &Registration, origin: &Value, now: Timestamp) -> AuditEntry {
    let mut metadata = json!({"name": node.name, "ip": registration.ip, "approved": node.approved});
    if let (Value::Object(metadata), Value::Object(origin)) = (&mut metadata, origin) {
        metadata.extend(origin.clone());
    }
    AuditEntry::new(&node.scope(), Actor::System, "node.registered", node.id, now).with_metadata(metadata)
}

fn event(node: &Node, now: Timestamp) -> Event {
    let payload = json!({"node_id": node.id, "node_name": node.name, "approved": node.approved});
    Event::new(&node.scope(), "node.registered", payload, now)
}
