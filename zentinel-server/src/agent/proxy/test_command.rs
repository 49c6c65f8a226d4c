//! The proxy's own opinion of a configuration, before it has to live with it.

use super::external::run_limited;
use crate::agent::activator::Rejection;
use std::path::Path;
use std::time::Duration;
use tokio::process::Command;

/// Runs `<binary> test -c <config>`.
pub(super) async fn test(
    binary: &Path,
    config: &Path,
    directory: &Path,
    patience: Duration,
) -> Result<(), Rejection> {
    let mut command = Command::new(binary);
    command.arg("test").arg("-c").arg(config).current_dir(directory).env_remove("ZENTINEL_AGENT_TOKEN");
    match run_limited(&mut command, patience).await {
        Ok((true, _)) => Ok(()),
        Ok((false, output)) => {
            Err(Rejection::new("proxy_test_failed", format!("the proxy's own test refuses it: {output}")))
        }
        // Not there, or too busy: no reason to give a bundle up.
        Err(message) => {
            Err(Rejection::fault("proxy_test_unavailable", format!("{} test {message}", binary.display())))
        }
    }
}

/// The version that `<binary> --version` names.
pub(crate) async fn version_of(binary: &Path) -> Option<String> {
    let mut command = Command::new(binary);
    command.arg("--version").env_remove("ZENTINEL_AGENT_TOKEN");
    let (_, output) =
        run_limited(&mut command, Duration::from_secs(5)).await.ok().filter(|(done, _)| *done)?;
    let word =
        output.split_whitespace().rfind(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    Some(word.to_owned())
}
