//! What the agent relies on in the proxy. The stand-in must do the same as the real one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use zentinel_tests::node::{LIMIT, ProxyConfig, certificate, file, proxy_binary, tls_listener, which};
use zentinel_tests::plane::free_port;
use zentinel_tests::traffic::{Traffic, Upstream};
use zentinel_tests::wait_for;

struct Proxy {
    child: Child,
    config: ProxyConfig,
    file: PathBuf,
    _directory: TempDir,
    _upstream: Upstream,
}

impl Proxy {
    async fn start(more: &str) -> Self {
        let proxy = Self::launch(more, &[]).await;
        proxy.serves("v1").await;
        proxy
    }

    async fn launch(more: &str, more_listeners: &[u16]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let upstream = Upstream::start().await;
        let config = ProxyConfig {
            version: "v1".into(),
            listen: free_port(),
            more_listeners: more_listeners.to_vec(),
            metrics: free_port(),
            upstream: upstream.address,
            special: Vec::new(),
            more: more.to_owned(),
        };
        let file = directory.path().join("zentinel.kdl");
        std::fs::write(&file, config.kdl()).unwrap();
        let log = std::fs::File::create(directory.path().join("log")).unwrap();
        let child = Command::new(proxy_binary())
            .args(["run", "-c"])
            .arg(&file)
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, config, file, _directory: directory, _upstream: upstream }
    }

    async fn serves(&self, version: &str) {
        wait_for(&format!("{version} to serve"), LIMIT, || async {
            (which(self.config.listen).await.as_deref() == Some(version)).then_some(())
        })
        .await;
    }

    fn reload(&self, text: &str) {
        std::fs::write(&self.file, text).unwrap();
        self.signal("-HUP");
    }

    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap().success()
        );
    }

    async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.config.metrics);
        reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self._directory.path().join("log")).unwrap()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("{}", &log[log.len().saturating_sub(4000)..]);
        }
    }
}

