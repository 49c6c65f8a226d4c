//! Which settings the proxy reads as what.

use crate::document::Node;
use std::collections::HashMap;
use std::sync::LazyLock;

/// What a setting must look like for the proxy to read it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Want {
    /// One string.
    Text,
    /// One integer within a range.
    Integer(i128, i128),
    /// One number within a range.
    Number(f64, f64),
    /// One number within a range, or a string that holds one.
    NumberOrText(f64, f64),
    /// One boolean.
    Bool,
    /// One integer, or one string that the proxy reads in its own way.
    IntegerOrText(i128, i128),
    /// One string that holds an integer within a range.
    IntegerInText(i128, i128),
    /// Strings.
    Texts,
    /// Integers within a range.
    Integers(i128, i128),
}

use Want::{Bool, Integer, IntegerInText, IntegerOrText, Integers, Number, NumberOrText, Text, Texts};

const YEAR_SECS: i128 = 366 * 24 * 3600;
const SECS: Want = Integer(1, YEAR_SECS);
const SECS_OR_NONE: Want = Integer(0, YEAR_SECS);
const MILLIS: Want = Integer(1, YEAR_SECS * 1000);
const MILLIS_OR_NONE: Want = Integer(0, YEAR_SECS * 1000);
const COUNT: Want = Integer(1, u32::MAX as i128);
const COUNT_OR_NONE: Want = Integer(0, u32::MAX as i128);
/// A petabyte: more is a mistake.
const BYTES: Want = Integer(0, 1 << 50);
const SOME_BYTES: Want = Integer(1, 1 << 50);
const STATUS: Want = Integer(100, 599);
const PORT: Want = Integer(1, 65_535);

