//! Fetching an archive: with resume, verified, unpacked with limits into its own directory.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt as _;
use url::Url;
use zentinel_compiler::unpack::{UnpackLimits, unpack};
use zentinel_core::statement::Statement;
use zentinel_core::{Error, Result, Sha256Digest};
use zentinel_http::client::NodeClient;

/// Brings the statement's bundle to `<directory>/bundles/<id>` and answers that path. Repeating
/// it after a crash at any point goes on where it stopped.
pub(super) async fn fetch(
    client: &NodeClient,
    directory: &Path,
    statement: &Statement,
    url: &Url,
) -> Result<PathBuf> {
    let home = directory.join("bundles").join(statement.bundle_id.to_string());
    if home.is_dir() {
        return Ok(home);
    }
    let archive = download(client, directory, statement, url).await?;
    let draft = home.with_extension("new");
    let (target, bytes) = (draft.clone(), archive);
    tokio::task::spawn_blocking(move || write_files(&target, &bytes))
        .await
        .map_err(|error| Error::internal("unpacking stopped").with_source(error))??;
    std::fs::rename(&draft, &home).map_err(|error| failed(&home, error))?;
    Ok(home)
}

async fn download(
    client: &NodeClient,
    directory: &Path,
    statement: &Statement,
    url: &Url,
) -> Result<Vec<u8>> {
    let downloads = directory.join("downloads");
    std::fs::create_dir_all(&downloads).map_err(|error| failed(&downloads, error))?;
    let part = downloads.join(format!("{}.part", statement.archive_sha256));
    let present = match tokio::fs::metadata(&part).await {
        Ok(metadata) if metadata.len() <= statement.archive_size => metadata.len(),
        Ok(_) => 0,
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(failed(&part, error)),
    };
    let mut options = tokio::fs::OpenOptions::new();
    options.create(true);
    if present == 0 {
        options.write(true).truncate(true)
    } else {
        options.append(true)
    };
    let mut file = options.open(&part).await.map_err(|error| failed(&part, error))?;
    if present < statement.archive_size {
        let rest = client.download(url, present, statement.archive_size).await?;
        file.write_all(&rest).await.map_err(|error| failed(&part, error))?;
        file.sync_all().await.map_err(|error| failed(&part, error))?;
    }
    let bytes = tokio::fs::read(&part).await.map_err(|error| failed(&part, error))?;
    let genuine =
        bytes.len() as u64 == statement.archive_size && Sha256Digest::of(&bytes) == statement.archive_sha256;
    // Whole or spoilt, the partial file is of no further use.
    tokio::fs::remove_file(&part).await.map_err(|error| failed(&part, error))?;
    if genuine { Ok(bytes) } else { Err(Error::unavailable("the download does not have the stated digest")) }
}

fn write_files(home: &Path, archive: &[u8]) -> Result<()> {
    let unpacked = unpack(archive, &UnpackLimits::default())?;
    match std::fs::remove_dir_all(home) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(home, error)),
        _ => {}
    }
    for (path, bytes) in &unpacked.files {
        let path = home.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(|error| failed(parent, error))?;
        }
        std::fs::write(&path, bytes).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

fn failed(path: &Path, error: std::io::Error) -> Error {
    Error::unavailable(format!("{}: {error}", path.display())).with_source(error)
}
