//! Reading settings from a file, the environment and flags.

use super::Settings;
use config::{Config, Environment, File, FileFormat, Map, Value};
use std::path::Path;
use zentinel_core::{Error, Result};

/// Environment names that operators know from other control planes, and the settings they set.
/// `ZENTINEL__A__B` works for every setting `a.b` and wins over these.
pub(super) const FAMILIAR: [(&str, &str); 12] = [
    ("DATABASE_URL", "database.url"),
    ("POOL_SIZE", "database.pool_size"),
    ("S3_BUCKET", "blobs.s3_bucket"),
    ("S3_ENDPOINT", "blobs.s3_endpoint"),
    ("S3_REGION", "blobs.s3_region"),
    ("S3_ACCESS_KEY_ID", "blobs.s3_access_key_id"),
    ("S3_SECRET_ACCESS_KEY", "blobs.s3_secret_access_key"),
    ("ZENTINEL_BINARY", "validation.zentinel_binary"),
    ("ZENTINEL_LISTEN", "listen"),
    ("ZENTINEL_PUBLIC_URL", "public_url"),
    ("ZENTINEL_DATA_DIR", "data_dir"),
    ("ZENTINEL_LOG", "log.filter"),
];

/// Settings named on the command line, as `(path, value)`; they win over everything else.
#[derive(Clone, Debug, Default)]
pub struct Overrides(Vec<(String, String)>);

impl Overrides {
    /// Adds one.
    pub fn set(&mut self, path: impl Into<String>, value: impl Into<String>) {
        self.0.push((path.into(), value.into()));
    }

    /// Adds one written as `path=value`.
    ///
    /// # Errors
    /// [`Kind::Invalid`](zentinel_core::Kind::Invalid) without a `=`.
    pub fn set_pair(&mut self, pair: &str) -> Result<()> {
        let (path, value) = pair
            .split_once('=')
            .ok_or_else(|| Error::invalid(format!("`{pair}` is not of the form path=value")))?;
        self.set(path.trim(), value);
        Ok(())
    }
}

/// Loads the effective settings. `environment` is the process's, passed in so that tests need not
/// change it.
///
/// # Errors
/// [`Kind::Invalid`](zentinel_core::Kind::Invalid) naming the setting and the reason.
pub fn load(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &Overrides,
) -> Result<Settings> {
    let invalid =
        |error: config::ConfigError| Error::invalid(format!("settings: {error}")).with_source(error);
    let environment: Map<String, String> = environment.into_iter().collect();
    let mut builder = Config::builder();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Error::invalid(format!("settings file {}: {error}", path.display())))?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    for (name, path) in FAMILIAR {
        if let Some(value) = environment.get(name).filter(|value| !value.is_empty()) {
            builder = builder.set_override(path, value.as_str()).map_err(invalid)?;
        }
    }
    // Familiar names must lose against the systematic ones, and overrides always win inside the
    // builder: so the systematic ones are overrides as well, set later.
    let systematic =
        Environment::with_prefix("ZENTINEL").prefix_separator("__").separator("__").source(Some(environment));
    for (path, value) in collect(&systematic).map_err(invalid)? {
        builder = builder.set_override(path, value).map_err(invalid)?;
    }
    for (path, value) in &overrides.0 {
        builder = builder.set_override(path, value.as_str()).map_err(invalid)?;
    }
    let settings: Settings = builder.build().and_then(Config::try_deserialize).map_err(invalid)?;
    settings.check()?;
    Ok(settings)
}

fn collect(source: &Environment) -> Result<Map<String, Value>, config::ConfigError> {
    use config::Source as _;
    source.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn later_sources_win() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("zentinel.toml");
        std::fs::write(&file, "[database]\npool_size = 3\n[nodes]\npoll_interval_seconds = 7\n").unwrap();
        let load = |pairs: &[(&str, &str)], flags: &[&str]| {
            let mut overrides = Overrides::default();
            flags.iter().for_each(|pair| overrides.set_pair(pair).unwrap());
            super::load(Some(&file), env(pairs), &overrides).unwrap()
        };
        assert_eq!(load(&[], &[]).database.pool_size, 3);
        assert_eq!(load(&[("POOL_SIZE", "4")], &[]).database.pool_size, 4);
        let both = [("POOL_SIZE", "4"), ("ZENTINEL__DATABASE__POOL_SIZE", "5")];
        assert_eq!(load(&both, &[]).database.pool_size, 5);
        let flagged = load(&both, &["database.pool_size=6"]);
        assert_eq!((flagged.database.pool_size, flagged.nodes.poll_interval_seconds), (6, 7));
    }

    #[test]
    fn wrong_settings_are_named() {
        let load = |pairs: &[(&str, &str)]| {
            super::load(None, env(pairs), &Overrides::default()).unwrap_err().to_string()
        };
        assert!(load(&[("DATABASE_URL", "mysql://x")]).contains("database.url"));
        assert!(load(&[("ZENTINEL__DATABASE__POOL_SIZ", "5")]).contains("pool_siz"));
        assert!(load(&[("ZENTINEL__BLOBS__KIND", "s3")]).contains("s3_access_key_id"));
        assert!(load(&[("POOL_SIZE", "many")]).contains("pool_size"));
    }

    #[test]
    fn lists_and_maps_come_from_the_environment_and_flags() {
        let mut overrides = Overrides::default();
        overrides.set_pair("http.rate_limits=bundles:write=200, node=1000").unwrap();
        let proxies = [("ZENTINEL__HTTP__TRUSTED_PROXIES", "10.0.0.0/8, 192.0.2.1")];
        let settings = super::load(None, env(&proxies), &overrides).unwrap();
        assert_eq!(settings.http.trusted_proxies, ["10.0.0.0/8", "192.0.2.1"]);
        let egress = [("ZENTINEL__ROLLOUTS__EGRESS_ALLOW", "127.0.0.0/8")];
        let allowed = super::load(None, env(&egress), &Overrides::default()).unwrap();
        assert_eq!(allowed.rollouts.egress_allow, ["127.0.0.0/8"]);
        assert_eq!(settings.http.rate_limits["bundles:write"], 200);
        let single = [("ZENTINEL__HTTP__RATE_LIMITS__NODE", "7")];
        assert_eq!(
            super::load(None, env(&single), &Overrides::default()).unwrap().http.rate_limits["node"],
            7
        );
        for wrong in [
            "http.rate_limits=bundels=1",
            "http.rate_limits=node",
            "http.trusted_proxies=proxy",
            "log.filter=!!!",
        ] {
            let mut overrides = Overrides::default();
            overrides.set_pair(wrong).unwrap();
            assert!(super::load(None, env(&[]), &overrides).is_err(), "{wrong}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let settings = super::load(
            None,
            env(&[("DATABASE_URL", "postgres://u:hunter2@db/x"), ("S3_SECRET_ACCESS_KEY", "hunter3")]),
            &Overrides::default(),
        )
        .unwrap();
        let shown = format!("{settings:?}{}", serde_json::to_string(&settings).unwrap());
        assert!(!shown.contains("hunter"), "{shown}");
        assert_eq!(settings.database.url.expose(), "postgres://u:hunter2@db/x");
        let query = [("DATABASE_URL", "postgres://u@db/x?sslmode=require&password=hunter2")];
        let shown = super::load(None, env(&query), &Overrides::default()).unwrap().database.url.to_string();
        assert_eq!(shown, "postgres://u@db/x?sslmode=require&password=redacted");
    }
}
