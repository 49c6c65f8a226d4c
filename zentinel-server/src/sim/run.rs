//! A run from registration to summary.

use super::cli::{Options, Rate};
use super::codec::{Credential, Writer};
use super::engine::{Engine, Links, Pace, Plan, run_link};
use super::identity::Identities;
use super::node::Node;
use super::process::{self, Usage};
use super::register::{Enrolled, Enrolment, register};
use super::report::{Progress, Report};
use super::{cli, fetch};
use crate::cli::Output;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use url::Url;
use zentinel_core::id::TypedId as _;
use zentinel_core::id::{NodeId, ProjectId};
use zentinel_core::port::PublicKey;
use zentinel_core::{Error, Result};
use zentinel_http::client::NodeClient;

/// How often what is due is sent.
const TICK: Duration = Duration::from_millis(1);
/// How long answers are waited for at the end.
const LINGER: Duration = Duration::from_secs(2);
/// Connections that registrations go over at most: they wait for one another in the server.
const REGISTERING: usize = 64;
/// How long connections take to come up, unless it is a storm.
const CONNECT_WITHIN: Duration = Duration::from_millis(500);

/// Runs as asked; answers whether few enough requests failed.
pub(super) async fn run(options: Options, register_only: bool, output: &Output) -> Result<bool> {
    let url = options.url()?;
    let address = resolve(&url).await?;
    let authority = url.authority().to_owned();
    let writer = Writer::new(&authority, url.path());
    let identities = match &options.identities {
        Some(path) => Identities::open(path)?,
        None => Identities::default(),
    };
    let (identities, enrolled) = enrol(&options, identities, address, &writer).await?;
    if register_only {
        let mut report = Report { registration: enrolled.map(Into::into), ..Report::default() };
        report.nodes = identities.nodes.len();
        report.print(output);
        return Ok(true);
    }
    let common = identities
        .common
        .clone()
        .ok_or_else(|| Error::internal("no node is registered and none had to be"))?;
    let nodes = nodes(&options, &identities)?;
    let (fetches, wanted) = tokio::sync::mpsc::unbounded_channel();
    let links = options.connections();
    let scope: (ProjectId, Vec<PublicKey>) = (common.project_id, common.signing_keys);
    let engine = Engine::new(plan(&options), writer, nodes, links as usize, scope, fetches);
    let engine = Rc::new(RefCell::new(engine));
    let client = NodeClient::new(url)?.with_credentials(NodeId::random(), "".to_owned().into());
    let mut tasks = JoinSet::new();
    tasks.spawn_local(fetch::run(Rc::clone(&engine), client, wanted, options.share_downloads));
    let within = options.storm.map_or(CONNECT_WITHIN, |storm| storm.0);
    for index in 0..links {
        tasks.spawn_local(run_link(Rc::clone(&engine), index, links, Links { address, within }));
    }
    let mut report = drive(&options, &engine, output).await?;
    report.registration = enrolled.map(Into::into);
    report.print(output);
    Ok(report.errors.share <= options.max_errors.0)
}

async fn resolve(url: &Url) -> Result<SocketAddr> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
    let host = host.trim_matches(['[', ']']);
    let found = tokio::net::lookup_host((host, port)).await.ok().and_then(|mut all| all.next());
    found.ok_or_else(|| Error::invalid_field("--server", format!("`{host}` has no address")))
}

async fn enrol(
    options: &Options,
    identities: Identities,
    address: SocketAddr,
    writer: &Writer,
) -> Result<(Identities, Option<Enrolled>)> {
    let count = options.nodes as usize;
    if identities.nodes.len() >= count {
        return Ok((identities, None));
    }
    if options.project.is_empty() {
        return Err(Error::invalid_field("--project", "is needed while nodes must register"));
    }
    let random = || format!("sim-{:06x}", rand::random::<u32>() & 0xff_ffff);
    let enrolment = Enrolment {
        address,
        writer: writer.clone(),
        project: options.project.clone(),
        token: options.secret()?,
        prefix: options.name_prefix.clone().unwrap_or_else(random),
        connections: REGISTERING.min(options.connections() as usize),
    };
    let progress = Progress::new(options.json);
    let (identities, enrolled) =
        register(enrolment, identities, count, move |done| progress.registered(done, count)).await;
    Ok((identities, Some(enrolled?)))
}

