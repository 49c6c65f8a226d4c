//! PostgreSQL: lost connections, several replicas.

use crate::database::Database;
use futures_util::StreamExt as _;
use sqlx::{Executor as _, PgConnection};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use uuid::Uuid;
use zentinel_core::entity::{Event, Organisation};
use zentinel_core::id::TypedId as _;
use zentinel_core::log::LogKind;
use zentinel_core::port::{Clock as _, Notice, NoticeStream, Store as _, SystemClock};
use zentinel_core::{Changes, Kind, RecordKind, Scope};
use zentinel_store::postgres::PostgresStore;

const PATIENCE: Duration = Duration::from_secs(20);

fn organisation(name: &str) -> Organisation {
    Organisation::new(name, SystemClock.now()).unwrap()
}

fn creation(organisation: &Organisation) -> Changes {
    let event = Event::new(&Scope::Instance, "organisation.created", 1.into(), SystemClock.now());
    Changes::new().insert(organisation).unwrap().event(event)
}

/// The process id of the store's connection that waits for a lock.
async fn blocked(connection: &mut PgConnection) -> i32 {
    let sql = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() \
        AND application_name = 'zentinel' AND wait_event_type = 'Lock'";
    let start = Instant::now();
    loop {
        if let Some(pid) = sqlx::query_scalar(sql).fetch_optional(&mut *connection).await.unwrap() {
            return pid;
        }
        assert!(start.elapsed() < PATIENCE, "the commit never waited");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A connection that is killed within a commit leaves nothing behind, and the store goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_killed_within_a_commit_leaves_nothing() {
    let database = Database::create().await;
    let store = PostgresStore::connect(&database.url, 2).await.unwrap();
    let mut blocker = database.connect().await;
    // The commit has written its record when it waits for the sequence of its event.
    blocker.execute("BEGIN; SELECT * FROM log_sequences FOR UPDATE").await.unwrap();
    let lost = organisation("Lost");
    let commit = tokio::spawn({
        let (store, changes) = (store.clone(), creation(&lost));
        async move { store.commit(changes).await }
    });
    let mut killer = database.connect().await;
    let pid = blocked(&mut killer).await;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&mut killer).await.unwrap();
    assert_eq!(commit.await.unwrap().unwrap_err().kind(), Kind::Unavailable);
    blocker.execute("ROLLBACK").await.unwrap();

    let found = store.get(&Scope::Instance, RecordKind::Organisation, lost.id.uuid()).await.unwrap();
    assert!(found.is_none(), "half a commit is visible");
    assert_eq!(store.count_log(&Scope::Instance, LogKind::Event, None).await.unwrap(), 0);
    let receipt = store.commit(creation(&organisation("Next"))).await.unwrap();
    assert_eq!(receipt.last_event_seq, Some(1), "the failed commit took a number");
}

async fn next(notices: &mut NoticeStream) -> Notice {
    let notice = tokio::time::timeout(PATIENCE, notices.next()).await;
    notice.expect("no notice in time").expect("the stream ended")
}

/// A replica hears of the commits of another one, however many records they have.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_hear_of_each_other() {
    let database = Database::create().await;
    let here = PostgresStore::connect(&database.url, 2).await.unwrap();
    let there = PostgresStore::connect(&database.url, 2).await.unwrap();
    let (mut own, mut others) = (here.watch(), there.watch());
    let mut changes = Changes::new();
    let mut ids = BTreeSet::new();
    for number in 0..1_000 {
        let organisation = organisation(&format!("Example {number}"));
        ids.insert(organisation.id.uuid());
        changes = changes.insert(&organisation).unwrap();
    }
    here.commit(changes).await.unwrap();
    for notices in [&mut own, &mut others] {
        let mut heard: BTreeSet<Uuid> = BTreeSet::new();
        while heard.len() < ids.len() {
            match next(notices).await {
                Notice::Records { kind: RecordKind::Organisation, project_id: None, ids, .. } => {
                    heard.extend(ids)
                }
                notice => panic!("unexpected {notice:?}"),
            }
        }
        assert!(heard == ids);
    }
}

/// A proxy in front of the server, which can be cut off.
struct Proxy {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// Forwards from `at` to the server of `url`.
    async fn start(url: &url::Url, at: SocketAddr) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432));
        let task = tokio::spawn(async move {
            // Dropping the set cuts every connection.
            let mut connections = JoinSet::new();
            while let Ok((mut client, _)) = listener.accept().await {
                let server = server.clone();
                connections.spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    tokio::io::copy_bidirectional(&mut client, &mut server).await.ok();
                });
            }
        });
        Self { address, task }
    }

    async fn cut(self) -> SocketAddr {
        self.task.abort();
        self.task.await.ok();
        self.address
    }
}

/// While the database is away calls fail soon and say so; afterwards they work again without any
/// help, and watchers are told that they may have missed something.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_survives_an_outage() {
    let database = Database::create().await;
    let server: url::Url = database.url.parse().unwrap();
    let proxy = Proxy::start(&server, "127.0.0.1:0".parse().unwrap()).await;
    let mut url = server.clone();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(proxy.address.port())).unwrap();
    let store = PostgresStore::connect(url.as_str(), 2).await.unwrap();
    let mut notices = store.watch();
    store.ping().await.unwrap();

    let address = proxy.cut().await;
    let start = Instant::now();
    let failed = store.commit(creation(&organisation("Away"))).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Unavailable, "{failed:?}");
    assert_eq!(store.ping().await.unwrap_err().kind(), Kind::Unavailable);
    assert!(start.elapsed() < Duration::from_secs(13), "it took {:?}", start.elapsed());
    let refused = PostgresStore::connect(url.as_str(), 2).await.unwrap_err();
    assert_eq!(refused.kind(), Kind::Unavailable, "{refused:?}");

    let proxy = Proxy::start(&server, address).await;
    let back = organisation("Back");
    store.commit(creation(&back)).await.unwrap();
    while next(&mut notices).await != Notice::Lagged {}
    // The listener is back when it said so.
    let heard = organisation("Heard");
    loop {
        let changes = Changes::new().insert(&heard).unwrap();
        match store.commit(changes).await {
            Ok(_) => break,
            Err(error) => assert_eq!(error.kind(), Kind::Unavailable, "{error:?}"),
        }
    }
    loop {
        match next(&mut notices).await {
            Notice::Records { ids, .. } if ids == [heard.id.uuid()] => break,
            Notice::Lagged | Notice::Records { .. } | Notice::Events => {}
            notice => panic!("unexpected {notice:?}"),
        }
    }
    let found = store.count_log(&Scope::Instance, LogKind::Event, None).await.unwrap();
    assert_eq!(found, 1, "the commit during the outage must not show");
    proxy.cut().await;
}
