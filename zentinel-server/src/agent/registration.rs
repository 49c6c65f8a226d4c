//! The registration, which may be broken off anywhere and is then repeated.
//!
//! ```text
//! registration.json (secret, durable) ─> call ─> node.json (identity, durable) ─> registration.json removed
//! ```
//!
//! The control plane answers the same secret with the same node and key, so it does not matter
//! whether it was the call or its answer that was lost.

use super::state::{NodeState, StateFile, write_durably};
use super::{AgentOptions, crash};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use zentinel_core::credential::NewCredential;
use zentinel_core::{Error, Result, Secret};
use zentinel_http::client::{NodeClient, RegisterRequest};

/// What is kept from before the first try until the node is in.
#[derive(Serialize, Deserialize)]
struct Draft {
    secret: String,
}

/// Registers and writes the state file.
pub(super) async fn register(
    client: &NodeClient,
    options: &AgentOptions,
    file: &StateFile,
) -> Result<NodeState> {
    let request = RegisterRequest {
        name: options.name.clone(),
        labels: options.labels.clone(),
        version: options.version(),
        registration_secret: Some(secret_in(&options.directory)?),
        ..RegisterRequest::default()
    };
    crash::point("register-begun");
    let registered = client.register(&options.project, options.token.as_ref(), &request).await?;
    crash::point("register-answered");
    let state = NodeState {
        node_id: registered.node_id,
        node_key: registered.node_key.expose().to_owned(),
        project_id: registered.project_id,
        pinned_keys: registered.signing_keys,
        pinned_at: 0,
        last_sequence: 0,
        active_bundle_id: None,
        refused: None,
        activating: None,
        previous: Vec::new(),
        versions: BTreeMap::new(),
    };
    file.save(&state)?;
    crash::point("register-kept");
    Ok(state)
}

/// The node is in: nothing needs to be repeated.
pub(super) fn forget(directory: &Path) -> Result<()> {
    let path = path_in(directory);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(&path, error)),
        _ => Ok(()),
    }
}

/// The secret of an earlier try, or a new one that is on disk when this returns.
fn secret_in(directory: &Path) -> Result<Secret> {
    let path = path_in(directory);
    match std::fs::read(&path) {
        Ok(bytes) => {
            let draft: Draft = serde_json::from_slice(&bytes).map_err(|error| {
                Error::invalid(format!("{} is damaged", path.display())).with_source(error).with_hint(
                    "remove the file; when the node's name is taken then, delete the node and register again",
                )
            })?;
            Ok(Secret::new(draft.secret))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let secret = NewCredential::generate().raw;
            let bytes = serde_json::to_vec(&Draft { secret: secret.expose().to_owned() })?;
            write_durably(&path, &bytes).map_err(|error| failed(&path, error))?;
            Ok(secret)
        }
        Err(error) => Err(failed(&path, error)),
    }
}

fn path_in(directory: &Path) -> PathBuf {
    directory.join("registration.json")
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("{}: {error}", path.display())).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::extract::State;
    use axum::http::StatusCode;
    use axum::routing::post;
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use url::Url;
    use zentinel_core::Kind;
    use zentinel_core::id::{NodeId, ProjectId};

    type Requests = Arc<Mutex<Vec<Value>>>;

    /// A control plane whose first answer is lost.
    async fn answer(
        State(requests): State<Requests>,
        Json(request): Json<Value>,
    ) -> (StatusCode, Json<Value>) {
        let mut requests = requests.lock().unwrap();
        requests.push(request);
        if requests.len() == 1 {
            return (StatusCode::BAD_GATEWAY, Json(json!({})));
        }
        let registered = json!({
            "node_id": NodeId::random(), "node_key": "key", "poll_interval_s": 30,
            "project_id": ProjectId::random(), "signing_keys": [],
        });
        (StatusCode::OK, Json(registered))
    }

    #[tokio::test]
    async fn every_try_says_the_same_secret_until_the_node_is_in() {
        let requests = Requests::default();
        let app = Router::new().route("/api/v1/projects/edge/nodes/register", post(answer));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Url::parse(&format!("http://{}/", listener.local_addr().unwrap())).unwrap();
        let served = axum::serve(listener, app.with_state(Arc::clone(&requests)));
        tokio::spawn(served.into_future());
        let directory = tempfile::tempdir().unwrap();
        let options = AgentOptions {
            server: server.clone(),
            project: "edge".to_owned(),
            token: Some(Secret::new("token")),
            name: "edge-1".to_owned(),
            labels: BTreeMap::new(),
            version: String::new(),
            directory: directory.path().into(),
            heartbeat_interval: Duration::from_secs(1),
            long_poll: Duration::from_secs(1),
            traffic_hook: None,
        };
        let client = NodeClient::new(server).unwrap();
        let file = StateFile::in_directory(directory.path());

        let lost = register(&client, &options, &file).await.err().map(|error| error.kind());
        assert_eq!(lost, Some(Kind::Unavailable));
        let draft = directory.path().join("registration.json");
        let mode = std::fs::metadata(&draft).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let state = register(&client, &options, &file).await.unwrap();
        assert!(file.load().unwrap().is_some_and(|kept| kept == state));
        let secrets: Vec<_> =
            requests.lock().unwrap().iter().map(|request| request["registration_secret"].clone()).collect();
        assert_eq!(secrets[0].as_str().unwrap().len(), 43);
        assert_eq!(secrets[0], secrets[1]);
        forget(directory.path()).unwrap();
        forget(directory.path()).unwrap();
        assert!(!draft.exists());
        assert_ne!(secret_in(directory.path()).unwrap().expose(), secrets[0], "another node, another secret");

        std::fs::write(&draft, "{").unwrap();
        assert!(secret_in(directory.path()).unwrap_err().hint().is_some());
    }
}
