//! An upstream, and a stream of requests that counts every answer.

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server behind proxies that answers everything alike.
#[derive(Debug)]
pub struct Upstream {
    /// Where it listens.
    pub address: SocketAddr,
    task: JoinHandle<()>,
}

impl Upstream {
    /// Starts one that answers `200 up`, on a free port.
    pub async fn start() -> Self {
        Self::answering(StatusCode::OK, "up").await
    }

    /// Starts one that answers 500.
    pub async fn broken() -> Self {
        Self::answering(StatusCode::INTERNAL_SERVER_ERROR, "broken").await
    }

    async fn answering(status: StatusCode, text: &'static str) -> Self {
        let listener =
            TcpListener::bind(("127.0.0.1", crate::plane::free_port())).await.expect("a free port");
        let address = listener.local_addr().expect("local address");
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let answer = |_| async move {
                        let mut answer = hyper::Response::new(Full::new(Bytes::from_static(text.as_bytes())));
                        *answer.status_mut() = status;
                        Ok::<_, Infallible>(answer)
                    };
                    let service = hyper::service::service_fn(answer);
                    let server = hyper::server::conn::http1::Builder::new();
                    drop(server.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Self { address, task }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of the requests of a stream.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// Requests sent.
    pub sent: u64,
    /// Those that were not answered with 200, and why.
    pub failed: Vec<Failure>,
}

/// A request that was not answered with 200.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When, since the stream began.
    pub at: Duration,
    /// What came instead.
    pub what: String,
}

impl Count {
    /// From the first failure to the last, when there are any.
    #[must_use]
    pub fn gap(&self) -> Duration {
        match (self.failed.first(), self.failed.last()) {
            (Some(first), Some(last)) => last.at.saturating_sub(first.at),
            _ => Duration::ZERO,
        }
    }
}

/// A constant stream of requests, until it is stopped: one after another on a connection that is
/// kept, and one after another on a new connection each.
#[derive(Debug)]
pub struct Traffic {
    count: Arc<Mutex<Count>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Begins to send to a URL.
    #[must_use]
    pub fn start(url: &str) -> Self {
        let (count, stop) = (Arc::<Mutex<Count>>::default(), Arc::new(AtomicBool::new(false)));
        let begun = Instant::now();
        let tasks = [1, 0].map(|kept| {
            let (count, stop, url) = (Arc::clone(&count), Arc::clone(&stop), url.to_owned());
            let client = reqwest::Client::builder()
                .pool_max_idle_per_host(kept)
                .timeout(Duration::from_secs(20))
                .build()
                .expect("a client");
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let asked = async { client.get(&url).send().await?.error_for_status()?.text().await };
                    let answer = asked.await;
                    let failed = answer
                        .err()
                        .map(|error| Failure { at: begun.elapsed(), what: Chain(&error).to_string() });
                    {
                        let mut count = count.lock().expect("not poisoned");
                        count.sent += 1;
                        count.failed.extend(failed);
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            })
        });
        Self { count, stop, tasks: tasks.into() }
    }

    /// What has become of the requests so far.
    ///
    /// # Panics
    /// Never in practice.
    #[must_use]
    pub fn so_far(&self) -> Count {
        self.count.lock().expect("not poisoned").clone()
    }

    /// Forgets what has been counted so far, and says what it was.
    ///
    /// # Panics
    /// Never in practice.
    pub fn take(&self) -> Count {
        std::mem::take(&mut *self.count.lock().expect("not poisoned"))
    }

    /// Ends the stream; the last requests are waited for.
    pub async fn stop(self) -> Count {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("the stream lasts");
        }
        self.count.lock().expect("not poisoned").clone()
    }

    /// Ends the stream and demands that every request was answered with 200, and that there were some.
    pub async fn stop_unharmed(self) -> u64 {
        let count = self.stop().await;
        assert!(count.failed.is_empty(), "of {} requests failed: {:?}", count.sent, count.failed);
        assert!(count.sent > 0, "the stream flowed");
        count.sent
    }
}

struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        self.0.source().map_or(Ok(()), |source| write!(f, ": {}", Chain(source)))
    }
}
