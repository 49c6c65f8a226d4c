//! The first organisation, project, administrator and API key of an instance.

use argon2::Argon2;
use argon2::password_hash::PasswordHasher as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::TimeDelta;
use std::collections::{BTreeMap, BTreeSet};
use zentinel_core::entity::{
    ApiKey, ApiScope, AuditEntry, Membership, Organisation, Project, RegistrationToken, Role, User,
};
use zentinel_core::port::{Clock, Query, Store, StoreExt as _};
use zentinel_core::{Actor, Changes, Error, RecordKind, Result, Scope, Secret, Slug};

/// What to create.
#[derive(Clone, Debug)]
pub struct Names {
    /// Name of the organisation.
    pub organisation: String,
    /// Names of its projects; at least one.
    pub projects: Vec<String>,
    /// Address of the administrator.
    pub email: String,
}

/// What was created. Secrets are shown once.
#[derive(Debug)]
pub struct Bootstrapped {
    /// The organisation.
    pub organisation: Organisation,
    /// Its projects, in the order of the names.
    pub projects: Vec<Project>,
    /// Address of the administrator.
    pub email: String,
    /// The administrator's password; `None` when the account was there already.
    pub password: Option<Secret>,
    /// An API key with every scope, for the whole organisation.
    pub api_key: Secret,
}

/// What is there after [`initialise`]. Secrets are shown once.
#[derive(Debug)]
pub struct Initialised {
    /// The organisation.
    pub organisation: Organisation,
    /// Its projects, in the order of the names.
    pub projects: Vec<Project>,
    /// Address of the administrator.
    pub email: String,
    /// The administrator's password; `None` when the account was there already.
    pub password: Option<Secret>,
    /// What was not there before, in words.
    pub created: Vec<String>,
    /// An API key with every scope, for the whole organisation.
    pub api_key: Option<Secret>,
    /// A registration token of the first project.
    pub join_token: Option<Secret>,
}

/// Creates what is missing, in one commit, and issues a new API key with every scope.
///
/// # Errors
/// [`Kind::Invalid`](zentinel_core::Kind::Invalid) for names that can't be used; those of the store.
pub async fn bootstrap(store: &dyn Store, clock: &dyn Clock, names: &Names) -> Result<Bootstrapped> {
    let prepared = prepare(store, clock, names).await?;
    let (changes, api_key) = prepared.with_key(clock)?;
    store.commit(changes).await?;
    let Prepared { organisation, projects, user, password, .. } = prepared;
    Ok(Bootstrapped { organisation, projects, email: user.email, password, api_key })
}

/// Creates what is missing. An API key and a registration token are issued with a new organisation
/// only, or when `new_secrets` asks for them: running the same command again makes no secrets.
///
/// # Errors
/// As [`bootstrap`].
pub async fn initialise(
    store: &dyn Store,
    clock: &dyn Clock,
    names: &Names,
    new_secrets: bool,
) -> Result<Initialised> {
    let prepared = prepare(store, clock, names).await?;
    let issues = new_secrets || prepared.is_new;
    let (changes, api_key) = match issues {
        true => prepared.with_key(clock).map(|(changes, key)| (changes, Some(key)))?,
        false => (prepared.changes.clone(), None),
    };
    store.commit(changes).await?;
    let Prepared { organisation, projects, user, password, created, .. } = prepared;
    let join_token = match projects.first() {
        Some(project) if issues => Some(join_token(store, clock, project).await?),
        _ => None,
    };
    Ok(Initialised { organisation, projects, email: user.email, password, created, api_key, join_token })
}

/// What is there and what is to be committed.
struct Prepared {
    organisation: Organisation,
    projects: Vec<Project>,
    user: User,
    password: Option<Secret>,
    created: Vec<String>,
    /// Whether the organisation is.
    is_new: bool,
    changes: Changes,
}

