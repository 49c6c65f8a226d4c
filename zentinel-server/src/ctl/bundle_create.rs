//! Handing in a configuration with the files beside it.

use super::bundle::{diagnostic, shown};
use super::screen::clean;
use super::session::Session;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;
use zentinel_core::entity::RiskLevel;
use zentinel_core::port::Diagnostic;
use zentinel_core::{Error, Kind, Result};
use zentinel_http::client::{BundleFile, NewBundle};

#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// The KDL file, then the files that it names; they must lie below its directory.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What to call it; unique in the project.
    #[arg(long, value_name = "VERSION")]
    version: String,
    /// Your own judgement; the compiler only raises it.
    #[arg(long, value_name = "LEVEL", value_parser = risk)]
    risk: Option<RiskLevel>,
    /// Wait until it is compiled; fails with the compiler's words when it does not compile.
    #[arg(long)]
    wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value = "120", value_parser = super::node::seconds)]
    timeout: Duration,
}

fn risk(text: &str) -> Result<RiskLevel, String> {
    let known = [RiskLevel::Low, RiskLevel::Medium, RiskLevel::High];
    let found = known.into_iter().find(|level| level.as_str() == text);
    found.ok_or_else(|| "expected low, medium or high".to_owned())
}

pub(super) async fn run(session: &Session, create: Create) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    let made =
        client.create_bundle(project, &request(&create)?).await.map_err(|error| taken(error, &create))?;
    if !create.wait {
        session.screen.answer(&made, || made.id.to_string())?;
        session.screen.note(&format!("see what becomes of it with `zentinelctl bundle show {}`", made.id));
        return Ok(());
    }
    match client.wait_until_compiled(project, made.id, create.timeout).await {
        Ok(bundle) => session.screen.answer(&bundle, || shown(&bundle)),
        Err(error) if error.kind() == Kind::Invalid => Err(readable(&error, &made.version)),
        Err(error) => Err(error),
    }
}

/// A version that is taken, by which bundle.
fn taken(error: Error, create: &Create) -> Error {
    let is_taken = |messages: &Vec<String>| messages.iter().any(|message| message.contains("taken"));
    if !error.fields().get("version").is_some_and(is_taken) {
        return error;
    }
    let details = error.details().cloned().unwrap_or_default();
    let holder = &details["bundle"];
    let holder = match (holder["id"].as_str(), holder["status"].as_str()) {
        (Some(id), Some(status)) => format!(" by bundle {} ({})", clean(id), clean(status)),
        _ => String::new(),
    };
    let version = clean(&create.version);
    let hint = format!(
        "choose another version, or see what there is with `zentinelctl bundle show {version}`; only the \
         version of a bundle that failed to compile can be used again"
    );
    Error::invalid(format!("version {version} is taken{holder}")).with_details(details).with_hint(hint)
}

/// The compiler's findings, one below the other.
fn readable(error: &Error, version: &str) -> Error {
    let details = error.details().cloned().unwrap_or_default();
    let findings: Vec<Diagnostic> =
        serde_json::from_value(details["diagnostics"].clone()).unwrap_or_default();
    let mut text = format!("bundle {} does not compile", clean(version));
    for finding in &findings {
        text.push('\n');
        text.push_str(&diagnostic(finding));
    }
    Error::invalid(text)
        .with_details(details)
        .with_hint("mend it and hand it in again; the version is not used up")
}

fn request(create: &Create) -> Result<NewBundle> {
    let Some((main, beside)) = create.files.split_first() else {
        return Err(Error::invalid_field("FILE", "is missing"));
    };
    let directory = main.parent().unwrap_or(Path::new(""));
    let files = beside.iter().map(|path| {
        let content = std::fs::read(path).map_err(|error| unreadable(path, &error))?;
        Ok(BundleFile { path: inside(directory, path)?, content: STANDARD.encode(content) })
    });
    Ok(NewBundle {
        version: create.version.clone(),
        config_source: std::fs::read_to_string(main).map_err(|error| unreadable(main, &error))?,
        files: files.collect::<Result<_>>()?,
        risk_level: create.risk,
    })
}

fn unreadable(path: &Path, error: &std::io::Error) -> Error {
    Error::invalid(format!("{}: {error}", path.display()))
}

/// The path in the bundle: relative to the KDL file's directory.
fn inside(directory: &Path, path: &Path) -> Result<String> {
    let below = path.strip_prefix(directory).ok();
    let plain = below.filter(|below| below.components().all(|part| matches!(part, Component::Normal(_))));
    plain.and_then(Path::to_str).map(str::to_owned).ok_or_else(|| {
        Error::invalid(format!("{} is not below the directory of the KDL file", path.display()))
            .with_hint("the configuration names files relative to itself: put them below it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_keep_their_place_below_the_configuration() {
        let of = |directory: &str, path: &str| inside(Path::new(directory), Path::new(path));
        assert_eq!(of("conf", "conf/ca/root.pem").unwrap(), "ca/root.pem");
        assert_eq!(of("", "ca/root.pem").unwrap(), "ca/root.pem");
        for (directory, path) in
            [("conf", "other/x"), ("conf", "conf/../x"), ("", "/etc/passwd"), ("", "../x")]
        {
            assert!(of(directory, path).is_err(), "{path}");
        }
    }
}
