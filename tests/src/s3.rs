//! A real S3-compatible server on loopback that verifies signatures, and that can go away.

use hyper_util::rt::{TokioExecutor, TokioIo};
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use std::net::SocketAddr;
use std::path::Path;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The access key of every [`S3Server`].
pub const ACCESS_KEY: &str = "test-access";
/// Its secret.
pub const SECRET_KEY: &str = "test-secret";
/// The bucket.
pub const BUCKET: &str = "bundles";

/// A server with one empty bucket, over a temporary directory.
#[derive(Debug)]
pub struct S3Server {
    directory: TempDir,
    address: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl S3Server {
    /// Starts a server on a free port.
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        std::fs::create_dir_all(directory.path().join(BUCKET)).expect("bucket");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("local address");
        let task = Some(serve(listener, directory.path()));
        Self { directory, address, task }
    }

    /// Its base URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops answering; what is stored stays.
    pub async fn go_away(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            drop(task.await);
        }
    }

    /// Answers again, on the same port.
    pub async fn come_back(&mut self) {
        let listener = crate::wait_for("the S3 port", std::time::Duration::from_secs(10), || async {
            TcpListener::bind(self.address).await.ok()
        })
        .await;
        self.task = Some(serve(listener, self.directory.path()));
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn serve(listener: TcpListener, root: &Path) -> JoinHandle<()> {
    let mut builder = S3ServiceBuilder::new(s3s_fs::FileSystem::new(root).expect("file system"));
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    let service = builder.build();
    tokio::spawn(async move {
        // Dropping the set with the task closes the connections too.
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            connections.spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                drop(server.serve_connection(TokioIo::new(socket), service).await);
            });
        }
    })
}
