//! Databases on a real PostgreSQL server, one per test, behind a door that can be shut.

use sqlx::{Connection as _, Executor as _, PgConnection};
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

/// A database of its own for one test.
#[derive(Debug)]
pub struct Database {
    server: Url,
    name: String,
    door: SocketAddr,
    task: Option<JoinHandle<()>>,
}

impl Database {
    /// Creates an empty database on the server that `ZENTINEL_TEST_DATABASE_URL` names.
    ///
    /// # Panics
    /// Without that variable: a missing server is a failure.
    pub async fn create() -> Self {
        let server = std::env::var("ZENTINEL_TEST_DATABASE_URL")
            .expect("ZENTINEL_TEST_DATABASE_URL is not set: run the tests with `.ci/test`");
        let server = Url::parse(&server).expect("a URL");
        let name = format!("e2e_{}", uuid::Uuid::new_v4().simple());
        run(&server, format!("CREATE DATABASE {name}")).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let door = listener.local_addr().expect("local address");
        let task = Some(forward(listener, &server));
        Self { server, name, door, task }
    }

    /// The URL to hand to a control plane; it leads through the door.
    #[must_use]
    pub fn url(&self) -> String {
        let mut url = self.server.clone();
        url.set_host(Some("127.0.0.1")).expect("host");
        url.set_port(Some(self.door.port())).expect("port");
        url.set_path(&self.name);
        url.to_string()
    }

    /// Cuts every connection and refuses new ones.
    pub async fn go_away(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            drop(task.await);
        }
    }

    /// Lets connections through again.
    pub async fn come_back(&mut self) {
        let listener = crate::wait_for("the database port", std::time::Duration::from_secs(10), || async {
            TcpListener::bind(self.door).await.ok()
        })
        .await;
        self.task = Some(forward(listener, &self.server));
    }

    /// Removes the database.
    pub async fn destroy(mut self) {
        self.go_away().await;
        run(&self.server, format!("DROP DATABASE {} WITH (FORCE)", self.name)).await;
    }
}

async fn run(server: &Url, statement: String) {
    let mut connection = PgConnection::connect(server.as_str()).await.expect("the PostgreSQL server answers");
    connection.execute(sqlx::AssertSqlSafe(statement)).await.expect("statement");
}

fn forward(listener: TcpListener, server: &Url) -> JoinHandle<()> {
    let target = format!("{}:{}", server.host_str().expect("host"), server.port().unwrap_or(5432));
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((mut inward, _)) = listener.accept().await {
            let target = target.clone();
            connections.spawn(async move {
                if let Ok(mut outward) = TcpStream::connect(target).await {
                    drop(tokio::io::copy_bidirectional(&mut inward, &mut outward).await);
                }
            });
        }
    })
}
