//! The whole story in one process, over real HTTP: compile, roll out, stop, roll back.
//!
//! The nodes run the same [`agent`](crate::agent) as everywhere else. Their activation checks the
//! configuration with the proxy's parser and switches a directory. Some of them lack a directory
//! that the second bundle serves files from: only they can know, and they reject it.

mod fleet;
mod progress;
mod story;

use crate::bootstrap::{Bootstrapped, Names, bootstrap, join_token};
use crate::cli::{Output, stop_signal};
use crate::compose::App;
use crate::settings::Settings;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use zentinel_core::port::SystemClock;
use zentinel_core::{Error, Result};

/// What a newcomer may choose.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// How many nodes to run, at least 2.
    pub nodes: usize,
    /// End when the story is over.
    pub exit: bool,
    /// Where to serve; the usual port, or a free one when that is taken.
    pub listen: Option<SocketAddr>,
    /// Where to keep the data; a temporary directory that is removed at the end when absent.
    pub data: Option<PathBuf>,
}

/// A newcomer's script must not be throttled.
const NO_LIMIT: u32 = 1_000_000;

/// Runs the demo until it is over or interrupted. The status is 0 when the story went as told.
///
/// # Errors
/// Those of the server and of the story's steps.
pub async fn run(settings: Settings, options: DemoOptions, output: &Output) -> Result<ExitCode> {
    let temporary = match &options.data {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("zentinel-demo-").tempdir().map_err(|error| {
            Error::unavailable("no temporary directory").with_source(error).with_hint("name one with --data")
        })?),
    };
    let data = match (&options.data, &temporary) {
        (Some(data), _) => data.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => return Err(Error::internal("no data directory")),
    };
    let app = start(settings, &options, data.clone()).await?;
    let told = tell(&app, &options, &data, output).await;
    app.stop().await;
    told
}

async fn start(given: Settings, options: &DemoOptions, data: PathBuf) -> Result<App> {
    // Embedded whatever the environment says: a demo must never write into somebody's database.
    let mut settings =
        Settings { listen: given.listen, log: given.log, data_dir: data, ..Settings::default() };
    settings.nodes.poll_interval_seconds = 5;
    settings.http.shutdown_seconds = 5;
    for name in ["default", "node", "registration"] {
        settings.http.rate_limits.insert(name.to_owned(), NO_LIMIT);
    }
    for scope in zentinel_core::entity::ApiScope::ALL {
        settings.http.rate_limits.insert(scope.as_str().to_owned(), NO_LIMIT);
    }
    match App::start(&settings).await {
        Err(error) if is_taken(&error) && options.listen.is_none() => {
            settings.listen.set_port(0);
            App::start(&settings).await
        }
        started => started,
    }
}

fn is_taken(error: &Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    source.is_some_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

async fn tell(app: &App, options: &DemoOptions, data: &std::path::Path, output: &Output) -> Result<ExitCode> {
    let names = Names {
        organisation: "Zentinel Demo".to_owned(),
        projects: vec!["Edge".to_owned(), "Sandbox".to_owned()],
        email: "admin@example.com".to_owned(),
    };
    let store = &*app.services.store;
    let made = bootstrap(store, &SystemClock, &names).await?;
    let [project, empty] = made.projects.as_slice() else {
        return Err(Error::internal("the demo has two projects"));
    };
    let tokens =
        (join_token(store, &SystemClock, project).await?, join_token(store, &SystemClock, empty).await?);
    let url = app.public_url.as_str().trim_end_matches('/').to_owned();
    let ready = json!({
        "url": url,
        "api_key": made.api_key.expose(),
        "project": project.slug,
        "empty_project": empty.slug,
        "join_token": tokens.1.expose(),
        "admin_email": made.email,
        "admin_password": made.password.as_ref().map(zentinel_core::Secret::expose),
    });
    output.event("ready", ready, || {
        format!(
            "control plane   {url}\napi key         {}\nempty project   {}, join token {}",
            made.api_key.expose(),
            empty.slug,
            tokens.1.expose()
        )
    });
    let fleet = fleet::DemoFleet::start(app, project, &tokens.0, options.nodes, data, output).await?;
    let story = story::tell(app, project, &made.api_key, &fleet, output);
    let interrupted = stop_signal();
    tokio::pin!(interrupted);
    let ending = tokio::select! {
        ending = story => ending?,
        stopped = &mut interrupted => {
            stopped?;
            return Ok(ExitCode::from(130));
        }
    };
    output.event("over", json!({ "ok": ending.as_told }), || farewell(&url, &made, ending, options.exit));
    if !options.exit {
        interrupted.await?;
    }
    fleet.stop().await;
    Ok(if ending.as_told { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn farewell(url: &str, made: &Bootstrapped, ending: story::Ending, exit: bool) -> String {
    let verdict = if ending.as_told { "The story went as told." } else { "The story did not go as told." };
    if exit {
        return verdict.to_owned();
    }
    let project = made.projects.first().map(|project| project.slug.to_string()).unwrap_or_default();
    let base = format!("{url}/api/v1/projects/{project}");
    format!(
        "{verdict} The server stays up until Ctrl-C. To go on:\n\n  \
         export KEY={key}\n  \
         curl -H \"Authorization: Bearer $KEY\" '{base}/nodes?limit=3'\n  \
         curl -H \"Authorization: Bearer $KEY\" {base}/rollouts\n  \
         curl -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' \\\n    \
         -d '{{\"bundle_id\": \"{bundle}\", \"batch_size\": 5}}' {base}/rollouts\n  \
         curl {url}/api/openapi.json\n  curl {url}/metrics\n\n\
         admin account: {email} {password}",
        key = made.api_key.expose(),
        bundle = ending.bundle,
        email = made.email,
        password = made.password.as_ref().map_or("(as before)", zentinel_core::Secret::expose),
    )
}

/// How long any part of the story may take before it is called stuck.
const PATIENCE: Duration = Duration::from_secs(180);
