//! What the proxy loads: the bundle's text and the agent's own listener and marker.

use super::addresses::OWN_LISTENER;
use crate::agent::activator::{CURRENT, Rejection, Release};
use crate::agent::check::{CONFIG, read_config};
use crate::agent::release::remove;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use url::Url;
use zentinel_compiler::document::Document;
use zentinel_compiler::manifest::Manifest;
use zentinel_compiler::model::Model;
use zentinel_compiler::source::MANIFEST_PATH;
use zentinel_core::entity::Activation;
use zentinel_core::id::BundleId;

/// The folder of rendered releases.
const RELEASES: &str = "releases";
/// What the agent knows about a release.
const ABOUT: &str = "release.json";
/// The configuration with paths below the release itself, for the proxy's own test.
pub(super) const TEST_CONFIG: &str = "test.kdl";
/// The host of the marker route; nobody can ask for it by accident.
pub(super) const MARKER_HOST: &str = "zentinel-agent.invalid";
/// Where the marker routes are.
const MARKER_PATH: &str = "/_zentinel/active";

/// A release on disk as the proxy loads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenderedRelease {
    /// The sequence of its statement.
    pub sequence: u64,
    /// The bundle.
    pub bundle_id: BundleId,
    /// What activating it takes.
    pub activation: Activation,
    /// Whether that was said for want of knowledge: a comparison with what serves decides.
    #[serde(default)]
    pub compare: bool,
    /// The path that only this release answers with a redirect, as its configuration has it.
    #[serde(skip)]
    pub marker: String,
    /// Where the marker is answered.
    pub probe: SocketAddr,
    /// Where the proxy is to accept connections.
    pub listeners: Vec<SocketAddr>,
    /// Where the proxy reports its measurements.
    pub metrics: Option<Url>,
    /// Whether the bundle itself says so; otherwise it is the proxy's default.
    pub metrics_configured: bool,
    /// Whether `proxy_error_500` counts nothing but errors: the successful answers of builtin handlers
    /// are counted there too, and no route has one.
    #[serde(default)]
    pub counts_500: bool,
}

impl RenderedRelease {
    /// Whether only a new process will do, whatever serves.
    pub(super) fn asks_for_restart(&self) -> bool {
        self.activation == Activation::Restart && !self.compare
    }

    /// Reads what is known of a release.
    pub(super) fn load(directory: &Path, sequence: u64) -> Option<Self> {
        let home = home(directory, sequence);
        let release: Self = serde_json::from_slice(&std::fs::read(home.join(ABOUT)).ok()?).ok()?;
        let kdl = std::fs::read_to_string(home.join(CONFIG)).ok()?;
        Some(Self { marker: marker_in(&kdl)?.to_owned(), ..release })
    }

    /// Gives a release that is not `current` a marker that it never had: whoever answers it has loaded the
    /// release since. The configuration is replaced with one rename.
    pub(super) fn freshened(&self, directory: &Path) -> std::io::Result<Self> {
        let home = home(directory, self.sequence);
        let path = home.join(CONFIG);
        let kdl = std::fs::read_to_string(&path)?;
        let old = path_line(&self.marker);
        let fresh = format!("{}-{:08x}", marker(self.sequence, self.bundle_id), rand::random::<u32>());
        let (before, after) = kdl.rsplit_once(&old).ok_or(std::io::ErrorKind::InvalidData)?;
        let draft = home.join("zentinel.kdl.new");
        let mut file = File::create(&draft)?;
        file.write_all(format!("{before}{}{after}", path_line(&fresh)).as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&draft, &path)?;
        File::open(&home)?.sync_all()?;
        Ok(Self { marker: fresh, ..self.clone() })
    }

    /// The release that `current` leads to.
    pub(crate) fn current(directory: &Path) -> Option<Self> {
        let target = std::fs::read_link(directory.join(CURRENT)).ok()?;
        let sequence = target.file_name()?.to_str()?.parse().ok()?;
        Self::load(directory, sequence)
    }
}

/// The setting that makes a marker.
fn path_line(marker: &str) -> String {
    format!("path \"{marker}\"")
}

/// The marker in a rendered configuration: the agent's own part comes last.
fn marker_in(kdl: &str) -> Option<&str> {
    let (_, rest) = kdl.rsplit_once(&format!("path \"{MARKER_PATH}/"))?;
    let (name, _) = rest.split_once('"')?;
    let begin = kdl.len() - rest.len() - MARKER_PATH.len() - 1;
    kdl.get(begin..begin + MARKER_PATH.len() + 1 + name.len())
}

fn marker(sequence: u64, bundle_id: BundleId) -> String {
    format!("{MARKER_PATH}/{sequence}-{bundle_id}")
}

/// Where a release is.
pub(super) fn home(directory: &Path, sequence: u64) -> PathBuf {
    directory.join(RELEASES).join(sequence.to_string())
}

/// Adds the agent's listener and marker to a configuration. Repeated blocks merge.
fn with_marker(kdl: &str, sequence: u64, bundle_id: BundleId, probe: SocketAddr) -> String {
    let path = path_line(&marker(sequence, bundle_id));
    format!(
        r#"{kdl}
// Added by zentinel-agent: answers which release serves.
listeners {{
    listener "{OWN_LISTENER}" {{
        address "{probe}"
    }}
}}
filters {{
    filter "zentinel-agent-marker" {{
        type "redirect"
        hostname "{MARKER_HOST}"
        status-code 302
    }}
}}
routes {{
    route "zentinel-agent-marker" {{
        priority "critical"
        matches {{
            host "{MARKER_HOST}"
            {path}
        }}
        filters "zentinel-agent-marker"
    }}
}}
"#
    )
}

