//! Which control plane, as whom: from flags, the environment and a file.

use serde::Deserialize;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use url::Url;
use zentinel_core::{Error, Result, Secret};

/// Where a server on this machine listens unless told otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:4000";

/// What every command takes.
#[derive(Debug, clap::Args)]
pub(super) struct Flags {
    /// URL of the control plane [default: http://127.0.0.1:4000].
    #[arg(long, global = true, env = "ZENTINEL_SERVER", value_name = "URL", value_parser = url)]
    server: Option<Url>,
    /// API key. Other users of this machine see it on a command line: prefer the file.
    #[arg(long, global = true, env = "ZENTINEL_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<Secret>,
    /// File that holds the API key.
    #[arg(long, global = true, env = "ZENTINEL_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Slug of the project; needless when the key can address only one.
    #[arg(long, global = true, env = "ZENTINEL_PROJECT", value_name = "SLUG")]
    project: Option<String>,
    /// Settings file [default: ~/.config/zentinel/ctl.toml].
    #[arg(long, global = true, env = "ZENTINEL_CTL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The settings file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    server: Option<Url>,
    api_key_file: Option<PathBuf>,
    project: Option<String>,
}

/// What is in force.
#[derive(Debug)]
pub(super) struct Effective {
    pub(super) server: Url,
    pub(super) api_key: Secret,
    pub(super) project: Option<String>,
}

impl Flags {
    /// Joins flags and environment with the settings file.
    ///
    /// # Errors
    /// `Invalid` for a file that cannot be used, or without an API key.
    pub(super) fn effective(&self) -> Result<Effective> {
        self.joined_with(default_file())
    }

    fn joined_with(&self, default_file: Option<PathBuf>) -> Result<Effective> {
        let file = match (&self.config, default_file) {
            (Some(path), _) => read(path)?,
            (None, Some(path)) if path.exists() => read(&path)?,
            (None, _) => Settings::default(),
        };
        let server = match self.server.clone().or(file.server) {
            Some(server) => server,
            None => DEFAULT_SERVER.parse().map_err(|_| Error::internal("the default URL is wrong"))?,
        };
        // A variable that is set to nothing names nothing.
        let given = self.api_key.as_ref().filter(|key| !key.expose().trim().is_empty());
        let api_key = match (given, self.api_key_file.as_ref().or(file.api_key_file.as_ref())) {
            (Some(key), _) => key.clone(),
            (None, Some(path)) => key_of(path)?,
            (None, None) => {
                let hint = "put the key in a file and name it with --api-key-file, ZENTINEL_API_KEY_FILE or \
                    `api_key_file` in ~/.config/zentinel/ctl.toml; `zentinel-server init` prints a first key";
                return Err(Error::invalid("there is no API key").with_hint(hint));
            }
        };
        if !api_key.expose().chars().all(|c| c.is_ascii_graphic()) {
            return Err(Error::invalid("the API key holds blanks or other characters that no key has")
                .with_hint("take it as it was printed, on one line"));
        }
        Ok(Effective { server, api_key, project: self.project.clone().or(file.project) })
    }
}

fn url(text: &str) -> Result<Url, String> {
    let found = text.parse::<Url>().ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    found.ok_or_else(|| "expected a URL that begins with http:// or https://".to_owned())
}

fn default_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CONFIG_HOME").or_else(|| Some(set("HOME")?.join(".config")))?;
    Some(base.join("zentinel/ctl.toml"))
}

fn read(path: &Path) -> Result<Settings> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::invalid(format!("settings file {}: {error}", path.display())))?;
    let parsed = config::Config::builder()
        .add_source(config::File::from_str(&text, config::FileFormat::Toml))
        .build()
        .and_then(config::Config::try_deserialize::<Settings>);
    let mut settings = parsed.map_err(|error| {
        let hint = "it may set `server`, `project` and `api_key_file`";
        Error::invalid(format!("settings file {}: {error}", path.display())).with_hint(hint)
    })?;
    // Beside the settings file, so that both can be moved together.
    if let (Some(file), Some(directory)) = (&mut settings.api_key_file, path.parent()) {
        *file = directory.join(&*file);
    }
    Ok(settings)
}

fn key_of(path: &Path) -> Result<Secret> {
    let failed = |error: std::io::Error| Error::invalid(format!("API key file {}: {error}", path.display()));
    let mode = std::fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        let text = format!("API key file {}: others can read it (mode {:o})", path.display(), mode & 0o777);
        return Err(Error::invalid(text).with_hint(format!("chmod 600 {}", path.display())));
    }
    let text = std::fs::read_to_string(path).map_err(failed)?;
    match text.trim() {
        "" => Err(Error::invalid(format!("API key file {}: it is empty", path.display()))),
        key => Ok(Secret::new(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, set_permissions, write};

    fn flags() -> Flags {
        Flags { server: None, api_key: None, api_key_file: None, project: None, config: None }
    }

    #[test]
    fn flags_win_over_the_file_and_the_key_lies_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ctl.toml");
        write(&file, "server = \"https://cp.example\"\nproject = \"edge\"\napi_key_file = \"key\"\n")
            .unwrap();
        let key = directory.path().join("key");
        write(&key, "from-the-file\n").unwrap();
        set_permissions(&key, Permissions::from_mode(0o600)).unwrap();

        let found = flags().joined_with(Some(file.clone())).unwrap();
        assert_eq!(found.server.as_str(), "https://cp.example/");
        assert_eq!((found.api_key.expose(), found.project.as_deref()), ("from-the-file", Some("edge")));
        let given = Flags { project: Some("other".into()), api_key: Some(Secret::new("flag")), ..flags() };
        let found = given.joined_with(Some(file)).unwrap();
        assert_eq!((found.api_key.expose(), found.project.as_deref()), ("flag", Some("other")));
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let error = flags().joined_with(None).unwrap_err();
        assert!(error.hint().unwrap().contains("api_key_file"));
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ctl.toml");
        write(&file, "sever = \"x\"").unwrap();
        let error = flags().joined_with(Some(file)).unwrap_err();
        assert!(error.message().contains("sever") && error.message().contains("ctl.toml"), "{error}");
        let key = directory.path().join("key");
        write(&key, "secret").unwrap();
        set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        let error = Flags { api_key_file: Some(key.clone()), ..flags() }.joined_with(None).unwrap_err();
        assert!(error.message().contains("mode 644") && error.hint().unwrap().starts_with("chmod 600"));
        let of = |text: &str| Flags { api_key: Some(Secret::new(text)), ..flags() }.joined_with(None);
        assert_eq!(of(" ").unwrap_err().message(), "there is no API key");
        assert!(of("two\nlines").unwrap_err().hint().unwrap().contains("one line"));
        for text in ["edge", "ftp://x", ""] {
            assert!(url(text).unwrap_err().contains("http://"), "{text}");
        }
    }
}
