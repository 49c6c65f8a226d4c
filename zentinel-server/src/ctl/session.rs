//! A connection to a control plane and the project that commands are about.

use super::find;
use super::screen::{Screen, short};
use super::settings::Flags;
use std::collections::HashMap;
use url::Url;
use zentinel_core::id::{BundleId, TypedId as _};
use zentinel_core::port::{Clock as _, SystemClock};
use zentinel_core::{Error, Kind, Result, Timestamp};
use zentinel_http::client::{OperatorClient, retry_after};

/// What every command works with.
#[derive(Debug)]
pub(super) struct Session {
    /// The operator API.
    pub(super) client: OperatorClient,
    /// Slug of the project; empty until it is chosen.
    pub(super) project: String,
    /// Where answers go.
    pub(super) screen: Screen,
    /// The control plane's URL.
    pub(super) server: Url,
}

impl Session {
    /// Reads the settings; asks the control plane nothing yet.
    ///
    /// # Errors
    /// `Invalid` for settings that cannot be used.
    pub(super) fn open(flags: &Flags, screen: Screen) -> Result<Self> {
        let found = flags.effective()?;
        let client = OperatorClient::new(found.server.clone(), found.api_key)?;
        Ok(Self { client, project: found.project.unwrap_or_default(), screen, server: found.server })
    }

    /// Takes the only project of the key when none was named.
    ///
    /// # Errors
    /// `Invalid` when there is none or a choice.
    pub(super) async fn choose_project(&mut self) -> Result<()> {
        if !self.project.is_empty() {
            return Ok(());
        }
        let mut projects = self.client.projects(None).await?;
        let slugs: Vec<&str> = projects.items.iter().take(10).map(|project| project.slug.as_str()).collect();
        let hint =
            format!("name it with --project, ZENTINEL_PROJECT or the settings file: {}", slugs.join(", "));
        match projects.items.pop() {
            Some(only) if projects.total == 1 => {
                self.project = only.slug;
                Ok(())
            }
            Some(_) => Err(Error::invalid("the key can address several projects").with_hint(hint)),
            None => Err(Error::invalid("there is no project yet")
                .with_hint("create one with `zentinelctl project create NAME`")),
        }
    }

    /// Says what to do next where the server does not.
    pub(super) fn explain(&self, error: Error) -> Error {
        if error.hint().is_some() {
            return error;
        }
        let server = self.server.as_str().trim_end_matches('/');
        let hint = match error.kind() {
            Kind::Unauthenticated => {
                "the API key is unknown, expired or revoked: see --api-key-file".to_owned()
            }
            Kind::Forbidden if error.message().contains("scope") => {
                "issue a key with that scope (POST /api/v1/api-keys with a key that has api_keys:admin)"
                    .to_owned()
            }
            Kind::NotFound if error.message() == "Project not found" => {
                format!("`{}` is not a project of this key: see `zentinelctl project list`", self.project)
            }
            // The answer of whatever has no such route.
            Kind::NotFound if error.message() == "Not Found" => {
                format!("is {server} the address of the control plane? {server}/health should answer")
            }
            Kind::Invalid if error.message().starts_with("No target nodes") => {
                "`zentinelctl node list` shows the nodes and their labels; pinned and unapproved ones are left out"
                    .to_owned()
            }
            Kind::RateLimited => {
                let seconds = retry_after(&error).map_or(60, |after| after.as_secs());
                format!("try again in {seconds} s; `http.rate_limits` of the server says how much is allowed")
            }
            Kind::TooLarge => {
                "`http.body_limit_bytes` of the server is the limit; a file beside the configuration counts a \
                 third more than its size"
                    .to_owned()
            }
            Kind::Unavailable if error.message().contains("InvalidContentType") => {
                format!("it does not speak TLS there: {}", server.replacen("https:", "http:", 1))
            }
            Kind::Unavailable | Kind::Timeout if !server.is_empty() => {
                format!("is the control plane up? see {server}/ready; another one is named with --server")
            }
            _ => return error,
        };
        error.with_hint(hint)
    }

    /// The current instant.
    #[expect(clippy::unused_self, reason = "the one place of this tool that asks for the time")]
    pub(super) fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    /// The versions of the project's bundles. Without `bundles:read` there are none, and ids are shown.
    ///
    /// # Errors
    /// Those of every call.
    pub(super) async fn versions(&self) -> Result<Versions> {
        let pages = async |cursor: Option<&str>| self.client.bundles(&self.project, cursor).await;
        match find::every(None, pages).await {
            Ok((bundles, _)) => {
                Ok(Versions(bundles.into_iter().map(|bundle| (bundle.id, bundle.version)).collect()))
            }
            Err(error) if error.kind() == Kind::Forbidden => Ok(Versions::default()),
            Err(error) => Err(error),
        }
    }
}

/// What people call bundles.
#[derive(Debug, Default)]
pub(super) struct Versions(HashMap<BundleId, String>);

impl Versions {
    /// The version of a bundle, or the beginning of its id.
    pub(super) fn of(&self, id: BundleId) -> String {
        self.0.get(&id).map_or_else(|| short(id.uuid()), |version| super::screen::clean(version))
    }

    /// As [`Self::of`]; `-` for none.
    pub(super) fn of_some(&self, id: Option<BundleId>) -> String {
        id.map_or_else(|| "-".to_owned(), |id| self.of(id))
    }

    /// Whether a bundle is unknown, because it is newer than this list.
    pub(super) fn lacks(&self, id: Option<BundleId>) -> bool {
        !self.0.is_empty() && id.is_some_and(|id| !self.0.contains_key(&id))
    }
}
