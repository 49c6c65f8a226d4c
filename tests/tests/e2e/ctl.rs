//! `zentinelctl` against a running control plane, as an operator uses it.

use serde_json::Value;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;
use zentinel_tests::binary;
use zentinel_tests::plane::{Plane, TestNode, example};
use zentinel_tests::wait_for;

const LIMIT: Duration = Duration::from_secs(60);

/// The tool with the key in a file and everything else in the environment.
pub(crate) struct Ctl {
    environment: Vec<(String, String)>,
    pub(crate) directory: tempfile::TempDir,
}

impl Ctl {
    pub(crate) fn new(plane: &Plane) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = directory.path().join("key");
        private(&key, &plane.api_key);
        let environment = [
            ("ZENTINEL_SERVER", plane.url.to_string()),
            ("ZENTINEL_API_KEY_FILE", key.display().to_string()),
            ("HOME", directory.path().display().to_string()),
        ];
        let environment = environment.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Self { environment, directory }
    }

    /// From now on it speaks with another key.
    pub(crate) fn use_key(&self, key: &str) {
        private(&self.directory.path().join("key"), key);
    }

    /// Runs it to its end, off the test's runtime.
    async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = binary::tool("zentinelctl", arguments, &self.environment);
        tokio::task::spawn_blocking(move || command.output().expect("it runs")).await.expect("it ends")
    }

    pub(crate) async fn text(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!output.stdout.contains(&0x1b), "colours are for terminals");
        String::from_utf8(output.stdout).expect("text")
    }

    pub(crate) async fn json(&self, arguments: &[&str]) -> Value {
        let arguments: Vec<&str> = arguments.iter().copied().chain(["--json"]).collect();
        let text = self.text(&arguments).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {text}"))
    }

    /// Its exit code and what it says on stderr.
    pub(crate) async fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments).await;
        let code = output.status.code().expect("it ends by itself");
        assert_ne!(code, 0, "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
        (code, String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn file(&self, name: &str, content: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.display().to_string()
    }
}

fn private(path: &std::path::Path, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

/// A command that goes on until it is dropped.
struct Following {
    child: Child,
    lines: Receiver<Value>,
}

impl Following {
    fn start(ctl: &Ctl, arguments: &[&str]) -> Self {
        let mut child = binary::tool("zentinelctl", arguments, &ctl.environment)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let line = serde_json::from_str(&line).expect("JSON lines");
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that is looked for; others before it are dropped.
    async fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait_for(what, LIMIT, async || self.lines.try_iter().find(|line| wanted(line))).await
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Everything an operator does with nodes, bundles and rollouts.
async fn a_working_day(plane: Plane) {
    let ctl = Ctl::new(&plane);
    let nodes = plane.nodes(3).await;

    // A registration token, for the next node.
    let token = ctl.json(&["node", "token", "create", "rack 12", "--for", "2h", "--label", "rack=12"]).await;
    assert_eq!(token["token"].as_str().map(str::len), Some(43));
    let listed = ctl.text(&["node", "token", "list"]).await;
    assert!(listed.contains("rack 12") && listed.contains("0/1") && listed.contains("rack=12"), "{listed}");
    assert!(!listed.contains(token["token"].as_str().unwrap()), "it is shown once");
    ctl.text(&["node", "token", "revoke", "rack 12"]).await;
    assert!(ctl.text(&["node", "token", "list"]).await.contains("revoked"));

    // A bundle, compiled and rolled out, all in two commands.
    let kdl = ctl.file("edge.kdl", &example("edge.kdl"));
    let shown = ctl.text(&["bundle", "create", &kdl, "--version", "1.0.0", "--wait"]).await;
    assert!(shown.contains("status      compiled"), "{shown}");
    let rollout =
        ctl.text(&["rollout", "create", "1.0.0", "--batch-size", "2", "--wait", "--interval", "0.2"]).await;
    assert!(rollout.lines().last().unwrap().contains("completed: 3 of 3 active, 0 failed"), "{rollout}");
    assert!(nodes.iter().all(|node| node.active().is_some()));
    let latest = ctl.json(&["rollout", "show", "latest"]).await;
    let id = latest["rollout"]["id"].as_str().unwrap();
    let beginning = ctl.text(&["rollout", "show", &id[..8]]).await;
    assert!(beginning.contains(id) && beginning.contains("3 of 3 active"), "{beginning}");
    assert!(ctl.text(&["rollout", "list"]).await.contains("1.0.0"));

    // The fleet.
    let list = wait_for("every node to show the bundle", LIMIT, async || {
        let list = ctl.text(&["node", "list", "--status", "online", "--label", "region=eu"]).await;
        let all = list.matches("1.0.0   1.0.0").count() == 3;
        // Looking costs as much of the rate limit as for everybody.
        tokio::time::sleep(Duration::from_millis(if all { 0 } else { 500 })).await;
        all.then_some(list)
    })
    .await;
    assert!(list.starts_with("NAME") && list.contains("node-2") && list.contains("region=eu"), "{list}");
    assert_eq!(
        ctl.json(&["node", "list", "--bundle", "1.0.0", "--limit", "2"]).await["nodes"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert_eq!(ctl.json(&["node", "list", "--status", "offline"]).await["total"], 0);
    let node = ctl.json(&["node", "show", "node-1"]).await;
    assert_eq!(node["node"]["health"]["status"], "healthy");
    assert!(!node["heartbeats"].as_array().unwrap().is_empty());
    let beginning = &node["node"]["id"].as_str().unwrap()[..8];
    let shown = ctl.text(&["node", "show", beginning]).await;
    assert!(shown.contains("node-1") && shown.contains("error_rate=0.1"), "{shown}");

    drop(nodes);
    assert!(plane.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_day_on_the_embedded_default() {
    a_working_day(Plane::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_day_on_postgresql_and_s3() {
    a_working_day(Plane::production().await).await;
}

/// The status line that a caller sees who listens only when all is sent.
fn status_of_upload(url: &url::Url, length: usize) -> String {
    let mut stream = std::net::TcpStream::connect(&*url.socket_addrs(|| None).unwrap()).unwrap();
    let head = format!("POST /api/v1/projects HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&vec![b' '; length]).expect("the server reads on");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).expect("an answer");
    line.trim_end().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_that_does_not_compile_is_explained() {
    let plane = Plane::embedded().await;
    let ctl = Ctl::new(&plane);
    let kdl = ctl.file("bad.kdl", "listeners {\n  listener \"a\" {\n    address \"nonsense\"\n");
    let (code, text) = ctl.refused(&["bundle", "create", &kdl, "--version", "2", "--wait"]).await;
    assert_eq!(code, 65);
    assert!(text.contains("bundle 2 does not compile\nzentinel.kdl:") && text.contains("hint:"), "{text}");
    let (code, text) = ctl.refused(&["rollout", "create", "2"]).await;
    assert_eq!(code, 73, "{text}");
    // Mended, it is handed in again as what it was called.
    let kdl = ctl.file("good.kdl", &example("edge.kdl"));
    let again = ["bundle", "create", &kdl, "--version", "2", "--wait"];
    let bundle = ctl.json(&again).await;
    let (code, text) = ctl.refused(&again).await;
    let expected = format!("version 2 is taken by bundle {} (compiled)", bundle["id"].as_str().unwrap());
    assert!(code == 65 && text.contains(&expected) && !text.contains("project_id"), "{text}");

    // Larger than the server takes: no reason to try again.
    let url = plane.url.clone();
    let status = tokio::task::spawn_blocking(move || status_of_upload(&url, 12_000_000)).await.unwrap();
    assert_eq!(status, "HTTP/1.1 413 Payload Too Large");
    let large = ctl.file("large.kdl", &"/".repeat(9_000_000));
    for files in [vec![large.as_str()], vec![kdl.as_str(), large.as_str()]] {
        let arguments = [&["bundle", "create", "--version", "3"], &files[..]].concat();
        let (code, text) = ctl.refused(&arguments).await;
        assert!(code == 65 && text.contains("8000000") && text.contains("http.body_limit_bytes"), "{text}");
    }
    assert!(plane.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_every_change_and_outlives_the_server() {
    let mut plane = Plane::embedded().await;
    let ctl = Ctl::new(&plane);
    let node = TestNode::start(&plane, "edge-1").await;
    let watch = Following::start(&ctl, &["node", "watch", "--json", "--interval", "0.2"]);
    let first = watch.until("the node", |line| line["event"] == "node.present").await;
    assert_eq!(first["node"]["name"], "edge-1");

    let second = TestNode::start(&plane, "edge-2").await;
    watch.until("a new node", |line| line["event"] == "node.added" && line["node"]["name"] == "edge-2").await;

    plane.kill().await;
    watch.until("the outage", |line| line["event"] == "server.away").await;
    plane.start_again().await;
    watch.until("its end", |line| line["event"] == "server.back").await;

    let kdl = ctl.file("edge.kdl", &example("edge.kdl"));
    let bundle = ctl.json(&["bundle", "create", &kdl, "--version", "1.0.0", "--wait"]).await;
    ctl.json(&["rollout", "create", "1.0.0", "--node", "edge-1"]).await;
    let change = watch
        .until("the activation", |line| line["event"] == "node.changed" && line["field"] == "active")
        .await;
    assert_eq!((&change["node"]["name"], &change["to"]), (&"edge-1".into(), &bundle["id"]), "{change}");

    drop(second);
    ctl.text(&["node", "delete", "edge-2", "--yes"]).await;
    watch.until("the end of a node", |line| line["event"] == "node.removed").await;
    drop((watch, node));
    assert!(plane.stop().await);
}

/// Whether the control plane at `url` lets a node in.
async fn lets_in(url: &url::Url, id: &str, key: &str) -> bool {
    let path = format!("api/v1/nodes/{id}/bundles/latest");
    let request = reqwest::Client::new().get(url.join(&path).unwrap()).header("x-zentinel-node-key", key);
    match request.send().await.expect("it answers").status().as_u16() {
        200 => true,
        401 => false,
        other => panic!("status {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_replaced_and_revoked_on_every_replica() {
    let plane = Plane::production().await;
    let ctl = Ctl::new(&plane);
    let replica = plane.replica().await;
    let token = ctl.json(&["node", "token", "create"]).await;
    let client = zentinel_http::client::NodeClient::new(plane.url.clone()).unwrap();
    let request = zentinel_http::client::RegisterRequest { name: "edge-1".into(), ..Default::default() };
    let secret = zentinel_core::Secret::new(token["token"].as_str().unwrap());
    let me = client.register(&plane.project, Some(&secret), &request).await.expect("registered");
    let (id, old) = (me.node_id.to_string(), me.node_key.expose().to_owned());
    let everywhere = [plane.url.clone(), replica.url.clone()];
    for url in &everywhere {
        assert!(lets_in(url, &id, &old).await);
    }

    let file = ctl.directory.path().join("new.key").display().to_string();
    let rotated = ctl.run(&["node", "rotate-key", "edge-1", "--output", &file]).await;
    assert!(rotated.status.success() && String::from_utf8_lossy(&rotated.stderr).contains("set-key"));
    let new = std::fs::read_to_string(&file).unwrap().trim().to_owned();
    assert!(!String::from_utf8_lossy(&rotated.stdout).contains(&new), "it is in the file only");
    for url in &everywhere {
        assert!(lets_in(url, &id, &new).await && lets_in(url, &id, &old).await, "both for a while");
    }
    let (code, text) = ctl.refused(&["node", "rotate-key", "edge-1", "--output", &file]).await;
    assert!(code == 65 && text.contains("not there yet"), "{text}");
    assert!(lets_in(&plane.url, &id, &new).await, "no key was made for a file that could not be");

    let (code, text) = ctl.refused(&["node", "revoke", "edge-1"]).await;
    assert!(code == 65 && text.contains("--yes"), "nobody can be asked: {text}");
    ctl.text(&["node", "revoke", "edge-1", "--yes"]).await;
    assert!(!lets_in(&plane.url, &id, &new).await && !lets_in(&plane.url, &id, &old).await);
    wait_for("the other replica to hear of it", Duration::from_secs(5), async || {
        let out = !lets_in(&replica.url, &id, &new).await && !lets_in(&replica.url, &id, &old).await;
        out.then_some(())
    })
    .await;

    // A new key is the way back in.
    let back = ctl.json(&["node", "rotate-key", &id[..8]]).await;
    assert!(lets_in(&plane.url, &id, back["node_key"].as_str().unwrap()).await);
    drop(replica);
    assert!(plane.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_with_what_to_do_next() {
    let plane = Plane::embedded().await;
    let mut ctl = Ctl::new(&plane);
    let (code, text) = ctl.refused(&["node", "show", "nowhere"]).await;
    assert!(code == 66 && text.contains("`nowhere`") && text.contains("zentinelctl node list"), "{text}");
    let (code, text) = ctl.refused(&["--project", "other", "node", "list"]).await;
    assert!(code == 66 && text.contains("zentinelctl project list"), "{text}");
    let (code, text) = ctl.refused(&["--server", "http://127.0.0.1:1", "node", "list"]).await;
    assert!(code == 75 && text.contains("http://127.0.0.1:1/ready"), "{text}");
    let (code, text) = ctl.refused(&["--api-key", "wrong", "node", "list"]).await;
    assert!(code == 77 && text.contains("expired or revoked"), "{text}");
    assert_eq!(ctl.refused(&["node", "list", "--label", "novalue"]).await.0, 2);

    let lost = format!("{}elsewhere", plane.url);
    let (code, text) = ctl.refused(&["--server", &lost, "node", "list"]).await;
    assert!(code == 66 && text.contains("elsewhere/health"), "{text}");
    let mut full = binary::tool("zentinelctl", &["node", "list"], &ctl.environment);
    full.stdout(std::fs::File::options().write(true).open("/dev/full").unwrap()).stderr(Stdio::piped());
    let full = tokio::task::spawn_blocking(move || full.output().unwrap()).await.unwrap();
    assert_eq!(full.status.code(), Some(75), "an answer that is lost is no success");

    // A second project: now it must be named, here in the settings file.
    ctl.text(&["project", "create", "Core"]).await;
    let (code, text) = ctl.refused(&["project", "create", "Core"]).await;
    assert!(code == 65 && text.contains("a project `Core` already"), "{text}");
    assert!(ctl.text(&["project", "list"]).await.contains("core"));
    let (code, text) = ctl.refused(&["node", "list"]).await;
    assert!(code == 65 && text.contains("edge") && text.contains("core"), "{text}");
    std::fs::create_dir_all(ctl.directory.path().join(".config/zentinel")).unwrap();
    ctl.file(".config/zentinel/ctl.toml", "project = \"core\"\napi_key_file = \"key\"\n");
    private(&ctl.directory.path().join(".config/zentinel/key"), &plane.api_key);
    ctl.environment.retain(|(name, _)| name != "ZENTINEL_API_KEY_FILE");
    assert_eq!(ctl.json(&["node", "list"]).await["total"], 0);

    ctl.environment.clear();
    let (code, text) = ctl.refused(&["node", "list"]).await;
    assert!(code == 65 && text.contains("--api-key-file"), "{text}");
    let version = ctl.text(&["--version"]).await;
    assert_eq!(version, format!("zentinelctl {}\n", env!("CARGO_PKG_VERSION")));
    assert!(ctl.text(&["completions", "bash"]).await.contains("_zentinelctl"));
    assert!(plane.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rollout_in_the_way_is_named() {
    let plane = Plane::embedded().await;
    let ctl = Ctl::new(&plane);
    // A node that is told and never does anything.
    let client = zentinel_http::client::NodeClient::new(plane.url.clone()).unwrap();
    let request = zentinel_http::client::RegisterRequest { name: "edge-1".into(), ..Default::default() };
    let token = zentinel_core::Secret::new(plane.join_token.clone());
    client.register(&plane.project, Some(&token), &request).await.expect("registered");
    let wrong =
        client.register(&plane.project, Some(&zentinel_core::Secret::new("nonsense")), &request).await;
    assert!(wrong.unwrap_err().hint().unwrap().contains("zentinelctl node token create"));

    let kdl = ctl.file("edge.kdl", &example("edge.kdl"));
    ctl.json(&["bundle", "create", &kdl, "--version", "1.0.0", "--wait"]).await;
    let first = ctl.json(&["rollout", "create", "1.0.0"]).await;
    let (code, text) = ctl.refused(&["rollout", "create", "1.0.0"]).await;
    let named = format!("{} (bundle 1.0.0, running)", &first["id"].as_str().unwrap()[..8]);
    assert!(code == 73 && text.contains(&named) && text.contains("--supersede"), "{text}");
    ctl.json(&["rollout", "create", "1.0.0", "--supersede"]).await;
    let (code, text) = ctl.refused(&["rollout", "watch", "latest", "--interval", "-1"]).await;
    assert!(code == 2 && text.contains("expected 0.1 to 3600 seconds"), "{text}");
    assert!(plane.stop().await);
}
