//! Points at which a test can end the agent, as `kill -9` would.
//!
//! With the feature `crash-points`, the environment variable `ZENTINEL_CRASH_AT=<name>` kills the
//! process when it comes to that point for the first time, `<name>:<n>` when it comes there for the
//! n-th time. Release builds do not have the feature.

/// The names of all points, in the order of a node's life: those that begin with `register` belong to the
/// registration, the others to an activation; of these, those that begin with `restore` are on the way
/// back to the release that served before.
pub const CRASH_POINTS: &[&str] = &[
    "register-begun",
    "register-answered",
    "register-kept",
    "downloading",
    "downloaded",
    "unpacked",
    "state-begun",
    "rendering",
    "rendered",
    "checked",
    "journal-begun",
    "switching",
    "switched",
    "signalled",
    "proven",
    "settled",
    "journal-served",
    "state-settled",
    "reported",
    "restore-begun",
    "restore-switching",
    "restore-switched",
    "restore-signalled",
    "restore-proven",
    "journal-restored",
    "state-refused",
];

/// Comes to a point.
#[cfg(feature = "crash-points")]
pub(super) fn point(name: &str) {
    use std::sync::LazyLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static WANTED: LazyLock<Option<(String, u32)>> = LazyLock::new(|| {
        let wanted = std::env::var("ZENTINEL_CRASH_AT").ok()?;
        Some(match wanted.split_once(':') {
            Some((name, hit)) => (name.to_owned(), hit.parse().unwrap_or(1)),
            None => (wanted, 1),
        })
    });
    static HITS: AtomicU32 = AtomicU32::new(0);
    debug_assert!(CRASH_POINTS.contains(&name), "{name} is not listed");
    let Some((wanted, hit)) = &*WANTED else {
        return;
    };
    if wanted == name && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *hit {
        let myself = rustix::process::getpid();
        // Nothing must run after this, whether or not the signal has arrived.
        while rustix::process::kill_process(myself, rustix::process::Signal::KILL).is_ok() {
            std::thread::park();
        }
    }
}

/// Comes to a point.
#[cfg(not(feature = "crash-points"))]
pub(super) const fn point(_name: &str) {}
