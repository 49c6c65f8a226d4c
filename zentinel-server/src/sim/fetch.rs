//! Fetching archives and checking them.

use super::engine::Engine;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OnceCell, Semaphore};
use url::Url;
use zentinel_core::Sha256Digest;
use zentinel_http::client::NodeClient;

/// Downloads at once.
const AT_ONCE: usize = 32;

/// An archive that a node wants.
#[derive(Clone, Debug)]
pub(super) struct Fetch {
    pub(super) node: u32,
    /// The statement that named it.
    pub(super) sequence: u64,
    pub(super) url: Url,
    pub(super) size: u64,
    pub(super) sha256: Sha256Digest,
}

/// Whether the archive is what was stated, or that it could not be had.
type Outcome = Result<bool, ()>;

/// Fetches for all nodes until dropped. With `shared`, each archive is fetched once.
pub(super) async fn run(
    engine: Rc<RefCell<Engine>>,
    client: NodeClient,
    mut wanted: UnboundedReceiver<Fetch>,
    shared: bool,
) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut known: HashMap<Sha256Digest, Rc<OnceCell<()>>> = HashMap::new();
    while let Some(fetch) = wanted.recv().await {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let cell = if shared { Rc::clone(known.entry(fetch.sha256).or_default()) } else { Rc::default() };
        let (engine, client) = (Rc::clone(&engine), client.clone());
        tokio::task::spawn_local(async move {
            let outcome = once(&client, &fetch, &cell).await;
            engine.borrow_mut().fetched(&fetch, outcome);
            drop(permit);
        });
    }
}

async fn once(client: &NodeClient, fetch: &Fetch, genuine: &OnceCell<()>) -> Outcome {
    let get = || async {
        match get(client, fetch).await {
            Ok(true) => Ok(()),
            other => Err(other),
        }
    };
    genuine.get_or_try_init(get).await.map_or_else(|outcome| outcome, |()| Ok(true))
}

async fn get(client: &NodeClient, fetch: &Fetch) -> Outcome {
    let archive = client.download(&fetch.url, 0, fetch.size).await.map_err(|error| {
        tracing::debug!(%error, "archive not fetched");
    })?;
    Ok(archive.len() as u64 == fetch.size && Sha256Digest::of(&archive) == fetch.sha256)
}