fn nodes(options: &Options, identities: &Identities) -> Result<Vec<Node>> {
    let count = options.nodes as usize;
    let behaviours = options.behaviour.assign(count, options.seed);
    let known = identities.nodes.iter().zip(behaviours);
    let nodes = known.map(|(identity, behaviour)| {
        let key = Credential::key(&identity.node_id.to_string(), &identity.node_key);
        let key = key.ok_or_else(|| Error::invalid(format!("the key of {} is not one", identity.name)))?;
        let lot = u32::try_from(identity.node_id.uuid().as_u128() % 9_973).unwrap_or_default();
        Ok(Node::new(key, &identity.name, behaviour).serving(options.traffic, lot))
    });
    nodes.collect()
}

fn plan(options: &Options) -> Plan {
    let (heartbeat, poll) = (options.heartbeat_interval.millis(), options.poll_interval.millis());
    let pace = match (options.rate, options.storm) {
        (Some(Rate::Max), _) => Pace::Flood,
        (Some(Rate::PerSecond(rate)), _) => {
            // One heartbeat to two polls.
            let heartbeat = f64::from(options.nodes) * 3_000.0 / rate;
            Pace::Fixed(heartbeat, heartbeat / 2.0)
        }
        (None, Some(storm)) => {
            Pace::Answers { heartbeat_ms: heartbeat, poll_ms: poll, begin_ms: storm.millis() }
        }
        (None, None) if options.follow_hints => {
            Pace::Answers { heartbeat_ms: heartbeat, poll_ms: poll, begin_ms: heartbeat }
        }
        (None, None) => Pace::Fixed(heartbeat as f64, poll as f64),
    };
    Plan {
        pace,
        habits: options.habits(),
        changes: options.changes.0,
        tokens: options.tokens,
        depth: options.pipeline.into(),
        timeout: options.timeout.0,
        seed: options.seed,
    }
}

/// What was used, by the server and by this process.
fn used(options: &Options) -> (Option<Usage>, Option<Usage>) {
    let server = options.server_pid.and_then(|pid| process::usage(&pid.to_string()));
    (server, process::usage("self"))
}

async fn drive(options: &cli::Options, engine: &RefCell<Engine>, output: &Output) -> Result<Report> {
    let patient = options.storm.is_some();
    let progress = Progress::new(output.is_json());
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let interrupted = crate::cli::stop_signal();
    tokio::pin!(interrupted);
    let mut before = used(options);
    let mut measured = Instant::now();
    let mut warm = options.warm_up.0.is_zero();
    let (mut shown, mut ticks) = (Instant::now(), 0_u64);
    loop {
        tokio::select! {
            _ = tick.tick() => engine.borrow_mut().turn(),
            stopped = &mut interrupted => {
                stopped?;
                break;
            }
        }
        let mut engine = engine.borrow_mut();
        if !warm && measured.elapsed() >= options.warm_up.0 {
            engine.stats.restart();
            (warm, measured, before) = (true, Instant::now(), used(options));
        }
        if shown.elapsed() >= Duration::from_secs(1) {
            engine.sweep();
            progress.show(&mut engine, shown.elapsed(), patient);
            shown = Instant::now();
        }
        let over = warm && !options.duration.0.is_zero() && measured.elapsed() >= options.duration.0;
        ticks += 1;
        // Asking looks at every node.
        if over || patient && ticks.is_multiple_of(100) && engine.all_returned() {
            break;
        }
    }
    let (over, after) = (measured.elapsed(), used(options));
    engine.borrow_mut().stop();
    let until = Instant::now() + LINGER;
    while engine.borrow().open() > 0 && Instant::now() < until {
        tokio::time::sleep(TICK).await;
    }
    let mut engine = engine.borrow_mut();
    engine.give_up();
    progress.finish();
    Ok(Report::of(&engine, options, over, before, after))
}