/// The text that the proxy loads for a release.
pub(super) fn text(release: &Release, probe: SocketAddr) -> Result<String, Rejection> {
    let kdl = read_config(&release.directory)?;
    Ok(with_marker(&kdl, release.sequence, release.bundle_id, probe))
}

/// Reads off a checked text what the agent must know.
pub(super) fn describe(
    release: &Release,
    kdl: &str,
    probe: SocketAddr,
    metrics_url: Option<&Url>,
) -> Result<RenderedRelease, Rejection> {
    let invalid = |message: String| Rejection::new("invalid_config", message);
    let model = Model::parse(kdl).map_err(|error| invalid(error.to_string()))?;
    let config = model.config();
    let mut addresses = Vec::new();
    for (_, address) in listeners(&model) {
        let address: SocketAddr =
            address.parse().map_err(|_| invalid(format!("listener address {address} is not IP:PORT")))?;
        addresses.push(reachable(address));
    }
    let document =
        Document::parse(kdl).map_err(|_| invalid("the configuration does not parse".to_owned()))?;
    let metrics = &config.observability.metrics;
    let own = || -> Option<Url> {
        let address = reachable(metrics.address.parse().ok()?);
        Url::parse(&format!("http://{address}{}", metrics.path)).ok().filter(|_| metrics.enabled)
    };
    Ok(RenderedRelease {
        sequence: release.sequence,
        bundle_id: release.bundle_id,
        activation: release.activation,
        compare: release.compare,
        marker: marker(release.sequence, release.bundle_id),
        probe: reachable(probe),
        listeners: addresses,
        metrics: metrics_url.cloned().or_else(own),
        metrics_configured: metrics.enabled && document.get("observability/metrics").is_some(),
        counts_500: document.nodes().all(|node| node.name() != "builtin-handler"),
    })
}

/// The listeners of every scope: their ids and addresses.
pub(super) fn listeners(model: &Model) -> Vec<(&str, &str)> {
    let config = model.config();
    let scoped = config.namespaces.iter().flat_map(|space| {
        space.listeners.iter().chain(space.services.iter().filter_map(|service| service.listener.as_ref()))
    });
    let all = config.listeners.iter().chain(scoped);
    all.map(|listener| (listener.id.as_str(), listener.address.as_str())).collect()
}

/// Where this machine reaches what listens on an address.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// Writes a release to its place, which is there completely or not at all, and durable. The
/// bundle's other files are beside the configuration under their own paths.
pub(super) fn place(
    directory: &Path,
    release: &Release,
    rendered: &RenderedRelease,
    kdl: &str,
) -> std::io::Result<()> {
    let home = home(directory, rendered.sequence);
    let draft = home.with_extension("new");
    remove(&draft)?;
    std::fs::create_dir_all(&draft)?;
    let manifest: Manifest = serde_json::from_slice(&std::fs::read(release.directory.join(MANIFEST_PATH))?)?;
    for file in manifest.files.iter().filter(|file| file.path != CONFIG) {
        link(&release.directory.join(&file.path), &draft.join(&file.path))?;
    }
    let about = serde_json::to_vec_pretty(rendered)?;
    let test = below(kdl, directory, &home);
    for (name, bytes) in [(CONFIG, kdl.as_bytes()), (TEST_CONFIG, test.as_bytes()), (ABOUT, &about)] {
        let mut file = File::create(draft.join(name))?;
        file.write_all(bytes)?;
        file.sync_all()?;
    }
    File::open(&draft)?.sync_all()?;
    // Only what a broken attempt or an equal one left can be there.
    remove(&home)?;
    std::fs::rename(&draft, &home)?;
    home.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

/// The text with every path below `current` led to the release itself, which `current` does not
/// lead to yet.
fn below(kdl: &str, directory: &Path, home: &Path) -> String {
    let current = format!("{}/", directory.join(CURRENT).display());
    kdl.replace(&current, &format!("{}/", home.display()))
}

/// Where a path of the configuration will lead once `current` leads to the release.
pub(super) fn resolve(path: &str, directory: &Path, sequence: u64) -> PathBuf {
    let path = directory.join(path);
    match path.strip_prefix(directory.join(CURRENT)) {
        Ok(rest) => home(directory, sequence).join(rest),
        Err(_) => path,
    }
}

/// Gives a file a second name, or copies it where that is not possible.
fn link(from: &Path, to: &Path) -> std::io::Result<()> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::hard_link(from, to).or_else(|_| std::fs::copy(from, to).map(drop))
}

/// Removes every release but the kept ones. What cannot be removed is tried again after the next
/// activation.
pub(super) fn prune(directory: &Path, kept: &[u64]) {
    let entries = std::fs::read_dir(directory.join(RELEASES)).into_iter().flatten();
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
        let sequence = path.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
        if sequence.is_some_and(|sequence| kept.contains(&sequence)) {
            continue;
        }
        if let Err(error) = remove(&path) {
            tracing::warn!(path = %path.display(), %error, "not removed");
        }
    }
}
