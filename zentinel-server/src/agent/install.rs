//! `zentinel-agent install` and `set-key`: making a machine a node, and giving a node a new key.
//!
//! Installing writes files and nothing else but the system user; doing it again changes only what
//! differs. It starts nothing: the command that does is printed.

mod files;
mod place;

use super::cli::lock;
use super::settings::{AgentSettings, Flags, load_from};
use super::state::StateFile;
use crate::cli::Output;
use place::Place;
use serde_json::json;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use zentinel_core::{Error, Result};

/// The unit as it is shipped; `--user` is its only variable.
const UNIT: &str = include_str!("../../deploy/zentinel-agent.service");
/// The system user, for `systemd-sysusers`.
const SYSUSERS: &str = include_str!("../../deploy/sysusers-agent.conf");
/// The user in both.
const USER: &str = "zentinel";
/// Where the unit lets the agent keep its state.
const DIRECTORY: &str = "/var/lib/zentinel-agent";
/// Where proxies are looked for when none is named.
const PROXIES: [&str; 2] = ["/usr/local/bin/zentinel", "/usr/bin/zentinel"];

/// Where and for whom.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct InstallArguments {
    /// Directory to install below, for images; nothing is run then.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// The system user that runs the agent and the proxy; made when it is missing.
    #[arg(long, value_name = "NAME", default_value = USER)]
    user: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Installs the agent with the settings of the file or, without one, of an earlier run, changed by the flags.
///
/// # Errors
/// `Invalid` for settings that a running agent would refuse, `Forbidden` without the rights to
/// install, others naming the file or program that stands in the way.
pub(super) fn install(
    file: Option<&Path>,
    flags: &Flags,
    arguments: &InstallArguments,
    output: &Output,
) -> Result<ExitCode> {
    let settings = complete(wanted(file, flags, &arguments.root)?, &arguments.root)?;
    let token = settings.registration_token()?;
    let registered = StateFile::in_directory(&below(&arguments.root, DIRECTORY)).load()?.is_some();
    let token_file = below(&arguments.root, files::TOKEN);
    if token.is_none() && !registered && !token_file.exists() {
        return Err(Error::invalid_field("token", "is missing: the node is not registered yet")
            .with_hint("issue one with `zentinelctl node token create` and give it with --token-file"));
    }
    let place = Place::new(&arguments.root, &arguments.user, arguments.dry_run)?;
    let mut done = vec![place.program("zentinel-agent")?];
    done.push(place.text(files::SYSUSERS, &personal(SYSUSERS, &arguments.user), 0o644, false)?);
    done.extend(place.make_user(files::SYSUSERS)?);
    done.push(place.directory("/etc/zentinel", 0o755, false)?);
    done.push(place.directory(DIRECTORY, 0o700, true)?);
    done.push(place.directory("/var/log/zentinel", 0o755, true)?);
    let keeps_token = token.is_some() || token_file.exists();
    if let Some(token) = &token {
        done.push(place.text(files::TOKEN, &format!("{}\n", token.expose()), 0o600, true)?);
    }
    done.push(place.text(files::SETTINGS, &files::settings(&settings, keeps_token)?, 0o640, false)?);
    done.push(place.text(files::UNIT, &personal(UNIT, &arguments.user), 0o644, false)?);
    done.extend(place.reload_units()?);
    let next = "systemctl enable --now zentinel-agent";
    output.event("installed", json!({"steps": done, "next": next, "dry_run": arguments.dry_run}), || {
        let mut text: String = done.iter().map(|step| format!("{step}\n")).collect();
        text.push_str(if arguments.dry_run {
            "nothing was done; to do it, leave out --dry-run"
        } else {
            next
        });
        text
    });
    Ok(ExitCode::SUCCESS)
}

/// What is asked for: the flags over what is installed there already.
fn wanted(file: Option<&Path>, flags: &Flags, root: &Path) -> Result<AgentSettings> {
    let installed = below(root, files::SETTINGS);
    let mut settings = load_from(file.or_else(|| installed.exists().then_some(&installed)), flags)?;
    if settings.token_file.as_deref() == Some(Path::new(files::TOKEN)) && !flags.gives("token_file") {
        // It is below the root, and stays as it is.
        settings.token_file = None;
    }
    Ok(settings)
}

