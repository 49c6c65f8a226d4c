//! Limits that the child sets on itself.

use std::io;
use std::time::Duration;

/// Takes away what a parser does not need: memory beyond `memory` more bytes, processor time beyond the
/// time limit, files, and core dumps.
#[cfg(unix)]
pub(super) fn apply(memory: Option<u64>, time: Duration) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let memory = memory.map(|memory| memory.saturating_add(mapped()));
    let limit = |resource, value: u64| {
        setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }).map_err(io::Error::from)
    };
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    // Standard input, output and error stay open; nothing else can be opened.
    limit(Resource::Nofile, 3)?;
    limit(Resource::Cpu, time.as_secs().saturating_add(2))?;
    match memory {
        Some(memory) => limit(Resource::As, memory),
        None => Ok(()),
    }
}

/// Bytes of address space that are taken before anything is parsed: an allocator may have reserved far
/// more than it uses. 0 where the system does not say.
#[cfg(unix)]
fn mapped() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kilobytes = size.and_then(|size| size.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or(0).saturating_mul(1024)
}

/// Other systems have no such limits; the parent's time limit holds everywhere.
#[cfg(not(unix))]
pub(super) fn apply(_memory: Option<u64>, _time: Duration) -> io::Result<()> {
    Ok(())
}