async fn closed(port: u16) -> bool {
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_swaps_routes_at_once_and_costs_no_request() {
    let mut proxy = Proxy::start("").await;
    let traffic = Traffic::start(&format!("http://127.0.0.1:{}/", proxy.config.listen));
    for version in ["v2", "v3", "v4"] {
        proxy.reload(&proxy.config.version(version).kdl());
        proxy.serves(version).await;
    }
    traffic.stop_unharmed().await;
    assert!(proxy.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_file_leaves_everything_as_it_was() {
    let mut proxy = Proxy::start("").await;
    let dangling = proxy.config.version("v2").kdl().replace("upstream \"app\"\n", "upstream \"nobody\"\n");
    assert!(dangling.contains("nobody"));
    for bad in ["routes {", &dangling] {
        proxy.reload(bad);
        // Whether the reload is over can't be seen from outside: the next good one comes after it.
        assert_eq!(which(proxy.config.listen).await.as_deref(), Some("v1"));
    }
    std::fs::remove_file(&proxy.file).unwrap();
    proxy.signal("-HUP");
    proxy.reload(&proxy.config.version("v3").kdl());
    proxy.serves("v3").await;
    assert!(proxy.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_expression_passes_the_test_and_keeps_the_old_routes() {
    let mut proxy = Proxy::start("").await;
    let more = "routes {\n    route \"new\" {\n        priority \"high\"\n        matches {\n            path \"/new\"\n        }\n        filters \"which\"\n    }\n}\n";
    let bad = ProxyConfig { more: more.to_owned(), ..proxy.config.version("v2") };
    let bad = bad.kdl().replace("path-prefix \"/\"", "path-regex \"([\"");
    assert!(tested(&bad), "the proxy's own test does not see it");
    proxy.reload(&bad);
    let log = || async { proxy.log().to_lowercase().contains("completed successfully").then_some(()) };
    wait_for("the false success", LIMIT, log).await;
    // New filters under the old routes: only a new route can prove that routes are new.
    proxy.serves("v2").await;
    let new = reqwest::get(format!("http://127.0.0.1:{}/new", proxy.config.listen)).await.unwrap();
    assert_eq!((new.status().as_u16(), new.text().await.unwrap().as_str()), (200, "up"));
    assert!(proxy.is_alive());
    // A start with it fails.
    drop(proxy.child.kill());
    let started = Command::new(proxy_binary()).args(["run", "-c"]).arg(&proxy.file).output().unwrap();
    assert!(!started.status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_are_not_rebuilt() {
    let mut proxy = Proxy::start("").await;
    let old = proxy.config.listen;
    let mut moved = proxy.config.version("v2");
    moved.listen = free_port();
    moved.metrics = free_port();
    proxy.reload(&moved.kdl());
    wait_for("the new routes on the old port", LIMIT, || async {
        (which(old).await.as_deref() == Some("v2")).then_some(())
    })
    .await;
    assert!(closed(moved.listen).await && closed(moved.metrics).await);
    assert!(proxy.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_or_authority_that_is_missing_or_none_costs_the_listener() {
    let (good, none, absent) = (certificate(), file("none\n"), Path::new("/nonexistent/certificate.pem"));
    for (pem, clients) in [(absent, None), (none.path(), None), (good.path(), Some(none.path()))] {
        let tls = free_port();
        let mut proxy = Proxy::start(&tls_listener(tls, pem, clients)).await;
        assert!(tested(&proxy.config.kdl()), "the proxy's own test does not see it");
        assert!(closed(tls).await);
        assert!(proxy.is_alive());
    }
    // And nothing else does.
    let tls = free_port();
    let proxy = Proxy::start(&tls_listener(tls, good.path(), Some(good.path()))).await;
    wait_for("the listener", LIMIT, || async { (!closed(tls).await).then_some(()) }).await;
    drop(proxy);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_working_directory_no_process_starts() {
    let mut proxy = Proxy::start("").await;
    drop(proxy.child.kill());
    drop(proxy.child.wait());
    let text = proxy.config.kdl();
    let text = text.replace("worker-threads 1", "worker-threads 1\n    working-directory \"/nonexistent\"");
    assert!(tested(&text), "the proxy's own test does not see it");
    std::fs::write(&proxy.file, text).unwrap();
    let started = Command::new(proxy_binary()).args(["run", "-c"]).arg(&proxy.file).output().unwrap();
    assert!(!started.status.success(), "{started:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_address_holds_every_listener_up() {
    let holder = std::net::TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let mut proxy = Proxy::launch("", &[holder.local_addr().unwrap().port()]).await;
    // The metrics have a listener of their own, and tell that the process is up.
    wait_for("the metrics", LIMIT, || async {
        reqwest::get(format!("http://127.0.0.1:{}/metrics", proxy.config.metrics)).await.ok().map(drop)
    })
    .await;
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(which(proxy.config.listen).await, None);
    assert!(proxy.is_alive());
    drop(holder);
    proxy.serves("v1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_names_labels_and_rules_that_the_agent_counts_by() {
    let dead = free_port();
    let more = format!(
        r#"upstreams {{
    upstream "dead" {{
        target "127.0.0.1:{dead}"
    }}
}}
routes {{
    route "dead" {{
        priority "high"
        matches {{
            path "/dead"
        }}
        upstream "dead"
    }}
    route "health" {{
        priority "high"
        matches {{
            path "/health"
        }}
        builtin-handler "health"
    }}
}}
"#
    );
    let proxy = Proxy::start(&more).await;
    let url = format!("http://127.0.0.1:{}", proxy.config.listen);
    assert_eq!(reqwest::get(format!("{url}/app")).await.unwrap().text().await.unwrap(), "up");
    assert_eq!(reqwest::get(format!("{url}/dead")).await.unwrap().status(), 503);
    assert_eq!(reqwest::get(format!("{url}/health")).await.unwrap().status(), 200);
    let lines = [
        r#"zentinel_requests_total{method="GET",route="app",status="200"} 1"#,
        r#"zentinel_blocked_requests_total{reason="proxy_error_503"} 1"#,
        r#"zentinel_blocked_requests_total{reason="proxy_error_500"} 1"#,
        r#"zentinel_request_duration_seconds_bucket{method="GET",route="app",le="10"} 1"#,
        r#"zentinel_request_duration_seconds_bucket{method="GET",route="app",le="+Inf"} 1"#,
        r#"zentinel_request_duration_seconds_count{method="GET",route="app"} 1"#,
        r#"zentinel_build_info{version="0.6.45"} 1"#,
        "zentinel_up 1",
    ];
    // A request is counted after it was answered.
    wait_for("every line", Duration::from_secs(10), || async {
        let text = proxy.metrics().await;
        let missing: Vec<_> = lines.iter().filter(|line| !text.lines().any(|it| it == **line)).collect();
        if !missing.is_empty() {
            eprintln!("missing {missing:?}");
        }
        missing.is_empty().then_some(())
    })
    .await;
    let text = proxy.metrics().await;
    let counted: Vec<_> = text.lines().filter(|line| line.starts_with("zentinel_requests_total{")).collect();
    assert_eq!(counted.len(), 1, "neither redirects nor errors of the proxy's own: {counted:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_given_up_is_answered_for_with_500() {
    let mut proxy = Proxy::start("").await;
    let mut dead = proxy.config.version("v2");
    dead.upstream.set_port(free_port());
    proxy.reload(&dead.kdl());
    proxy.serves("v2").await;
    let url = format!("http://127.0.0.1:{}/", proxy.config.listen);
    wait_for("the upstream to be given up", LIMIT, || async {
        (reqwest::get(&url).await.unwrap().status() == 500).then_some(())
    })
    .await;
    wait_for("it to be counted", LIMIT, || async {
        let text = proxy.metrics().await;
        text.contains(r#"zentinel_blocked_requests_total{reason="proxy_error_500"}"#).then_some(())
    })
    .await;
    assert!(!proxy.metrics().await.contains("zentinel_requests_total{"));
    assert!(proxy.is_alive());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_on_request_is_prompt() {
    let mut proxy = Proxy::start("").await;
    proxy.signal("-TERM");
    let status = wait_for("the end", Duration::from_secs(15), || {
        let ended = proxy.child.try_wait().unwrap();
        async move { ended }
    })
    .await;
    assert!(status.success(), "{status}");
    assert!(closed(proxy.config.listen).await);
}

/// Whether the proxy's own test of a file succeeds.
fn tested(text: &str) -> bool {
    let file = tempfile::Builder::new().suffix(".kdl").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let test = |path: &Path| Command::new(proxy_binary()).args(["test", "-c"]).arg(path).output().unwrap();
    test(file.path()).status.success()
}
