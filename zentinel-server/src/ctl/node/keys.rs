//! Ending and replacing what nodes authenticate with.

use crate::ctl::find::{self, called};
use crate::ctl::screen::{clean, instant};
use crate::ctl::session::Session;
use serde_json::json;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use zentinel_core::{Error, Result, Secret};

/// A new file that only its owner can read, made before there is anything to lose.
pub(in crate::ctl) fn secret_file(path: &Path) -> Result<std::fs::File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        Error::invalid(format!("{}: {error}", path.display())).with_hint("name a file that is not there yet")
    })
}

/// Writes what is shown once.
pub(in crate::ctl) fn write_secret(mut file: std::fs::File, path: &Path, secret: &Secret) -> Result<()> {
    let written = file.write_all(format!("{}\n", secret.expose()).as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        Error::internal(format!("{}: {error}", path.display())).with_hint("do it again, with another file")
    })
}

pub(super) async fn rotate(session: &Session, text: &str, output: Option<&Path>) -> Result<()> {
    let node = find::node(session, text).await?;
    let file = output.map(secret_file).transpose()?;
    let rotated = session.client.rotate_node_key(&session.project, node.id).await?;
    let until = instant(rotated.old_key_valid_until);
    if let (Some(file), Some(path)) = (file, output) {
        write_secret(file, path, &rotated.node_key)?;
        session.screen.answer(
            &json!({"node_id": node.id, "node_key_file": path, "old_key_valid_until": until}),
            || format!("the new key of {} is in {}", called(&node), path.display()),
        )?;
    } else {
        let answer = json!({
            "node_id": node.id,
            "node_key": rotated.node_key.expose(),
            "old_key_valid_until": until,
        });
        session.screen.answer(&answer, || rotated.node_key.expose().to_owned())?;
    }
    session.screen.note(&format!(
        "The key before it works until {until}. Until then, give the new one to the node:\n  \
         systemctl stop zentinel-agent; zentinel-agent set-key FILE; systemctl start zentinel-agent"
    ));
    Ok(())
}

pub(super) async fn revoke(session: &Session, text: &str, yes: bool) -> Result<()> {
    let node = find::node(session, text).await?;
    let question = format!("Revoke the credentials of {}? It can do nothing more.", called(&node));
    session.screen.confirm(&question, yes)?;
    let node = session.client.revoke_node_key(&session.project, node.id).await?;
    session.screen.answer(&node, || format!("the credentials of {} are revoked", called(&node)))?;
    session.screen.note(&format!(
        "Its proxy goes on serving what it has. To let the node in again: `zentinelctl node rotate-key {name}`.\n\
         To replace it: `zentinelctl node delete {name}` and install it anew.",
        name = clean(&node.name)
    ));
    Ok(())
}

pub(super) async fn delete(session: &Session, text: &str, yes: bool) -> Result<()> {
    let node = find::node(session, text).await?;
    session.screen.confirm(&format!("Delete {} with its history?", called(&node)), yes)?;
    session.client.delete_node(&session.project, node.id).await?;
    session.screen.answer(&json!({"deleted": node.id}), || format!("{} is deleted", called(&node)))
}
