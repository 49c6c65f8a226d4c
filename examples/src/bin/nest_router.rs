//! The HTTP API nested in another service, everything in memory. A complete control plane also runs
//! `Fleet::run` and a `zentinel_store::Runner`, as `zentinel_server::compose` shows.
//!
//! Run it: `cargo run -p zentinel-examples --bin nest_router`, then
//! `curl http://127.0.0.1:3000/control-plane/health`

use axum::Router;
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use url::Url;
use zentinel_compiler::validate::InProcessValidator;
use zentinel_core::port::{Clock, Signer, Store, SystemClock};
use zentinel_core::presign::UrlSigner;
use zentinel_http::{HttpOptions, Services, router};
use zentinel_rollout::engine::{Engine, EngineOptions};
use zentinel_rollout::fleet::{Fleet, FleetOptions};
use zentinel_rollout::strategy::Strategies;
use zentinel_store::{MemorySigner, MemoryStore, ObjectBlobStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let base = Url::parse("http://127.0.0.1:3000/control-plane")?;
    let records = Arc::new(MemoryStore::new());
    let store: Arc<dyn Store> = records.clone();
    let signer: Arc<dyn Signer> = Arc::new(MemorySigner::generate());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let urls = UrlSigner::new([7; 32]); // draw this from a secret in production
    let engine = Engine::new(
        store.clone(),
        signer.clone(),
        clock.clone(),
        Strategies::standard(),
        EngineOptions::default(),
    );
    let services = Services {
        blobs: Arc::new(ObjectBlobStore::memory(base.clone(), urls.clone())),
        validator: Arc::new(InProcessValidator::default()),
        fleet: Fleet::load(store.clone(), clock.clone(), FleetOptions::default()).await?,
        engine: Arc::new(engine),
        scheduler: records,
        url_signer: Some(urls),
        options: HttpOptions::new(base),
        store,
        signer,
        clock,
    };
    let service = Router::new()
        .route("/", get(|| async { "another service" }))
        .nest("/control-plane", router(Arc::new(services)));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}/control-plane/api/openapi.json", listener.local_addr()?);
    axum::serve(listener, service.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
