//! One node against offers and an archive server that misbehaves.

use super::state::StateFile;
use super::*;
use std::path::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use zentinel_compiler::pipeline::Compiler;
use zentinel_compiler::source::Source;
use zentinel_compiler::validate::InProcessValidator;
use zentinel_core::entity::Activation;
use zentinel_core::id::{OrganisationId, ProjectId};
use zentinel_core::port::{ConfigValidator, Signer, SystemClock};
use zentinel_core::statement::Statement;
use zentinel_core::{Scope, Sha256Digest};
use zentinel_http::client::{BundleOffer, Poll};
use zentinel_store::MemorySigner;

/// How the archive server answers.
#[derive(Clone, Debug)]
enum Answer {
    Whole,
    Status(u16),
    BreakOffAfter(usize),
    Other(&'static [u8]),
}

/// Serves one archive, one request per connection: an HTTP library would not break its word.
#[derive(Debug)]
struct Archives {
    bytes: Mutex<Vec<u8>>,
    answer: Mutex<Answer>,
    /// Where each request began.
    from: Mutex<Vec<usize>>,
}

impl Archives {
    async fn serve(self: Arc<Self>, listener: TcpListener) {
        while let Ok((mut socket, _)) = listener.accept().await {
            let answer = self.answer(&read_head(&mut socket).await);
            // The client may have hung up, which is its right.
            drop(socket.write_all(&answer).await);
            drop(socket.shutdown().await);
        }
    }

    fn answer(&self, head: &str) -> Vec<u8> {
        let range = head.lines().find_map(|line| line.strip_prefix("range: bytes=")?.strip_suffix('-'));
        let from: usize = range.map_or(0, |from| from.parse().unwrap());
        self.from.lock().unwrap().push(from);
        let whole = self.bytes.lock().unwrap();
        let rest = &whole[from..];
        let (status, length, body) = match *self.answer.lock().unwrap() {
            Answer::Whole => (if from > 0 { 206 } else { 200 }, rest.len(), rest),
            Answer::BreakOffAfter(sent) => (if from > 0 { 206 } else { 200 }, rest.len(), &rest[..sent]),
            Answer::Status(status) => (status, 0, &[][..]),
            Answer::Other(bytes) => (200, bytes.len(), bytes),
        };
        let range = format!("bytes {from}-{}/{}", whole.len() - 1, whole.len());
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\ncontent-range: {range}\r\nconnection: close\r\n\r\n"
        );
        [head.as_bytes(), body].concat()
    }
}

async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match socket.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

#[derive(Debug)]
struct Silent;

#[async_trait]
impl HealthSource for Silent {
    async fn sample(&self, _: Option<BundleId>) -> (Map<String, Value>, Map<String, Value>) {
        (Map::new(), Map::new())
    }
}

/// A validator that is away.
#[derive(Debug)]
struct Away;

#[async_trait::async_trait]
impl ConfigValidator for Away {
    async fn validate(&self, _: &str, _: bool) -> Result<Vec<zentinel_core::port::Diagnostic>> {
        Err(zentinel_core::Error::unavailable("no child process"))
    }
}

/// A validator that never has the time.
#[derive(Debug)]
struct Late;

#[async_trait::async_trait]
impl ConfigValidator for Late {
    async fn validate(&self, _: &str, _: bool) -> Result<Vec<zentinel_core::port::Diagnostic>> {
        let code = zentinel_compiler::diagnostic::Code::ValidationTimeout;
        Ok(vec![zentinel_compiler::diagnostic::Finding::new(code, "took too long").into()])
    }
}

/// A clock that is off by so many seconds.
#[derive(Debug)]
struct Off(i64);

