//! Accepting connections: with a limit on how long one may be silent, and an orderly end.

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::Service as _;
use zentinel_http::Pressure;

/// How long a connection may take to send a request's head, or stay idle between two. Longer than
/// nodes pause between heartbeats, so that theirs stay open.
const SILENCE: Duration = Duration::from_secs(75);
/// Most connections at once; more wait to be accepted.
const MOST_CONNECTIONS: usize = 20_000;
/// How long connections without a request may linger once the server drains.
const LINGER: Duration = Duration::from_millis(500);

/// Serves until `draining` is cancelled, then finishes what is in flight. Meanwhile it measures how
/// far it is behind.
pub(super) async fn serve(
    listener: TcpListener,
    router: Router,
    pressure: Pressure,
    draining: CancellationToken,
) {
    let until = draining.clone();
    tokio::spawn(async move { until.run_until_cancelled(pressure.watch()).await });
    let connections = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let in_flight = Arc::new(AtomicUsize::new(0));
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(SILENCE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(SILENCE);
    while let Some((stream, peer, place)) = accept(&listener, &places, &draining).await {
        let (router, in_flight) = (router.clone(), Arc::clone(&in_flight));
        let service = service_fn(move |request: Request<Incoming>| {
            let (mut router, guard) = (router.clone(), InFlight::begin(&in_flight));
            async move {
                let mut request = request.map(Body::new);
                request.extensions_mut().insert(ConnectInfo(peer));
                let response = router.call(request).await?;
                Ok::<_, Infallible>(response.map(|body| Sending { body, _until_sent: guard }))
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%peer, %error, "connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    tokio::select! {
        () = connections.shutdown() => {}
        () = quiet(&in_flight) => {}
    }
}

type Place = tokio::sync::OwnedSemaphorePermit;

/// The next connection; `None` once the server drains.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
    draining: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, Place)> {
    loop {
        let next = async {
            let place = Arc::clone(places).acquire_owned().await.ok()?;
            match listener.accept().await {
                Ok((stream, peer)) => Some((stream, peer, place)),
                Err(error) => {
                    // Out of file descriptors, most likely: others must close first.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    None
                }
            }
        };
        match draining.run_until_cancelled(next).await {
            None => return None,
            Some(Some((stream, peer, place))) => {
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%peer, %error, "no delay not set");
                }
                return Some((stream, peer, place));
            }
            Some(None) => {}
        }
    }
}

/// The body of an answer, counted as in flight until it is sent.
#[derive(Debug)]
struct Sending {
    body: Body,
    _until_sent: InFlight,
}

impl hyper::body::Body for Sending {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Counts a request from its head to the last byte of its answer.
#[derive(Debug)]
struct InFlight(Arc<AtomicUsize>);

impl InFlight {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns when no request has been in flight for a moment: who has not sent one by now, will not.
async fn quiet(in_flight: &AtomicUsize) {
    let mut since = tokio::time::Instant::now();
    while since.elapsed() < LINGER {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if in_flight.load(Ordering::Relaxed) > 0 {
            since = tokio::time::Instant::now();
        }
    }
}