/// The settings with what can be found out; checked as a running agent checks them.
fn complete(mut settings: AgentSettings, root: &Path) -> Result<AgentSettings> {
    let there = if root == Path::new("/") { String::new() } else { format!(" below {}", root.display()) };
    if settings.directory != Path::new(DIRECTORY) {
        let text = format!("the unit keeps the agent's state in {DIRECTORY}");
        return Err(Error::invalid_field("directory", text)
            .with_hint("leave --directory out, or run the agent from a unit of your own"));
    }
    if settings.proxy.binary.is_none() && !settings.proxy.is_external() {
        settings.proxy.binary =
            PROXIES.iter().map(PathBuf::from).find(|path| below(root, &path.to_string_lossy()).is_file());
    }
    match &settings.proxy.binary {
        Some(binary) if !binary.is_absolute() || !below(root, &binary.to_string_lossy()).is_file() => {
            let text = format!("{} is not the absolute path of a program{there}", binary.display());
            return Err(Error::invalid_field("proxy.binary", text).with_hint("name it with --proxy-binary"));
        }
        None if !settings.proxy.is_external() => {
            let text = format!("no proxy is installed in {}{there}", PROXIES.join(" or "));
            return Err(Error::invalid_field("proxy.binary", text).with_hint(
                "cargo install zentinel-proxy --locked --root /usr/local, or name it with --proxy-binary",
            ));
        }
        _ => {}
    }
    settings.check().map_err(|error| {
        error.with_hint(
            "give them as flags, for example --server https://cp.example.com --project edge; what an earlier \
             `install` was given is kept",
        )
    })?;
    Ok(settings)
}

/// A shipped file for another user.
fn personal(text: &str, user: &str) -> String {
    let lines = text.lines().map(|line| match line.split_once(['=', ' ']) {
        Some(("User" | "Group", USER)) => line.replace(USER, user),
        Some(("u", _)) => line.replacen(USER, user, 1),
        _ => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n") + "\n"
}

/// An absolute path below a root.
fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

/// Gives a node the key that an operator made for it.
///
/// # Errors
/// `Conflict` while the agent runs, `NotFound` for a node that never registered, `Invalid` for a
/// file that holds no key.
pub(super) fn set_key(settings: &AgentSettings, file: &Path, output: &Output) -> Result<ExitCode> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::invalid(format!("key file {}: {error}", file.display())))?;
    let key = text.trim();
    if key.is_empty() || key.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::invalid(format!("key file {}: it does not hold a node key", file.display()))
            .with_hint("make one with `zentinelctl node rotate-key NAME --output FILE`"));
    }
    let directory = &settings.directory;
    let owner = std::fs::metadata(directory)
        .map_err(|error| Error::not_found(format!("directory {}: {error}", directory.display())))?;
    let _lock = lock(directory)?;
    let states = StateFile::in_directory(directory);
    let Some(mut state) = states.load()? else {
        return Err(Error::not_found(format!("no node is registered in {}", directory.display()))
            .with_hint("a node gets its first key when it registers"));
    };
    state.node_key = key.to_owned();
    states.save(&state)?;
    // Root may do this for the agent's user, who must be able to go on with both files.
    for name in ["node.json", "agent.lock"] {
        let path = directory.join(name);
        std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).map_err(|error| {
            Error::unavailable(format!("{}: {error}", path.display()))
                .with_hint("run this as root or as the agent's user")
        })?;
    }
    output.event("key_set", json!({"node_id": state.node_id}), || {
        format!("node {} has its new key; start the agent: systemctl start zentinel-agent", state.node_id)
    });
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_is_the_only_thing_that_changes() {
        let own = personal(UNIT, "edge");
        assert!(own.contains("\nUser=edge\nGroup=edge\n") && own.contains("Description=Zentinel node agent"));
        assert_eq!(personal(UNIT, USER), UNIT);
        assert!(
            personal(SYSUSERS, "edge").contains("\nu edge - \"Zentinel node\" /var/lib/zentinel-agent -")
        );
    }

    #[test]
    fn units_call_what_exists() {
        use clap::CommandFactory as _;
        let unit = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
        let words: Vec<&str> = unit.split(' ').collect();
        assert_eq!(words[0], "/usr/local/bin/zentinel-agent");
        let parsed = super::super::cli::Arguments::command().try_get_matches_from(&words);
        assert_eq!(parsed.unwrap().subcommand_name(), Some("run"));
        assert_eq!(words.last(), Some(&files::SETTINGS));
        let state = UNIT.lines().find_map(|line| line.strip_prefix("StateDirectory=")).unwrap();
        assert_eq!(format!("/var/lib/{state}"), DIRECTORY);
        assert_eq!(AgentSettings::default().directory, Path::new(DIRECTORY));
    }

    #[test]
    fn paths_stay_below_the_root() {
        assert_eq!(below(Path::new("/tmp/x"), "/etc/zentinel"), Path::new("/tmp/x/etc/zentinel"));
        assert_eq!(below(Path::new("/"), "/etc"), Path::new("/etc"));
    }
}
