//! Registering nodes that are not known yet.

use super::codec::{self, Writer};
use super::identity::{Common, Identities, Identity};
use bytes::{Buf as _, BytesMut};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use zentinel_core::{Error, Kind, Result, Secret};
use zentinel_http::client::Registered;

/// How long a registration may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How often a registration that the server had no time for is tried again.
const TRIES: u32 = 5;

/// How to register.
#[derive(Clone, Debug)]
pub(super) struct Enrolment {
    pub(super) address: SocketAddr,
    pub(super) writer: Writer,
    pub(super) project: String,
    pub(super) token: Secret,
    /// Names are this, a dash and a number.
    pub(super) prefix: String,
    /// Connections to register over.
    pub(super) connections: usize,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Enrolled {
    pub(super) nodes: usize,
    pub(super) took: Duration,
}

struct Shared {
    enrolment: Enrolment,
    identities: RefCell<Identities>,
    next: Cell<usize>,
    until: usize,
    seen: Box<dyn Fn(usize)>,
}

/// Registers nodes until there are `count`; must run in a `LocalSet`. `seen` hears how many there
/// are. Whoever is registered is kept, also when it ends with an error.
pub(super) async fn register(
    enrolment: Enrolment,
    identities: Identities,
    count: usize,
    seen: impl Fn(usize) + 'static,
) -> (Identities, Result<Enrolled>) {
    let start = Instant::now();
    let known = identities.nodes.len();
    let workers = enrolment.connections.clamp(1, count.saturating_sub(known).max(1));
    let shared = Rc::new(Shared {
        enrolment,
        identities: RefCell::new(identities),
        next: Cell::new(known),
        until: count,
        seen: Box::new(seen),
    });
    let mut tasks = JoinSet::new();
    for _ in 0..workers {
        let shared = Rc::clone(&shared);
        tasks.spawn_local(async move { work(&shared).await });
    }
    let mut outcome = Ok(());
    while let Some(ended) = tasks.join_next().await {
        let ended = ended.unwrap_or_else(|error| Err(Error::internal(error.to_string())));
        if ended.is_err() && outcome.is_ok() {
            outcome = ended;
            shared.next.set(usize::MAX);
        }
    }
    let mut identities = shared.identities.take();
    let outcome = identities.save().and(outcome);
    let nodes = identities.nodes.len() - known;
    (identities, outcome.map(|()| Enrolled { nodes, took: start.elapsed() }))
}

async fn work(shared: &Shared) -> Result<()> {
    let mut connection = None;
    let (mut request, mut buffer) = (Vec::new(), BytesMut::new());
    loop {
        let index = shared.next.get();
        if index >= shared.until {
            return Ok(());
        }
        shared.next.set(index + 1);
        let name = format!("{}-{:06}", shared.enrolment.prefix, index + 1);
        let Enrolment { writer, project, token, .. } = &shared.enrolment;
        request.clear();
        writer.register(&mut request, project, token.expose(), &body(&name, index)?);
        let registered = enrol(shared, &mut connection, &request, &mut buffer).await?;
        let common = Common { project_id: registered.project_id, signing_keys: registered.signing_keys };
        let node_key = registered.node_key.expose().to_owned();
        let mut identities = shared.identities.borrow_mut();
        identities.add(common, Identity { node_id: registered.node_id, node_key, name })?;
        (shared.seen)(identities.nodes.len());
    }
}

/// What a node says of itself; regions and zones make selectors worth trying.
fn body(name: &str, index: usize) -> Result<Vec<u8>> {
    let region = ["eu", "us", "ap"][index % 3];
    let zone = ["a", "b", "c", "d"][index / 3 % 4];
    let body = json!({
        "name": name,
        "hostname": name,
        "version": "2025.01-sim",
        "labels": {"simulator": "true", "env": "dev", "region": region, "zone": format!("{region}-{zone}")},
        "capabilities": ["config_v1", "metrics_v1"],
    });
    Ok(serde_json::to_vec(&body)?)
}

async fn enrol(
    shared: &Shared,
    connection: &mut Option<TcpStream>,
    request: &[u8],
    buffer: &mut BytesMut,
) -> Result<Registered> {
    let mut tries = 0;
    loop {
        let asked = tokio::time::timeout(TIMEOUT, ask(shared, connection, request, buffer)).await;
        let error = match asked.unwrap_or_else(|_| Err(Error::new(Kind::Timeout, "no answer in time"))) {
            Ok((201, _, body)) => return Ok(serde_json::from_slice(&body)?),
            Ok((status, wait, body)) if status == 503 && tries < TRIES => {
                drop(body);
                tokio::time::sleep(Duration::from_secs(wait.unwrap_or(1).into())).await;
                tries += 1;
                continue;
            }
            Ok((status, _, body)) => refusal(status, &body),
            Err(error) => error,
        };
        *connection = None;
        return Err(error);
    }
}

fn refusal(status: u16, body: &[u8]) -> Error {
    let text = String::from_utf8_lossy(body.get(..body.len().min(300)).unwrap_or_default()).into_owned();
    let (kind, hint) = match status {
        401 | 403 => (
            Kind::Unauthenticated,
            "Name a registration token that is valid and has uses left: `zentinel-server init` prints one, \
             `POST /api/v1/projects/{slug}/registration-tokens` with \"max_uses\": null makes another.",
        ),
        404 => (Kind::NotFound, "Name the project by its slug."),
        429 => (
            Kind::RateLimited,
            "The server admits few registrations from one address. Start it with \
             `--set http.rate_limits.registration=1000000`.",
        ),
        422 => (
            Kind::Invalid,
            "If the names are taken, choose others with --name-prefix, or name the --identities file of the \
             run that registered them.",
        ),
        _ => (Kind::Unavailable, "See the server's log."),
    };
    Error::new(kind, format!("a registration was refused with status {status}: {text}")).with_hint(hint)
}

type Answer = (u16, Option<u32>, Vec<u8>);

async fn ask(
    shared: &Shared,
    connection: &mut Option<TcpStream>,
    request: &[u8],
    buffer: &mut BytesMut,
) -> Result<Answer> {
    let address = shared.enrolment.address;
    let failed = |error: std::io::Error| Error::unavailable(format!("{address}: {error}"));
    let stream = match connection {
        Some(stream) => stream,
        None => {
            let stream = TcpStream::connect(address).await.map_err(failed)?;
            stream.set_nodelay(true).map_err(failed)?;
            buffer.clear();
            connection.insert(stream)
        }
    };
    stream.write_all(request).await.map_err(failed)?;
    loop {
        match codec::head(buffer).map_err(|text| Error::internal(format!("{address}: {text}")))? {
            Some(head) if buffer.len() >= head.len() => {
                let body = buffer.get(head.head..head.len()).unwrap_or_default().to_vec();
                buffer.advance(head.len());
                if head.is_interim() {
                    continue;
                }
                if head.close {
                    *connection = None;
                }
                return Ok((head.status, head.retry_after, body));
            }
            _ => {
                if stream.read_buf(buffer).await.map_err(failed)? == 0 {
                    return Err(Error::unavailable(format!("{address}: the connection ended")));
                }
            }
        }
    }
}