/// Settings by the block that they stand in. A block may be named together with the one around it.
const SETTINGS: &[(&str, &[(&str, Want)])] = &[
    ("system", SYSTEM),
    ("server", SYSTEM),
    (
        "listener",
        &[
            ("address", Text),
            ("protocol", Text),
            ("default-route", Text),
            ("namespace", Text),
            ("request-timeout-secs", SECS),
            ("keepalive-timeout-secs", SECS_OR_NONE),
            ("max-concurrent-streams", COUNT),
            ("keepalive-max-requests", COUNT),
        ],
    ),
    (
        "tls",
        &[
            ("cert-file", Text),
            ("key-file", Text),
            ("ca-file", Text),
            ("client-auth", Bool),
            ("min-version", Text),
            ("max-version", Text),
            ("ocsp-stapling", Bool),
            ("session-resumption", Bool),
            ("allow-sni-overlaps", Bool),
            ("insecure-skip-verify", Bool),
            ("client-cert", Text),
            ("client-key", Text),
            ("ca-cert", Text),
            ("tls-insecure", Bool),
        ],
    ),
    ("upstream/tls", &[("sni", Text)]),
    ("sni", &[("hostnames", Texts), ("cert-file", Text), ("key-file", Text)]),
    ("sni-certs", &[("cert-folder", Text), ("reload-mode", Text)]),
    (
        "acme",
        &[
            ("email", Text),
            ("domains", Texts),
            ("staging", Bool),
            ("storage", Text),
            ("server-url", Text),
            ("challenge-type", Text),
            ("key-type", Text),
            ("renew-before-days", Integer(1, 366)),
        ],
    ),
    (
        "route",
        &[
            ("upstream", Text),
            ("builtin-handler", Text),
            ("filters", Texts),
            ("websocket", Bool),
            ("websocket-inspection", Bool),
            ("waf-enabled", Bool),
            ("service-type", Text),
            ("priority", IntegerOrText(i32::MIN as i128, i32::MAX as i128)),
        ],
    ),
    (
        "retry-policy",
        &[
            ("max-attempts", Integer(1, 100)),
            ("retryable-status-codes", Integers(100, 599)),
            ("backoff", Text),
            ("max-backoff", Text),
            ("per-attempt-timeout", Text),
            ("retry-non-idempotent", Bool),
        ],
    ),
    (
        "policies",
        &[("timeout-secs", SECS), ("max-body-size", IntegerOrText(1, 1 << 50)), ("failure-mode", Text)],
    ),
    ("policies/rate-limit", &[("requests-per-second", COUNT), ("burst", COUNT_OR_NONE), ("key", Text)]),
    (
        "route/cache",
        &[
            ("enabled", Bool),
            ("default-ttl-secs", SECS_OR_NONE),
            ("max-size-bytes", BYTES),
            ("cache-private", Bool),
            ("stale-while-revalidate-secs", SECS_OR_NONE),
            ("stale-if-error-secs", SECS_OR_NONE),
            ("cacheable-methods", Texts),
            ("cacheable-status-codes", Integers(100, 599)),
            ("vary-headers", Texts),
            ("ignore-query-params", Texts),
            ("exclude-extensions", Texts),
            ("exclude-paths", Texts),
        ],
    ),
    (
        "/cache",
        &[
            ("enabled", Bool),
            ("backend", Text),
            ("max-size", BYTES),
            ("eviction-limit", BYTES),
            ("lock-timeout", SECS_OR_NONE),
            ("disk-path", Text),
            ("disk-shards", Integer(1, 65_536)),
            ("disk-max-size", BYTES),
            ("status-header", Bool),
            ("status-header-name", Text),
        ],
    ),
    (
        "shadow",
        &[
            ("upstream", Text),
            ("percentage", NumberOrText(0.0, 100.0)),
            ("timeout-ms", MILLIS),
            ("buffer-body", Bool),
            ("max-body-bytes", BYTES),
        ],
    ),
    ("fallback", &[("max-attempts", Integer(1, 100))]),
    (
        "triggers",
        &[
            ("on-health-failure", Bool),
            ("on-connection-error", Bool),
            ("on-budget-exhausted", Bool),
            ("on-latency-threshold-ms", MILLIS),
            ("on-error-codes", Integers(100, 599)),
        ],
    ),
    ("fallback-upstream", &[("provider", Text), ("skip-if-unhealthy", Bool)]),
    (
        "static-files",
        &[
            ("root", Text),
            ("index", Text),
            ("directory-listing", Bool),
            ("cache-control", Text),
            ("compress", Bool),
            ("fallback", Text),
        ],
    ),
    (
        "api-schema",
        &[
            ("schema-file", Text),
            ("schema-content", Text),
            ("validate-requests", Bool),
            ("validate-responses", Bool),
            ("strict-mode", Bool),
        ],
    ),
    (
        "connection-pool",
        &[
            ("max-connections", COUNT_OR_NONE),
            ("max-idle", COUNT_OR_NONE),
            ("idle-timeout-secs", SECS_OR_NONE),
            ("max-lifetime-secs", SECS),
            ("idle-timeout", SECS_OR_NONE),
            ("max-lifetime", SECS),
        ],
    ),
    (
        "timeouts",
        &[
            ("connect-secs", SECS),
            ("request-secs", SECS),
            ("read-secs", SECS),
            ("write-secs", SECS),
            ("connect", SECS),
            ("request", SECS),
            ("read", SECS),
            ("write", SECS),
        ],
    ),
    (
        "health-check",
        &[
            ("type", Text),
            ("interval-secs", SECS),
            ("timeout-secs", SECS),
            ("healthy-threshold", Integer(1, 1000)),
            ("unhealthy-threshold", Integer(1, 1000)),
        ],
    ),
    (
        "health-check/type",
        &[
            ("path", Text),
            ("host", Text),
            ("expected-status", IntegerInText(100, 599)),
            ("service", Text),
            ("endpoint", Text),
            ("expected-models", Texts),
            ("expected-tools", Texts),
        ],
    ),
    (
        "http-version",
        &[
            ("min-version", Integer(1, 2)),
            ("max-version", Integer(1, 2)),
            ("h2-ping-interval", SECS_OR_NONE),
            ("max-h2-streams", COUNT),
        ],
    ),
    (
        "circuit-breaker",
        &[
            ("failure-threshold", COUNT),
            ("success-threshold", COUNT),
            ("timeout-seconds", SECS),
            ("half-open-max-requests", COUNT),
        ],
    ),
    ("upstream", &[("address", Text), ("load-balancing", Text)]),
    (
        "load-balancing",
        &[
            ("cookie-name", Text),
            ("cookie-ttl", IntegerOrText(1, YEAR_SECS)),
            ("cookie-path", Text),
            ("cookie-secure", Bool),
            ("cookie-same-site", Text),
            ("fallback", Text),
        ],
    ),
    ("target", &[("address", Text), ("weight", Integer(0, 1_000_000))]),
    ("discovery", &[("hostname", Text), ("port", PORT), ("refresh-interval", SECS)]),
    ("filters/filter", FILTER),
    (
        "agents/agent",
        &[
            ("timeout-ms", MILLIS),
            ("failure-mode", Text),
            ("events", Texts),
            ("max-request-body-bytes", SOME_BYTES),
            ("max-response-body-bytes", SOME_BYTES),
            ("request-body-mode", Text),
            ("response-body-mode", Text),
            ("chunk-timeout-ms", MILLIS),
            ("max-concurrent-calls", COUNT_OR_NONE),
        ],
    ),
    (
        "limits",
        &[
            ("max-header-size", SOME_BYTES),
            ("max-header-count", COUNT),
            ("max-body-size", SOME_BYTES),
            ("max-connections-per-client", COUNT),
            ("max-total-connections", COUNT),
            ("max-in-flight-requests", COUNT),
        ],
    ),
    ("rate-limits", &[("default-rps", COUNT), ("default-burst", COUNT_OR_NONE), ("key", Text)]),
    ("rate-limits/global", &[("max-rps", COUNT), ("burst", COUNT_OR_NONE), ("key", Text)]),
    (
        "inference/rate-limit",
        &[
            ("tokens-per-minute", Integer(1, 1 << 50)),
            ("requests-per-minute", Integer(1, 1 << 50)),
            ("burst-tokens", Integer(1, 1 << 50)),
            ("estimation-method", Text),
        ],
    ),
    ("metrics", &[("enabled", Bool), ("address", Text), ("path", Text), ("high-cardinality", Bool)]),
    ("logging", &[("level", Text), ("format", Text), ("timestamps", Bool), ("file", Text)]),
    ("access-log", LOG),
    ("error-log", LOG),
    ("audit-log", LOG),
    ("tracing", &[("enabled", Bool), ("sampling-rate", Number(0.0, 1.0)), ("service-name", Text)]),
    ("tracing/backend", &[("endpoint", Text)]),
];

