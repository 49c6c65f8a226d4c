//! A machine becomes a node in two commands: below a directory of its own, and from there for real.

use crate::ctl::Ctl;
use serde_json::Value;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Output, Stdio};
use std::time::Duration;
use zentinel_tests::binary;
use zentinel_tests::plane::Plane;
use zentinel_tests::wait_for;

const LIMIT: Duration = Duration::from_secs(60);

/// A root directory with a user and a proxy.
struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { root: tempfile::tempdir().unwrap() };
        let own = std::fs::metadata(machine.root.path()).unwrap();
        std::fs::create_dir_all(machine.at("/etc")).unwrap();
        std::fs::create_dir_all(machine.at("/usr/local/bin")).unwrap();
        let passwd = format!("root:x:0:0::/:/bin/sh\nzentinel:x:{}:{}::/:/bin/false\n", own.uid(), own.gid());
        std::fs::write(machine.at("/etc/passwd"), passwd).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_stand-in-proxy"), machine.at("/usr/local/bin/zentinel")).unwrap();
        machine
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path.trim_start_matches('/'))
    }

    fn text(&self, path: &str) -> String {
        std::fs::read_to_string(self.at(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn mode(&self, path: &str) -> u32 {
        std::fs::metadata(self.at(path)).unwrap().permissions().mode() & 0o7777
    }

    /// `zentinel-agent install` below this root.
    fn install(&self, arguments: &[&str]) -> Output {
        self.install_on(arguments, |_| {})
    }

    fn install_on(&self, arguments: &[&str], set: impl FnOnce(&mut std::process::Command)) -> Output {
        let root = self.root.path().display().to_string();
        let arguments: Vec<&str> = ["install", "--root", &root].iter().chain(arguments).copied().collect();
        let mut command = binary::tool("zentinel-agent", &arguments, &[]);
        set(&mut command);
        command.output().expect("it runs")
    }
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

const GIVEN: [&str; 10] = [
    "--server",
    "https://cp.example.com",
    "--project",
    "edge",
    "--token",
    "a-registration-token",
    "--name",
    "edge-1",
    "--label",
    "topology/zone=eu-1",
];

#[test]
fn installing_writes_everything_once_and_only_what_differs_again() {
    let machine = Machine::new();
    let planned = stdout(&machine.install(&[&GIVEN[..], &["--dry-run"]].concat()));
    assert!(planned.contains("would write  /etc/zentinel/agent.toml") && planned.contains("--dry-run"));
    assert!(!machine.at("/etc/zentinel").exists(), "nothing was done");

    let told = stdout(&machine.install(&GIVEN));
    assert_eq!(told.lines().last(), Some("systemctl enable --now zentinel-agent"));
    assert!(!told.contains("a-registration-token"));
    let settings = machine.text("/etc/zentinel/agent.toml");
    for line in [
        "server = \"https://cp.example.com/\"",
        "project = \"edge\"",
        "name = \"edge-1\"",
        "\"topology/zone\" = \"eu-1\"",
        "token_file = \"/etc/zentinel/registration.token\"",
        "binary = \"/usr/local/bin/zentinel\"",
    ] {
        assert!(settings.lines().any(|found| found == line), "{line} in\n{settings}");
    }
    assert!(!settings.contains("a-registration-token"));
    assert_eq!(machine.text("/etc/zentinel/registration.token"), "a-registration-token\n");
    let modes = [
        ("/etc/zentinel/agent.toml", 0o640),
        ("/etc/zentinel/registration.token", 0o600),
        ("/usr/local/bin/zentinel-agent", 0o755),
        ("/etc/systemd/system/zentinel-agent.service", 0o644),
        ("/etc/sysusers.d/zentinel-agent.conf", 0o644),
        ("/var/lib/zentinel-agent", 0o700),
    ];
    for (path, mode) in modes {
        assert_eq!(machine.mode(path), mode, "{path}");
    }

    let again = stdout(&machine.install(&GIVEN));
    assert!(!again.contains("wrote"), "{again}");
    // What was given before is kept; the token too, which nobody needs to give again.
    let other = stdout(&machine.install(&["--label", "tier=1", "--name", "edge-2"]));
    let wrote: Vec<&str> = other.lines().filter(|line| line.starts_with("wrote")).collect();
    assert_eq!(wrote, ["wrote  /etc/zentinel/agent.toml"]);
    let changed = machine.text("/etc/zentinel/agent.toml");
    assert_eq!(
        changed.replace("edge-2", "edge-1").replace("tier = \"1\"\n", ""),
        settings,
        "only what was given again has changed"
    );
    assert!(changed.contains("edge-2") && changed.contains("tier = \"1\""), "{changed}");
    assert_eq!(machine.text("/etc/zentinel/registration.token"), "a-registration-token\n");
}

#[test]
fn what_stands_in_the_way_is_named() {
    let machine = Machine::new();
    let refused = |output: &Output, code: i32, words: &[&str]| {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{text}");
        for word in words {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert!(!machine.at("/etc/systemd").exists(), "nothing half-done");
    };
    refused(&machine.install(&GIVEN[..4]), 65, &["token", "zentinelctl node token create"]);
    refused(&machine.install(&GIVEN[2..]), 65, &["server"]);
    refused(&machine.install(&[&GIVEN[..], &["--user", "Edge 1"]].concat()), 65, &["user"]);
    refused(
        &machine.install(&[&GIVEN[..], &["--directory", "/srv/x"]].concat()),
        65,
        &["/var/lib/zentinel-agent"],
    );
    let no_user = machine.install_on(&[&GIVEN[..], &["--user", "edge"]].concat(), |command| {
        command.env("PATH", machine.root.path());
    });
    refused(&no_user, 66, &["no user edge", "useradd --system"]);
    std::fs::remove_file(machine.at("/usr/local/bin/zentinel")).unwrap();
    let root = machine.root.path().display().to_string();
    refused(&machine.install(&GIVEN), 65, &["/usr/local/bin/zentinel", "--proxy-binary", &root]);
    // A program of this machine is none of the image.
    let named = machine.install(&[&GIVEN[..], &["--proxy-binary", "/bin/sh"]].concat());
    refused(&named, 65, &["/bin/sh", &format!("below {root}")]);
}

#[test]
fn a_missing_user_is_made_by_the_file_that_describes_it() {
    let machine = Machine::new();
    // Real ones need rights that a test may lack; what they are told is what counts.
    let script = "#!/bin/sh\nset -e\nroot=${1#--root=}\ngrep -q '^u edge ' \"$2\"\n\
        echo \"edge:x:$(id -u):$(id -g)::/:/bin/false\" >> \"$root/etc/passwd\"\n";
    let program = machine.at("/tools/systemd-sysusers");
    std::fs::create_dir_all(program.parent().unwrap()).unwrap();
    std::fs::write(&program, script).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", machine.at("/tools").display());
    let arguments = [&GIVEN[..], &["--user", "edge"]].concat();
    let told = stdout(&machine.install_on(&arguments, |command| {
        command.env("PATH", path);
    }));
    assert!(told.contains("wrote  system user edge"), "{told}");
    let unit = machine.text("/etc/systemd/system/zentinel-agent.service");
    assert!(unit.contains("\nUser=edge\nGroup=edge\n"));
}

/// The unit's command, for a root that is not `/`.
struct Service(Child);

impl Service {
    fn start(machine: &Machine, ports: &[(&str, String)]) -> Self {
        let unit = machine.text("/etc/systemd/system/zentinel-agent.service");
        let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let words: Vec<&str> = start.split(' ').collect();
        assert_eq!(words[..3], ["/usr/local/bin/zentinel-agent", "run", "--config"]);
        let child = std::process::Command::new(machine.at(words[0]))
            .args([Path::new("run"), Path::new("--config"), &machine.at(words[3])])
            .args([Path::new("--directory"), &machine.at("/var/lib/zentinel-agent")])
            .args([Path::new("--token-file"), &machine.at("/etc/zentinel/registration.token")])
            .args([Path::new("--proxy-binary"), &machine.at("/usr/local/bin/zentinel")])
            .args(["--heartbeat-interval-seconds", "0.3", "--stop-with-agent"])
            .args(ports.iter().flat_map(|(flag, value)| [*flag, value.as_str()]))
            .env_clear()
            .stdin(Stdio::null())
            .spawn()
            .expect("it starts");
        Self(child)
    }

    async fn stop(mut self) {
        let pid = self.0.id().to_string();
        let stopped = tokio::task::spawn_blocking(move || {
            std::process::Command::new("kill").args(["-TERM", &pid]).status().expect("kill");
            self.0.wait().expect("it ends")
        });
        assert!(stopped.await.unwrap().success());
    }
}

/// When the control plane last heard from the node.
async fn last_seen(ctl: &Ctl) -> Option<String> {
    let list = ctl.json(&["node", "list", "--status", "online"]).await;
    let node = list["nodes"].as_array()?.first()?.clone();
    assert_eq!((&node["name"], &node["labels"]["rack"]), (&Value::from("edge-1"), &Value::from("12")));
    Some(node["last_seen_at"].as_str()?.to_owned())
}

async fn heard_after(ctl: &Ctl, before: Option<String>) -> String {
    wait_for("a heartbeat", LIMIT, async || {
        let seen = last_seen(ctl).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        seen.filter(|seen| Some(seen) > before.as_ref())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_commands_make_a_node_and_three_give_it_a_new_key() {
    let plane = Plane::embedded().await;
    let ctl = Ctl::new(&plane);
    let token = ctl.directory.path().join("token").display().to_string();
    ctl.text(&["node", "token", "create", "--label", "rack=12", "--output", &token]).await;
    let machine = Machine::new();
    let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let flags = [("--probe-listen", probe)];
    let server = plane.url.to_string();
    stdout(&machine.install(&[
        "--server",
        &server,
        "--project",
        &plane.project,
        "--token-file",
        &token,
        "--name",
        "edge-1",
    ]));
    let service = Service::start(&machine, &flags);
    let first = heard_after(&ctl, None).await;

    // A new key is only taken while the agent is not at it.
    ctl.text(&["node", "revoke", "edge-1", "--yes"]).await;
    let key = ctl.directory.path().join("key.new").display().to_string();
    ctl.text(&["node", "rotate-key", "edge-1", "--output", &key]).await;
    let directory = machine.at("/var/lib/zentinel-agent").display().to_string();
    let set_key = || {
        binary::tool("zentinel-agent", &["set-key", &key, "--directory", &directory], &[]).output().unwrap()
    };
    let busy = set_key();
    assert_eq!(busy.status.code(), Some(73), "{}", String::from_utf8_lossy(&busy.stderr));
    service.stop().await;
    assert!(stdout(&set_key()).contains("has its new key"));
    assert_eq!(machine.mode("/var/lib/zentinel-agent/node.json"), 0o600);
    let service = Service::start(&machine, &flags);
    heard_after(&ctl, Some(first)).await;
    let node = ctl.json(&["node", "show", "edge-1"]).await;
    assert_eq!(node["node"]["status"], "online");

    // Installing again needs no token, and keeps what is set.
    let again =
        stdout(&machine.install(&["--server", &server, "--project", &plane.project, "--name", "edge-1"]));
    assert!(!again.contains("wrote"), "{again}");
    service.stop().await;
    assert!(plane.stop().await);
}

fn deployed(name: &str) -> String {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../zentinel-server/deploy");
    std::fs::read_to_string(directory.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn units_call_what_the_programs_understand() {
    for (unit, program) in
        [("zentinel-server.service", "zentinel-server"), ("zentinel-agent.service", "zentinel-agent")]
    {
        let text = deployed(unit);
        let start = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("ExecStart");
        let mut words: Vec<&str> = start.split(' ').collect();
        assert_eq!(words.remove(0), format!("/usr/local/bin/{program}"));
        words.push("--help");
        stdout(&binary::tool(program, &words, &[]).output().unwrap());
    }
    // The proxy that systemd runs loads what the agent switches, and is found where the agent looks.
    let proxy = deployed("zentinel-proxy.service");
    assert!(proxy.contains("run -c /var/lib/zentinel-agent/current/zentinel.kdl\n"));
    assert_eq!(proxy.matches("/run/zentinel-proxy/pid").count(), 3);
}

#[test]
fn every_line_of_the_servers_example_settings_is_a_setting() {
    let text = deployed("server.env");
    let lines = text.lines().filter_map(|line| line.trim_start_matches('#').split_once('='));
    let mut environment: Vec<(String, String)> = lines
        .filter(|(name, _)| !name.contains(' '))
        .map(|(name, value)| (name.into(), value.into()))
        .collect();
    assert_eq!(environment.len(), 12, "{environment:?}");
    for (_, value) in environment.iter_mut().filter(|(_, value)| value.is_empty()) {
        *value = "example".to_owned();
    }
    let shown = stdout(&binary::command(&["--check", "--json"], &environment).output().unwrap());
    let shown: Value = serde_json::from_str(&shown).unwrap();
    for (name, setting) in [
        ("S3_BUCKET", "blobs.s3_bucket"),
        ("ZENTINEL_PUBLIC_URL", "public_url"),
        ("ZENTINEL__LOG__FORMAT", "log.format"),
        ("ZENTINEL__SIGNING__MASTER_KEY_FILE", "signing.master_key_file"),
    ] {
        let given = &environment.iter().find(|(found, _)| found == name).expect(name).1;
        assert_eq!(shown[setting].as_str().map(|text| text.trim_end_matches('/')), Some(given.as_str()));
    }
}