impl Prepared {
    /// The changes with a new API key.
    fn with_key(&self, clock: &dyn Clock) -> Result<(Changes, Secret)> {
        let (id, now) = (self.organisation.id, clock.now());
        let scopes: BTreeSet<ApiScope> = ApiScope::ALL.iter().copied().collect();
        let (key, raw) = ApiKey::issue(id, None, Some(self.user.id), "bootstrap", scopes, None, now)?;
        let audit = audited("api_key.created", &self.organisation, key.id, now);
        Ok((self.changes.clone().insert(&key)?.audit(audit), raw))
    }
}

async fn prepare(store: &dyn Store, clock: &dyn Clock, names: &Names) -> Result<Prepared> {
    let now = clock.now();
    let (mut changes, mut created) = (Changes::new(), Vec::new());
    let slug = Slug::from_name(&names.organisation)?;
    let known = Query::all(RecordKind::Organisation).named(slug.as_str());
    let organisation = match store.list::<Organisation>(&Scope::Instance, known).await?.items.pop() {
        Some(stored) => stored.value,
        None => {
            let organisation = Organisation::new(&names.organisation, now)?;
            created.push(format!("organisation {}", organisation.slug));
            changes = changes.insert(&organisation)?.audit(audited(
                "organisation.created",
                &organisation,
                organisation.id,
                now,
            ));
            organisation
        }
    };
    let scope = Scope::Organisation(organisation.id);
    let mut projects = Vec::with_capacity(names.projects.len());
    for name in &names.projects {
        let known =
            Query::all(RecordKind::Project).owned_by(organisation.id).named(Slug::from_name(name)?.as_str());
        projects.push(match store.list::<Project>(&scope, known).await?.items.pop() {
            Some(stored) => stored.value,
            None => {
                let project = Project::new(organisation.id, name, now)?;
                created.push(format!("project {}", project.slug));
                changes = changes.insert(&project)?.audit(audited(
                    "project.created",
                    &organisation,
                    project.id,
                    now,
                ));
                project
            }
        });
    }
    let known = Query::all(RecordKind::User).named(names.email.trim().to_lowercase());
    let (user, password) = match store.list::<User>(&Scope::Instance, known).await?.items.pop() {
        Some(stored) => (stored.value, None),
        None => {
            let password = Secret::new(URL_SAFE_NO_PAD.encode(rand::random::<[u8; 18]>()));
            let user = User::new(&names.email, hash_password(&password)?, Role::Admin, now)?;
            created.push(format!("administrator {}", user.email));
            let member = Membership::new(organisation.id, user.id, Role::Admin, now);
            changes = changes.insert(&user)?.insert(&member)?.audit(audited(
                "user.created",
                &organisation,
                user.id,
                now,
            ));
            (user, Some(password))
        }
    };
    let is_new = created.first().is_some_and(|first: &String| first.starts_with("organisation "));
    Ok(Prepared { organisation, projects, user, password, created, is_new, changes })
}

/// Issues a registration token that any number of nodes may use for a day.
///
/// # Errors
/// Those of the store.
pub async fn join_token(store: &dyn Store, clock: &dyn Clock, project: &Project) -> Result<Secret> {
    let now = clock.now();
    let scope = (project.organisation_id, project.id);
    let (token, raw) =
        RegistrationToken::issue(scope, "bootstrap", BTreeMap::new(), None, now + TimeDelta::days(1), now)?;
    let audit = AuditEntry::new(&project.scope(), Actor::System, "registration_token.created", token.id, now);
    store.commit(Changes::new().insert(&token)?.audit(audit)).await?;
    Ok(raw)
}

fn audited(
    action: &str,
    organisation: &Organisation,
    id: impl ToString,
    now: zentinel_core::Timestamp,
) -> AuditEntry {
    AuditEntry::new(&Scope::Organisation(organisation.id), Actor::System, action, id, now)
}

/// Argon2id with the library's recommended parameters, in PHC form.
fn hash_password(password: &Secret) -> Result<String> {
    Argon2::default()
        .hash_password(password.expose().as_bytes())
        .map(|hash| hash.to_string())
        .map_err(|error| Error::internal(format!("the password could not be hashed: {error}")))
}