const SYSTEM: &[(&str, Want)] = &[
    ("worker-threads", Integer(0, 4_096)),
    ("max-connections", COUNT_OR_NONE),
    ("graceful-shutdown-timeout-secs", SECS_OR_NONE),
    ("daemon", Bool),
    ("pid-file", Text),
    ("user", Text),
    ("group", Text),
    ("working-directory", Text),
    ("trace-id-format", Text),
    ("auto-reload", Bool),
    ("route-cache-size", Integer(1, 100_000_000)),
];

const LOG: &[(&str, Want)] = &[
    ("enabled", Bool),
    ("file", Text),
    ("format", Text),
    ("level", Text),
    ("buffer-size", BYTES),
    ("include-trace-id", Bool),
];

/// The settings of all types of filters: those with one name have one type, but for `level`.
const FILTER: &[(&str, Want)] = &[
    ("type", Text),
    ("max-rps", COUNT),
    ("burst", COUNT_OR_NONE),
    ("key", Text),
    ("on-limit", Text),
    ("status-code", STATUS),
    ("message", Text),
    ("max-delay-ms", MILLIS_OR_NONE),
    ("max-keys", COUNT),
    ("backend", Text),
    ("redis-url", Text),
    ("redis-prefix", Text),
    ("redis-pool-size", COUNT),
    ("redis-timeout-ms", MILLIS),
    ("redis-fallback", Bool),
    ("redis-fallback-local", Bool),
    ("memcached-url", Text),
    ("memcached-prefix", Text),
    ("memcached-pool-size", COUNT),
    ("memcached-timeout-ms", MILLIS),
    ("memcached-ttl", SECS),
    ("memcached-ttl-secs", SECS),
    ("memcached-fallback", Bool),
    ("memcached-fallback-local", Bool),
    ("phase", Text),
    ("remove", Texts),
    ("min-size", BYTES),
    ("request-timeout-secs", SECS),
    ("upstream-timeout-secs", SECS),
    ("connect-timeout-secs", SECS),
    ("scheme", Text),
    ("hostname", Text),
    ("port", PORT),
    ("replace-full-path", Text),
    ("replace-prefix-match", Text),
    ("database-path", Text),
    ("database-type", Text),
    ("action", Text),
    ("countries", Text),
    ("on-failure", Text),
    ("block-message", Text),
    ("log-request", Bool),
    ("log-response", Bool),
    ("log-body", Bool),
    ("max-body-log-size", BYTES),
    ("agent", Text),
    ("timeout-ms", MILLIS),
    ("failure-mode", Text),
    ("inspect-body", Bool),
    ("max-body-bytes", BYTES),
];

type BlockAndName = (&'static str, &'static str);
type Rules = HashMap<BlockAndName, Vec<(Option<&'static str>, Want)>>;

/// The table by block and setting; for each, the blocks around that one that it applies to.
static RULES: LazyLock<Rules> = LazyLock::new(|| {
    let mut rules: HashMap<_, Vec<_>> = HashMap::new();
    for (place, settings) in SETTINGS {
        let (around, block) = match place.split_once('/') {
            Some((around, block)) => (Some(around), block),
            None => (None, *place),
        };
        for (name, want) in *settings {
            rules.entry((block, *name)).or_default().push((around, *want));
        }
    }
    rules
});

/// What the proxy wants of this setting, if it is one that is known.
pub(super) fn rule(node: Node<'_>) -> Option<Want> {
    let block = node.parent()?;
    let candidates = RULES.get(&(block.name(), node.name()))?;
    let around = block.parent_name().unwrap_or_default();
    let fits = |wanted: &Option<&str>| wanted.is_none_or(|wanted| wanted == around);
    let want = candidates.iter().find(|(wanted, _)| fits(wanted)).map(|(_, want)| *want)?;
    (!in_free_form(node)).then_some(want)
}

/// Inside these blocks, names mean what an agent or a schema wants.
fn in_free_form(node: Node<'_>) -> bool {
    node.ancestors().any(|ancestor| {
        matches!(
            (ancestor.parent_name(), ancestor.name()),
            (Some("agent"), "config") | (Some("api-schema"), "request-schema" | "response-schema")
        )
    })
}
