use super::super::stats::Class;
use super::*;
use crate::sim::behaviour::Behaviour;
use crate::sim::codec::Credential;
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const NOTHING: &str = "HTTP/1.1 200 OK\r\netag: \"0\"\r\nx-zentinel-poll-after: 1\r\ncontent-length: 35\r\n\r\n\
    {\"no_update\":true,\"poll_after_s\":1}";
const BUSY: &str = "HTTP/1.1 503 Busy\r\nretry-after: 1\r\ncontent-length: 2\r\n\r\n{}";

/// What the stand-in server saw.
#[derive(Debug, Default)]
struct Seen {
    requests: Cell<usize>,
    /// Most requests that waited on one connection.
    deepest: Cell<usize>,
    stalls: Cell<Duration>,
    /// How many requests to refuse first.
    refuses: Cell<usize>,
    mute: Cell<bool>,
}

async fn serve(listener: TcpListener, seen: Rc<Seen>) {
    while let Ok((stream, _)) = listener.accept().await {
        spawn_local(answer(stream, Rc::clone(&seen)));
    }
}

async fn answer(mut stream: TcpStream, seen: Rc<Seen>) {
    let mut buffer = Vec::with_capacity(64 << 10);
    while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
        tokio::time::sleep(seen.stalls.get()).await;
        let text = String::from_utf8_lossy(&buffer).into_owned();
        // Each request line ends like this; what follows the last may not be whole yet.
        let requests: Vec<_> = text.split(" HTTP/1.1\r\n").collect();
        buffer.clear();
        buffer.extend_from_slice(requests[requests.len() - 1].as_bytes());
        seen.deepest.set(seen.deepest.get().max(requests.len() - 1));
        for request in &requests[..requests.len() - 1] {
            seen.requests.set(seen.requests.get() + 1);
            if seen.mute.get() {
                continue;
            }
            let refuses = seen.refuses.get();
            seen.refuses.set(refuses.saturating_sub(1));
            let text = match refuses {
                0 if request.ends_with("/latest") => NOTHING,
                0 => OK,
                _ => BUSY,
            };
            stream.write_all(text.as_bytes()).await.unwrap();
        }
    }
}

fn plan(pace: Pace, depth: usize) -> Plan {
    let habits = Habits { apply_ms: 1, slow_ms: 1, crash_ms: 1, misbehave_from: 1, flapping: (1_000, 1_000) };
    let timeout = Duration::from_secs(20);
    Plan { pace, habits, changes: 0.0, tokens: false, depth, timeout, seed: 1 }
}

/// Runs `nodes` over `links` against a stand-in until `done`.
async fn drive(
    plan: Plan,
    (nodes, links): (usize, u32),
    seen: Seen,
    mut done: impl FnMut(&Engine) -> bool + 'static,
) -> (Rc<RefCell<Engine>>, Rc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    let seen = Rc::new(seen);
    let (engine, seen_there) = (engine(plan, nodes, links, address), Rc::clone(&seen));
    let running = Rc::clone(&engine);
    let run = async move {
        spawn_local(serve(listener, seen_there));
        for index in 0..links {
            let where_to = Links { address, within: Duration::ZERO };
            spawn_local(run_link(Rc::clone(&running), index, links, where_to));
        }
        while !done(&running.borrow()) {
            running.borrow_mut().turn();
            running.borrow_mut().sweep();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let run = tokio::time::timeout(Duration::from_secs(60), run);
    assert!(LocalSet::new().run_until(run).await.is_ok(), "{:?}", engine.borrow().stats);
    (engine, seen)
}

fn count(engine: &Engine, class: Class) -> u64 {
    engine.stats.class(class).map_or(0, |latencies| latencies.count())
}

fn engine(plan: Plan, nodes: usize, links: u32, address: SocketAddr) -> Rc<RefCell<Engine>> {
    let key = Credential::key("5b1e", "key").unwrap();
    let nodes = vec![Node::new(key, "sim-1", Behaviour::Healthy); nodes];
    let (fetches, _) = tokio::sync::mpsc::unbounded_channel();
    let writer = Writer::new(&address.to_string(), "/");
    let scope = (ProjectId::random(), Vec::new());
    Rc::new(RefCell::new(Engine::new(plan, writer, nodes, links as usize, scope, fetches)))
}

#[tokio::test]
async fn requests_go_out_on_schedule_one_heartbeat_to_two_polls() {
    let enough = |engine: &Engine| engine.stats.answered() >= 300;
    let (engine, seen) = drive(plan(Pace::Fixed(100.0, 50.0), 1), (20, 4), Seen::default(), enough).await;
    let engine = engine.borrow();
    let beats = count(&engine, Class::Heartbeat) + count(&engine, Class::Change);
    let polls = count(&engine, Class::Answer);
    assert!((80..=120).contains(&beats) && polls >= 180, "{beats} heartbeats, {polls} polls");
    assert_eq!(count(&engine, Class::Change), 20, "the first of each");
    assert_eq!(engine.stats.errors(false), 0);
    assert_eq!(seen.deepest.get(), 1, "one at a time");
}

#[tokio::test]
async fn waiting_for_a_slow_server_counts() {
    let seen = Seen { stalls: Cell::new(Duration::from_millis(20)), ..Seen::default() };
    // 300 requests per second over one connection that answers 50: the queue grows, and latency
    // with it, though each answer takes no longer than the one before.
    let slow = |engine: &Engine| engine.stats.all.longest() > 1_000.0;
    drive(plan(Pace::Fixed(100.0, 50.0), 1), (10, 1), seen, slow).await;
}

#[tokio::test]
async fn pipelining_is_bounded() {
    let seen = Seen { stalls: Cell::new(Duration::from_millis(5)), ..Seen::default() };
    let (_, seen) = drive(plan(Pace::Flood, 8), (10, 1), seen, |engine| engine.stats.answered() >= 100).await;
    assert_eq!(seen.deepest.get(), 8);
}

#[tokio::test]
async fn silence_is_a_loss() {
    let seen = Seen { mute: Cell::new(true), ..Seen::default() };
    let hasty = Plan { timeout: Duration::from_millis(100), ..plan(Pace::Fixed(50.0, 25.0), 1) };
    let lost =
        |engine: &Engine| [Loss::Late, Loss::Unsent].iter().all(|loss| engine.stats.lost.contains_key(loss));
    let (engine, _) = drive(hasty, (2, 1), seen, lost).await;
    assert_eq!(engine.borrow().stats.all.count(), 0);
}

#[tokio::test]
async fn refused_nodes_return_when_they_were_told_to() {
    let pace = Pace::Answers { heartbeat_ms: 600_000, poll_ms: 600_000, begin_ms: 50 };
    let seen = Seen { refuses: Cell::new(10), ..Seen::default() };
    let all = |engine: &Engine| engine.all_returned();
    let (engine, _) = drive(plan(pace, 1), (5, 5), seen, all).await;
    let engine = engine.borrow();
    assert_eq!((engine.returned.0, engine.stats.told_to_wait), (5, 10), "each was refused once");
    assert_eq!((engine.stats.waits, engine.stats.errors(true)), (Some((1, 1)), 0));
    // A second from the refusal at least, which came after the request.
    assert!(engine.returned.1 >= Some(Duration::from_secs(1)), "{:?}", engine.returned);
}