#[async_trait]
impl Clock for Off {
    fn now(&self) -> zentinel_core::Timestamp {
        SystemClock.now() + chrono::TimeDelta::seconds(self.0)
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}

struct Site {
    archives: Arc<Archives>,
    url: Url,
    signer: Arc<MemorySigner>,
    project: ProjectId,
    directory: tempfile::TempDir,
}

const CONFIG: &str = include_str!("../../../zentinel-compiler/tests/vectors/minimal/zentinel.kdl");

impl Site {
    async fn new() -> Self {
        let archives = Arc::new(Archives {
            bytes: Mutex::default(),
            answer: Mutex::new(Answer::Whole),
            from: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = Url::parse(&format!("http://{}/archive", listener.local_addr().unwrap())).unwrap();
        tokio::spawn(Arc::clone(&archives).serve(listener));
        let site = Self {
            archives,
            url,
            signer: Arc::new(MemorySigner::generate()),
            project: ProjectId::random(),
            directory: tempfile::tempdir().unwrap(),
        };
        let state = NodeState {
            node_id: NodeId::random(),
            node_key: "key".to_owned(),
            project_id: site.project,
            pinned_keys: site.signer.public_keys(&site.scope()).await.unwrap(),
            pinned_at: 0,
            last_sequence: 0,
            active_bundle_id: None,
            refused: None,
            activating: None,
            previous: Vec::new(),
            versions: std::collections::BTreeMap::new(),
        };
        site.file().save(&state).unwrap();
        site
    }

    fn scope(&self) -> Scope {
        Scope::Organisation(OrganisationId::random())
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self) -> StateFile {
        StateFile::in_directory(self.path())
    }

    async fn node(&self) -> Agent {
        let validator = Arc::new(InProcessValidator::default());
        self.node_with(DirectoryActivator::new(self.path().into(), self.path().into(), validator)).await
    }

    async fn node_with(&self, activator: DirectoryActivator) -> Agent {
        self.node_at(activator, Arc::new(SystemClock)).await
    }

    async fn node_at(&self, activator: DirectoryActivator, clock: Arc<dyn Clock>) -> Agent {
        let options = AgentOptions {
            server: self.url.clone(),
            project: "edge".to_owned(),
            token: None,
            name: "node".to_owned(),
            labels: BTreeMap::new(),
            version: "1".to_owned(),
            directory: self.path().into(),
            heartbeat_interval: Duration::from_secs(1),
            long_poll: Duration::from_secs(1),
            traffic_hook: None,
        };
        Agent::enrol(options, clock, Arc::new(activator), Arc::new(Silent)).await.unwrap()
    }

    /// Compiles a configuration and makes the server hold it.
    async fn archive(&self, config: &str) {
        let compiler = Compiler::new(Arc::new(InProcessValidator::default()));
        let source = Source::new(config, Vec::new(), false).unwrap();
        let signed = compiler.build(source, None, &*self.signer, &self.scope()).await.unwrap();
        *self.archives.bytes.lock().unwrap() = signed.bytes().to_vec();
    }

    /// An offer of what the server holds.
    async fn offer(&self, sequence: u64, bundle_id: BundleId) -> Poll {
        self.offer_by(&self.signer, sequence, bundle_id).await
    }

    async fn offer_by(&self, signer: &MemorySigner, sequence: u64, bundle_id: BundleId) -> Poll {
        let bytes = self.archives.bytes.lock().unwrap().clone();
        let now = SystemClock.now().timestamp();
        let statement = Statement {
            v: 1,
            project_id: self.project,
            bundle_id,
            sequence,
            archive_sha256: Sha256Digest::of(&bytes),
            archive_size: bytes.len() as u64,
            activation: Activation::Reload,
            compare: false,
            issued_at: now,
            expires_at: now + 3600,
            keys: Vec::new(),
        };
        let envelope = statement.sign(signer, &self.scope()).await.unwrap();
        let offer: BundleOffer = serde_json::from_value(serde_json::json!({
            "bundle_id": bundle_id,
            "version": "1",
            "checksum": statement.archive_sha256,
            "size_bytes": statement.archive_size,
            "download_url": self.url,
            "poll_after_s": 1,
            "statement": envelope,
        }))
        .unwrap();
        Poll::Update(Box::new(offer))
    }

    fn answer(&self, answer: Answer) {
        *self.archives.answer.lock().unwrap() = answer;
    }
}

#[tokio::test]
async fn a_failed_download_is_tried_again_and_reported_when_it_lasts() {
    let site = Site::new().await;
    site.archive(CONFIG).await;
    let (node, bundle) = (site.node().await, BundleId::random());
    let faults = [
        Answer::Status(500),
        Answer::Status(403),
        Answer::Status(404),
        Answer::Other(b"<html>captive portal</html>"),
    ];
    for fault in faults {
        site.answer(fault);
        assert!(node.take(site.offer(7, bundle).await).await.is_err(), "worth another try");
        assert_eq!(node.refused(), None, "not worth a report yet");
    }
    site.answer(Answer::Status(410));
    assert!(node.take(site.offer(7, bundle).await).await.is_err());
    let refused = node.refused().expect("it has lasted");
    assert_eq!((refused.sequence, refused.reason.as_str()), (7, "download_failed"));
    assert_eq!(node.report().await.bundle_error.unwrap().sequence, Some(7));
    assert!(node.take(site.offer(7, bundle).await).await.is_err(), "still tried again");
    site.answer(Answer::Whole);
    node.take(site.offer(7, bundle).await).await.unwrap();
    assert_eq!((node.active_bundle_id(), node.refused()), (Some(bundle), None));
}

#[tokio::test]
async fn a_broken_transfer_goes_on_where_it_stopped() {
    let site = Site::new().await;
    site.archive(CONFIG).await;
    let (node, bundle) = (site.node().await, BundleId::random());
    for _ in 0..2 {
        site.answer(Answer::BreakOffAfter(100));
        assert!(node.take(site.offer(1, bundle).await).await.is_err());
    }
    site.answer(Answer::Whole);
    node.take(site.offer(1, bundle).await).await.unwrap();
    assert_eq!(*site.archives.from.lock().unwrap(), [0, 100, 200]);
    assert_eq!(node.active_bundle_id(), Some(bundle));
}

#[tokio::test]
async fn genuine_bytes_that_are_no_archive_are_refused_for_good() {
    let site = Site::new().await;
    *site.archives.bytes.lock().unwrap() = b"signed, but no archive".to_vec();
    let (node, bundle) = (site.node().await, BundleId::random());
    node.take(site.offer(3, bundle).await).await.unwrap();
    assert_eq!(node.refused().map(|refused| refused.reason).as_deref(), Some("bad_archive"));
    node.take(site.offer(3, bundle).await).await.unwrap();
    assert_eq!(site.archives.from.lock().unwrap().len(), 1, "not fetched again");
}

#[tokio::test]
async fn what_the_node_lacks_refuses_and_a_checker_that_is_away_does_not() {
    let site = Site::new().await;
    site.archive(CONFIG).await;
    let bundle = BundleId::random();
    let validators: [Arc<dyn ConfigValidator>; 2] = [Arc::new(Away), Arc::new(Late)];
    for validator in validators {
        let activator = DirectoryActivator::new(site.path().into(), site.path().into(), validator);
        let node = site.node_with(activator).await;
        assert!(node.take(site.offer(1, bundle).await).await.is_err());
        assert_eq!(node.refused(), None);
        assert_eq!(node.live().fault.as_ref().unwrap().about.reason, "validation_unavailable");
    }
    let node = site.node().await;
    node.take(site.offer(1, bundle).await).await.unwrap();
    assert_eq!(node.active_bundle_id(), Some(bundle));

    let needs_files =
        CONFIG.replace("upstream \"api\"\n    }\n}", "static-files {\n root \"/srv/absent\"\n }\n    }\n}");
    assert_ne!(needs_files, CONFIG);
    site.archive(&needs_files).await;
    node.take(site.offer(2, BundleId::random()).await).await.unwrap();
    assert_eq!(node.refused().unwrap().reason, "missing_static_root");
    assert_eq!(node.active_bundle_id(), Some(bundle), "what served before keeps serving");
}

#[tokio::test]
async fn after_a_crash_the_link_decides_what_serves() {
    let site = Site::new().await;
    site.archive(CONFIG).await;
    let (first, second) = (BundleId::random(), BundleId::random());
    let node = site.node().await;
    node.take(site.offer(1, first).await).await.unwrap();
    let before = site.file().load().unwrap().unwrap();
    assert_eq!(before.activating, None);
    node.take(site.offer(2, second).await).await.unwrap();

    // Ended between the switch and writing it down.
    let begun = Activating { sequence: 2, bundle_id: second };
    site.file().save(&NodeState { activating: Some(begun), ..before.clone() }).unwrap();
    assert_eq!(site.node().await.active_bundle_id(), Some(second));
    let state = site.file().load().unwrap().unwrap();
    assert_eq!((state.last_sequence, state.activating), (2, None));
    assert_eq!(state.previous, [first]);

    // Ended before the switch.
    let begun = Activating { sequence: 3, bundle_id: BundleId::random() };
    site.file().save(&NodeState { activating: Some(begun), ..state.clone() }).unwrap();
    assert_eq!(site.node().await.active_bundle_id(), Some(second));
    assert_eq!(site.file().load().unwrap().unwrap().last_sequence, 2);

    // The file is older than the link, then the link is gone.
    site.file().save(&before).unwrap();
    assert_eq!(site.node().await.active_bundle_id(), Some(second));
    std::fs::remove_file(site.path().join("current")).unwrap();
    assert_eq!(site.node().await.active_bundle_id(), None);
}

#[tokio::test]
async fn a_state_that_cannot_be_saved_is_reported_and_saved_later() {
    let site = Site::new().await;
    site.archive(CONFIG).await;
    let (node, bundle) = (site.node().await, BundleId::random());
    // A folder in the place of the draft makes saving fail.
    let draft = site.path().join("node.json.new");
    std::fs::create_dir(&draft).unwrap();
    assert!(node.take(site.offer(1, bundle).await).await.is_err());
    assert_eq!(node.active_bundle_id(), None, "nothing begins that is not written down");
    assert!(!site.path().join("current").exists());
    let settled = node.update(|live| live.state.settle(1, bundle));
    assert!(settled.is_err());
    assert_eq!(node.active_bundle_id(), Some(bundle), "the truth, saved or not");
    std::fs::remove_dir(&draft).unwrap();
    node.save_pending().unwrap();
    assert_eq!(site.file().load().unwrap().unwrap().active_bundle_id, Some(bundle));
}

#[tokio::test]
async fn damaged_releases_are_fetched_again_and_old_ones_removed() {
    let site = Site::new().await;
    site.archive(CONFIG).await;
    let node = site.node().await;
    let bundles: Vec<_> = (0..5).map(|_| BundleId::random()).collect();
    std::fs::create_dir_all(site.path().join("downloads")).unwrap();
    std::fs::write(site.path().join("downloads/old.part"), "x").unwrap();
    for (sequence, bundle) in (1..).zip(&bundles) {
        node.take(site.offer(sequence, *bundle).await).await.unwrap();
    }
    let home = |bundle: &BundleId| site.path().join("bundles").join(bundle.to_string());
    let kept: Vec<_> = bundles.iter().map(|bundle| home(bundle).is_dir()).collect();
    assert_eq!(kept, [false, false, true, true, true]);
    assert!(!site.path().join("downloads/old.part").exists());

    // Going back to an intact one fetches nothing.
    let fetched = site.archives.from.lock().unwrap().len();
    node.take(site.offer(6, bundles[3]).await).await.unwrap();
    assert_eq!(site.archives.from.lock().unwrap().len(), fetched);
    // Same length, another byte.
    let config = home(&bundles[2]).join("zentinel.kdl");
    std::fs::write(&config, CONFIG.replacen("1.0", "1.1", 1)).unwrap();
    node.take(site.offer(7, bundles[2]).await).await.unwrap();
    assert_eq!(site.archives.from.lock().unwrap().len(), fetched + 1);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), CONFIG);
    assert_eq!(node.active_bundle_id(), Some(bundles[2]));
}

#[tokio::test]
async fn pins_follow_a_rotation_that_an_old_key_vouches_for() {
    let site = Site::new().await;
    site.archive(CONFIG).await;
    let node = site.node().await;
    let pins = || -> Vec<String> {
        let state = site.file().load().unwrap().unwrap();
        state.pinned_keys.into_iter().map(|key| key.key_id).collect()
    };
    let old = pins();
    assert_eq!(old.len(), 1);
    let before = site.offer(1, BundleId::random()).await;
    let fresh = site.signer.rotate(&site.scope()).await.unwrap();
    let bundle = BundleId::random();
    node.take(site.offer(2, bundle).await).await.unwrap();
    assert_eq!(node.active_bundle_id(), Some(bundle));
    assert_eq!(pins(), [fresh, old[0].clone()]);

    // Neither an older statement nor an unknown key changes what is trusted.
    assert!(node.take(before).await.is_err());
    let stranger = MemorySigner::generate();
    let error = node.take(site.offer_by(&stranger, 9, BundleId::random()).await).await.unwrap_err();
    assert_eq!(error.kind(), zentinel_core::Kind::Forbidden);
    assert_eq!(node.refused().unwrap().reason, "bad_statement");
    assert_eq!(
        node.report().await.bundle_error.unwrap().sequence,
        None,
        "an untrusted sequence is not repeated"
    );
    assert_eq!((pins().len(), node.active_bundle_id()), (2, Some(bundle)));
    assert_eq!(site.file().load().unwrap().unwrap().last_sequence, 2);
}

#[tokio::test]
async fn a_key_learned_from_a_statement_is_enough_when_the_old_one_is_gone() {
    let site = Site::new().await;
    site.archive(CONFIG).await;
    let node = site.node().await;
    // The same new key, once beside the old one and once alone.
    let alone = MemorySigner::from_seed("sk_new", [9; 32]);
    site.signer.import("sk_new", [9; 32]);
    let early = site.offer_by(&alone, 1, BundleId::random()).await;
    assert!(node.take(early).await.is_err(), "nobody has vouched for it yet");
    node.take(site.offer(2, BundleId::random()).await).await.unwrap();
    let bundle = BundleId::random();
    node.take(site.offer_by(&alone, 3, bundle).await).await.unwrap();
    assert_eq!(node.active_bundle_id(), Some(bundle));
    let pins = site.file().load().unwrap().unwrap().pinned_keys;
    assert_eq!(pins.len(), 1, "the old key is not trusted any more");
}

#[tokio::test]
async fn a_clock_ten_minutes_off_does_no_harm_and_one_an_hour_off_is_told_of() {
    let site = Site::new().await;
    site.archive(CONFIG).await;
    let node = async |off| {
        let validator = Arc::new(InProcessValidator::default());
        let activator = DirectoryActivator::new(site.path().into(), site.path().into(), validator);
        site.node_at(activator, Arc::new(Off(off))).await
    };
    for (sequence, off) in [(1, 600), (2, -600)] {
        let bundle = BundleId::random();
        let node = node(off).await;
        node.take(site.offer(sequence, bundle).await).await.unwrap();
        assert_eq!((node.active_bundle_id(), node.refused()), (Some(bundle), None));
    }
    let bundle = BundleId::random();
    let late = node(-3_600).await;
    assert!(
        late.take(site.offer(3, bundle).await).await.is_err(),
        "looked at again: the clock may be at fault"
    );
    assert_eq!(late.refused().unwrap().reason, "bad_statement");
    let mended = node(0).await;
    mended.take(site.offer(3, bundle).await).await.unwrap();
    assert_eq!((mended.active_bundle_id(), mended.refused()), (Some(bundle), None));
}

#[tokio::test]
async fn weights_become_files_and_the_hook_runs_until_it_has_acknowledged_each_once() {
    let world = Site::new().await;
    let directory = world.path().to_path_buf();
    let traffic = |weight| {
        Some(zentinel_core::entity::NodeTraffic { slot: zentinel_core::entity::Slot::Green, weight })
    };
    let file = |name: &str| std::fs::read_to_string(directory.join("traffic").join(name)).unwrap_or_default();
    let log = directory.join("hook.log");
    let ready = directory.join("ready");
    let hook = format!(
        "test -e {ready} || {{ echo not yet; exit 3; }}; echo $ZENTINEL_SLOT $ZENTINEL_TRAFFIC_WEIGHT >> {log}",
        ready = ready.display(),
        log = log.display()
    );
    let agent = async || {
        let mut agent = world.node().await;
        agent.options.traffic_hook = Some(hook.clone());
        agent
    };
    let node = agent().await;
    node.take_traffic(None);
    node.bring_traffic().await.unwrap();
    assert!(!directory.join("traffic").exists(), "nothing for nodes without a slot");
    node.take_traffic(traffic(10));
    let failed = node.bring_traffic().await.unwrap_err();
    assert!(failed.contains("not yet"), "{failed}");
    assert_eq!((file("slot"), file("weight")), ("green\n".to_owned(), "10\n".to_owned()));
    let told: Value = serde_json::from_str(&file("traffic.json")).unwrap();
    assert_eq!((&told["slot"], &told["weight"]), (&json!("green"), &json!(10)));
    // Another run of the agent goes on with what the hook has not acknowledged, and with the newest value.
    std::fs::write(&ready, "").unwrap();
    let node = agent().await;
    node.take_traffic(traffic(50));
    node.bring_traffic().await.unwrap();
    node.bring_traffic().await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "green 50\n");
    let node = agent().await;
    node.bring_traffic().await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "green 50\n", "not again after a restart");
    node.take_traffic(traffic(0));
    node.bring_traffic().await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "green 50\ngreen 0\n");
}
