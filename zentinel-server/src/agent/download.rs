//! Fetching an archive: resumed where the last transfer broke off, and checked against its
//! statement.

use super::activator::Rejection;
use super::{crash, release};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use url::Url;
use zentinel_core::statement::Statement;
use zentinel_core::{Error, Kind, Result, Sha256Digest};
use zentinel_http::client::NodeClient;

/// The folder of unfinished transfers.
pub(super) const DOWNLOADS: &str = "downloads";

/// Brings the statement's bundle to `<directory>/bundles/<id>` and answers that path. Repeating
/// it after a crash at any point goes on where it stopped.
///
/// # Errors
/// A final rejection for bytes that have the stated digest but are no archive; everything else is
/// a fault that may pass.
pub(super) async fn fetch(
    client: &NodeClient,
    directory: &Path,
    statement: &Statement,
    url: &Url,
) -> Result<PathBuf, Rejection> {
    let home = directory.join(release::BUNDLES).join(statement.bundle_id.to_string());
    let found = home.clone();
    if blocking(move || Ok(release::is_intact(&found))).await? {
        return Ok(home);
    }
    crash::point("downloading");
    let archive = download(client, directory, statement, url)
        .await
        .map_err(|error| Rejection::fault("download_failed", error.to_string()))?;
    crash::point("downloaded");
    let target = home.clone();
    blocking(move || release::install(&target, &archive)).await?;
    crash::point("unpacked");
    Ok(home)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Rejection> + Send + 'static,
) -> Result<T, Rejection> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Rejection::fault("activation_failed", error.to_string()))?
}

async fn download(
    client: &NodeClient,
    directory: &Path,
    statement: &Statement,
    url: &Url,
) -> Result<Vec<u8>> {
    let downloads = directory.join(DOWNLOADS);
    std::fs::create_dir_all(&downloads).map_err(|error| failed(&downloads, error))?;
    let part = downloads.join(format!("{}.part", statement.archive_sha256));
    let (mut file, present) = open(&part, statement.archive_size).map_err(|error| failed(&part, error))?;
    if present < statement.archive_size {
        let sink = |chunk: bytes::Bytes| file.write_all(&chunk).map_err(|error| failed(&part, error));
        let transfer = client.download_to(url, present, statement.archive_size, sink).await;
        if transfer.as_ref().is_err_and(|error| error.kind() == Kind::TooLarge) {
            // What is there does not fit what the server has: the next try starts over.
            remove(&part)?;
        }
        transfer?;
    }
    let bytes = tokio::fs::read(&part).await.map_err(|error| failed(&part, error))?;
    let genuine =
        bytes.len() as u64 == statement.archive_size && Sha256Digest::of(&bytes) == statement.archive_sha256;
    // A transfer that broke off is an error above. Whole or spoilt, the partial file is of no further use.
    remove(&part)?;
    if genuine { Ok(bytes) } else { Err(Error::unavailable("the download does not have the stated digest")) }
}

/// The partial file, and how much of it to keep.
fn open(part: &Path, most: u64) -> std::io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(part)?;
    let present = file.metadata()?.len();
    if present <= most {
        return Ok((file, present));
    }
    file.set_len(0)?;
    Ok((file, 0))
}

fn remove(part: &Path) -> Result<()> {
    match std::fs::remove_file(part) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(failed(part, error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("{}: {error}", path.display())).with_source(error)
}
