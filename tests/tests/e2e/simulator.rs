//! The simulator as a process.

use serde_json::Value;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use zentinel_tests::binary;
use zentinel_tests::plane::Plane;

/// A running simulator; killed when dropped.
pub(crate) struct Simulator(Child);

impl Simulator {
    pub(crate) fn start(plane: &Plane, nodes: usize, arguments: &[&str]) -> Self {
        let mut command = Command::new(binary::path().with_file_name("zentinel-sim"));
        command
            .args(["--server", plane.url.as_str(), "--project", &plane.project, "--json"])
            .args(["--nodes", &nodes.to_string()])
            .args(arguments)
            .env_clear()
            .env("ZENTINEL_TOKEN", &plane.join_token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Self(command.spawn().expect("it starts"))
    }

    /// Ends it in order; answers whether it was content, and its summary.
    pub(crate) fn stop(mut self) -> (bool, Value) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("kill runs").success());
        self.summary()
    }

    pub(crate) fn summary(&mut self) -> (bool, Value) {
        let mut text = String::new();
        self.0.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
        let content = self.0.wait().expect("it ends").success();
        (content, serde_json::from_str(&text).expect("one JSON object"))
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // Already gone when it was stopped.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}
