//! A door between nodes and their control plane that can change what comes through, or be shut.

use futures_util::stream::{self, StreamExt as _};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// An answer on its way.
#[derive(Debug)]
pub struct Passing {
    /// The path that was asked for.
    pub path: String,
    /// The answer's status.
    pub status: StatusCode,
    /// The answer's body.
    pub body: Bytes,
    /// Breaks the connection after so many bytes.
    pub cut_at: Option<usize>,
}

impl Passing {
    /// Whether this is an archive.
    #[must_use]
    pub fn is_download(&self) -> bool {
        self.path.starts_with("/blobs/")
    }

    /// Whether this is the answer to a poll that offers a bundle.
    #[must_use]
    pub fn is_offer(&self) -> bool {
        self.path.ends_with("/bundles/latest")
            && self.status == StatusCode::OK
            && self.body.windows(11).any(|bytes| bytes == b"\"statement\"")
    }
}

type Change = Box<dyn FnMut(&mut Passing) + Send>;

/// The door.
pub struct Meddler {
    /// Where nodes knock.
    pub url: String,
    address: SocketAddr,
    behind: SocketAddr,
    change: Arc<Mutex<Option<Change>>>,
    task: Option<JoinHandle<()>>,
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Meddler").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Meddler {
    /// Opens a door to a server that may start later.
    pub async fn open(behind: SocketAddr) -> Self {
        let listener =
            TcpListener::bind(("127.0.0.1", crate::plane::free_port())).await.expect("a free port");
        let address = listener.local_addr().expect("local address");
        let change: Arc<Mutex<Option<Change>>> = Arc::default();
        let task = Some(serve(listener, behind, Arc::clone(&change)));
        Self { url: format!("http://{address}"), address, behind, change, task }
    }

    /// Changes every answer to nodes from now on.
    ///
    /// # Panics
    /// Never in practice.
    pub fn meddle(&self, change: impl FnMut(&mut Passing) + Send + 'static) {
        *self.change.lock().expect("not poisoned") = Some(Box::new(change));
    }

    /// Lets answers through as they are.
    ///
    /// # Panics
    /// Never in practice.
    pub fn behave(&self) {
        *self.change.lock().expect("not poisoned") = None;
    }

    /// Cuts every connection and refuses new ones.
    pub async fn shut(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            drop(task.await);
        }
    }

    /// Lets connections through again.
    pub async fn reopen(&mut self) {
        let listener = crate::wait_for("the door's port", Duration::from_secs(10), || async {
            TcpListener::bind(self.address).await.ok()
        })
        .await;
        self.task = Some(serve(listener, self.behind, Arc::clone(&self.change)));
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn serve(listener: TcpListener, behind: SocketAddr, change: Arc<Mutex<Option<Change>>>) -> JoinHandle<()> {
    let client: Client<HttpConnector, Incoming> =
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http();
    tokio::spawn(async move {
        // Dropping the set with the task closes the connections too.
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (client, change) = (client.clone(), Arc::clone(&change));
            connections.spawn(async move {
                let service = hyper::service::service_fn(move |request| {
                    let (client, change) = (client.clone(), Arc::clone(&change));
                    async move { Ok::<_, Infallible>(pass(&client, behind, &change, request).await) }
                });
                let server = hyper::server::conn::http1::Builder::new();
                drop(server.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    })
}

async fn pass(
    client: &Client<HttpConnector, Incoming>,
    behind: SocketAddr,
    change: &Mutex<Option<Change>>,
    mut request: Request<Incoming>,
) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    *request.uri_mut() = format!("http://{behind}{target}").parse().expect("a URI");
    request.headers_mut().remove(header::CONNECTION);
    let collected = async {
        let (parts, body) = client.request(request).await.ok()?.into_parts();
        Some((parts, body.collect().await.ok()?.to_bytes()))
    };
    let Some((mut parts, body)) = collected.await else {
        let mut answer = Response::new(Full::default().map_err(|never| match never {}).boxed_unsync());
        *answer.status_mut() = StatusCode::BAD_GATEWAY;
        return answer;
    };
    let mut passing = Passing { path, status: parts.status, body, cut_at: None };
    if let Some(change) = &mut *change.lock().expect("not poisoned") {
        change(&mut passing);
    }
    parts.status = passing.status;
    parts.headers.remove(header::TRANSFER_ENCODING);
    parts.headers.insert(header::CONTENT_LENGTH, passing.body.len().into());
    let body = match passing.cut_at {
        None => Full::new(passing.body).map_err(|never| match never {}).boxed_unsync(),
        Some(length) => {
            let half = passing.body.slice(..length);
            let broken = async {
                // What came before is on its way by then.
                tokio::time::sleep(Duration::from_millis(200)).await;
                Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe))
            };
            let sent = stream::once(std::future::ready(Ok(Frame::data(half))));
            StreamBody::new(sent.chain(stream::once(broken))).boxed_unsync()
        }
    };
    Response::from_parts(parts, body)
}
