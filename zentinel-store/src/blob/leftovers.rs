//! What a process that was killed in the middle of a put leaves behind.

use std::path::Path;
use std::time::{Duration, SystemTime};

/// A draft that was not touched for this long belongs to nobody: a put takes seconds.
const FORGOTTEN: Duration = Duration::from_secs(3_600);
/// How deep blobs lie below the directory, generously.
const DEPTH: u32 = 8;

/// Removes forgotten drafts, named `<blob>#<number>`; no blob's key has a `#`. Fresh ones stay, as
/// another process may be writing them. Returns how many are gone; what can't be read or removed stays.
pub(super) fn remove(directory: &Path, now: SystemTime) -> usize {
    remove_below(directory, now, DEPTH)
}

fn remove_below(directory: &Path, now: SystemTime, depth: u32) -> usize {
    let Ok(entries) = std::fs::read_dir(directory) else { return 0 };
    let mut removed = 0;
    for entry in entries.flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() && depth > 0 {
            removed += remove_below(&entry.path(), now, depth - 1);
        } else if meta.is_file() && is_draft(&entry.file_name().to_string_lossy()) {
            let age = meta.modified().ok().and_then(|written| now.duration_since(written).ok());
            if age.is_some_and(|age| age >= FORGOTTEN) && std::fs::remove_file(entry.path()).is_ok() {
                removed += 1;
            }
        }
    }
    removed
}

fn is_draft(name: &str) -> bool {
    let number = name.rsplit_once('#').map(|(_, number)| number);
    number.is_some_and(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_forgotten_drafts_go() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("bundles/project");
        fs::create_dir_all(&below).unwrap();
        for name in ["a.tar.zst", "a.tar.zst#1", "b.tar.zst#12", "c#x", "d#"] {
            fs::write(below.join(name), "x").unwrap();
        }
        let written = fs::metadata(below.join("a.tar.zst#1")).unwrap().modified().unwrap();
        assert_eq!(remove(directory.path(), written + FORGOTTEN / 2), 0, "somebody may be at it");
        assert_eq!(remove(directory.path(), written + FORGOTTEN * 2), 2);
        let mut left: Vec<_> = fs::read_dir(&below)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["a.tar.zst", "c#x", "d#"]);
        assert_eq!(remove(&directory.path().join("absent"), written), 0);
    }
}
