//! One small GET to a neighbour on this machine: bounded in time and size, follows nothing.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::{TcpStream, ToSocketAddrs};

/// Gets a path; the answer's status and body, or why there is none.
pub(super) async fn get(
    address: impl ToSocketAddrs,
    host: &str,
    path: &str,
    time_limit: Duration,
    size_limit: usize,
) -> Result<(StatusCode, Bytes), String> {
    let answer = exchange(address, host, path, size_limit);
    tokio::time::timeout(time_limit, answer)
        .await
        .map_err(|_| format!("no answer within {} ms", time_limit.as_millis()))?
}

async fn exchange(
    address: impl ToSocketAddrs,
    host: &str,
    path: &str,
    size_limit: usize,
) -> Result<(StatusCode, Bytes), String> {
    let stream = TcpStream::connect(address).await.map_err(|error| format!("no connection: {error}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| error.to_string())?;
    let request = Request::get(path)
        .header(hyper::header::HOST, host)
        .header(hyper::header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let read = async {
        let answer = sender.send_request(request).await.map_err(|error| format!("no answer: {error}"))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), size_limit).collect().await;
        let body = body.map_err(|error| format!("the answer broke off: {error}"))?;
        Ok((status, body.to_bytes()))
    };
    // The connection moves the bytes; it ends after the answer, or with this call.
    tokio::pin!(read, connection);
    tokio::select! {
        biased;
        answer = &mut read => answer,
        ended = &mut connection => match ended {
            Ok(()) => read.await,
            Err(error) => Err(format!("the connection broke: {error}")),
        },
    }
}
