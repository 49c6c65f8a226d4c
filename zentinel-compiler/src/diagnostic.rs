//! What a check can find: stable codes, and how findings become diagnostics.
#![doc = include_str!("../docs/diagnostics.md")]

use crate::document::Position;
use std::fmt;
use zentinel_core::port::{Diagnostic, Severity};

/// The file name that findings carry: the name of the configuration inside a bundle.
pub const CONFIG_FILE: &str = "zentinel.kdl";

/// Longest message or help text kept, in bytes.
const TEXT_LIMIT: usize = 2_000;

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $code:literal $severity:ident,)+) => {
        /// The stable codes, see the table in the [module](self).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $variant,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The code as written in diagnostics.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// How bad such a finding is unless a check says otherwise.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self { $(Self::$variant => Severity::$severity,)+ }
            }
        }
    };
}

codes! {
    /// The text is larger than allowed.
    TooLarge = "too-large" Error,
    /// The text holds a NUL byte.
    NulByte = "nul-byte" Error,
    /// Blocks are nested too deeply.
    NestingTooDeep = "nesting-too-deep" Error,
    /// A brace closes nothing, or a block is never closed.
    UnmatchedBrace = "unmatched-brace" Error,
    /// A block comment is nested too deeply or too intricate.
    CommentTooDeep = "comment-too-deep" Error,
    /// Parts commented out with `/-` are nested too deeply.
    SlashdashTooDeep = "slashdash-too-deep" Error,
    /// The text has more words and signs than allowed.
    TooManyTokens = "too-many-tokens" Error,
    /// The text is not KDL 2.
    Syntax = "syntax" Error,
    /// The text includes other files.
    IncludeRefused = "include-refused" Error,
    /// The proxy's parser refuses the configuration.
    ConfigRejected = "config-rejected" Error,
    /// A top-level block is unknown.
    UnknownBlock = "unknown-block" Error,
    /// A required block is missing.
    MissingBlock = "missing-block" Error,
    /// Something is referred to that does not exist.
    UnknownReference = "unknown-reference" Error,
    /// Two things of one kind have the same id.
    DuplicateId = "duplicate-id" Error,
    /// Two sockets are bound to one address.
    DuplicateAddress = "duplicate-address" Error,
    /// A block or setting of which only one is read appears again.
    RepeatedSetting = "repeated-setting" Warning,
    /// Another rule of the proxy's validation is broken.
    Semantic = "semantic" Error,
    /// The proxy ignores this key.
    UnknownKey = "unknown-key" Warning,
    /// Two settings share a line, so the second one is lost.
    RunTogether = "run-together" Error,
    /// A value has the wrong type, so the proxy uses the default.
    WrongType = "wrong-type" Error,
    /// A number is out of range.
    NumberOutOfRange = "number-out-of-range" Error,
    /// A value is not one of the known ones, so the proxy uses the default.
    UnknownValue = "unknown-value" Error,
    /// The load balancing algorithm is unknown.
    UnknownLoadBalancing = "unknown-load-balancing" Error,
    /// The type of health check is unknown.
    UnknownHealthCheck = "unknown-health-check" Error,
    /// The builtin handler is unknown.
    UnknownBuiltinHandler = "unknown-builtin-handler" Error,
    /// A `path-regex` does not compile.
    InvalidRegex = "invalid-regex" Error,
    /// The conditions of a route can never all hold.
    UnmatchableRoute = "unmatchable-route" Error,
    /// A route matches everything.
    CatchAllRoute = "catch-all-route" Warning,
    /// A route has nowhere to send requests to.
    RouteWithoutTarget = "route-without-target" Error,
    /// A route has more than one target.
    RouteWithSeveralTargets = "route-with-several-targets" Error,
    /// An address to bind is not `IP:PORT`.
    InvalidAddress = "invalid-address" Error,
    /// A listener speaks TLS but has no `tls` block.
    MissingTls = "missing-tls" Error,
    /// A target is not `HOST:PORT`.
    InvalidTarget = "invalid-target" Error,
    /// The proxy reads this setting but does not act on it.
    IgnoredSetting = "ignored-setting" Warning,
    /// Metrics are served on every interface.
    MetricsExposed = "metrics-exposed" Warning,
    /// The error log goes to its default file.
    DefaultErrorLog = "default-error-log" Info,
    /// Only the node can check this.
    CheckedOnNode = "checked-on-node" Info,
    /// The proxy's linter recommends something else.
    BestPractice = "best-practice" Info,
    /// There are more findings than are kept.
    TooManyFindings = "too-many-findings" Info,
    /// The parser died on this text.
    ParserCrashed = "parser-crashed" Error,
    /// The check took too long.
    ValidationTimeout = "validation-timeout" Error,
    /// The external `zentinel` program refuses the configuration.
    ExternalValidator = "external-validator" Error,
    /// The external `zentinel` program could not be run.
    ExternalValidatorMissing = "external-validator-missing" Warning,
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A diagnostic in the making.
///
/// ```
/// use zentinel_compiler::diagnostic::{Code, Finding};
/// use zentinel_core::port::Diagnostic;
/// let diagnostic: Diagnostic = Finding::new(Code::InvalidAddress, "\"here\" is not an address")
///     .path("listeners/http/address")
///     .help("write IP:PORT")
///     .into();
/// assert_eq!(diagnostic.code, "invalid-address");
/// assert_eq!(diagnostic.file, "zentinel.kdl");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    code: Code,
    severity: Severity,
    position: Option<Position>,
    path: Option<String>,
    message: String,
    help: Option<String>,
}

impl Finding {
    /// A finding with the usual severity of its code.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            position: None,
            path: None,
            message: message.into(),
            help: None,
        }
    }

    /// With another severity.
    #[must_use]
    pub fn severity(mut self, severity: Severity) -> Self {
        self.severity = severity;
        self
    }

    /// At a place.
    #[must_use]
    pub fn at(mut self, position: Position) -> Self {
        self.position = Some(position);
        self
    }

    /// About the node with this path.
    #[must_use]
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// With what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The path of the node that it is about, if known.
    #[must_use]
    pub fn node_path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// Its message.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Whether it is an error.
    #[must_use]
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl From<Finding> for Diagnostic {
    fn from(finding: Finding) -> Self {
        Self {
            code: finding.code.as_str().to_owned(),
            severity: finding.severity,
            file: CONFIG_FILE.to_owned(),
            line: finding.position.map(|position| position.line),
            column: finding.position.map(|position| position.column),
            path: finding.path.map(|path| shorten(&path)),
            message: shorten(&finding.message),
            help: finding.help.map(|help| shorten(&help)),
        }
    }
}

/// Whether any diagnostic is an error.
#[must_use]
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
}

/// Puts errors first, then warnings, each in the order of the text, drops repetitions and keeps at
/// most `limit`.
pub(crate) fn finish(findings: Vec<Finding>, limit: usize) -> Vec<Diagnostic> {
    let mut diagnostics: Vec<Diagnostic> = findings.into_iter().map(Diagnostic::from).collect();
    sort(&mut diagnostics);
    diagnostics.dedup();
    if diagnostics.len() > limit {
        let dropped = diagnostics.len() - limit;
        diagnostics.truncate(limit);
        let note = Finding::new(Code::TooManyFindings, format!("{dropped} more findings are not shown"));
        diagnostics.push(note.into());
    }
    diagnostics
}

/// Errors first, then in the order of the text.
pub(crate) fn sort(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by(|a, b| {
        let place = |d: &Diagnostic| (d.line.unwrap_or(u32::MAX), d.column.unwrap_or(u32::MAX));
        b.severity
            .cmp(&a.severity)
            .then_with(|| place(a).cmp(&place(b)))
            .then_with(|| (&a.code, &a.message).cmp(&(&b.code, &b.message)))
    });
}

/// Cuts a text that came from the input or from the parser, which may be megabytes.
pub(crate) fn shorten(text: &str) -> String {
    let text = text.trim();
    if text.len() <= TEXT_LIMIT {
        return text.to_owned();
    }
    let mut end = TEXT_LIMIT;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} [...]", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn codes_are_unique_kebab_case_and_documented() {
        let table = include_str!("../docs/diagnostics.md");
        let mut seen = HashSet::new();
        for code in Code::ALL {
            let text = code.as_str();
            assert!(seen.insert(text), "{text} is used twice");
            assert!(text.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{text}");
            let severity = format!("{:?}", code.severity()).to_lowercase();
            let row = format!("| `{text}` | {severity} |");
            assert!(table.contains(&row), "the table lacks {row}");
        }
        let rows = table.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, Code::ALL.len(), "the table has rows without a code");
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let diagnostic: Diagnostic = Finding::new(Code::Syntax, "é".repeat(5_000)).into();
        assert!(diagnostic.message.len() < TEXT_LIMIT + 10);
        assert!(diagnostic.message.ends_with("é [...]"));
    }

    #[test]
    fn errors_come_first_and_the_rest_is_counted() {
        let mut findings: Vec<Finding> = (0..20)
            .map(|line| {
                Finding::new(Code::BestPractice, format!("note {line}"))
                    .at(Position { line: 20 - line, column: 1 })
            })
            .collect();
        findings.push(Finding::new(Code::Semantic, "no place"));
        findings.push(Finding::new(Code::Semantic, "no place"));
        let diagnostics = finish(findings, 5);
        assert_eq!(diagnostics.len(), 6);
        assert_eq!(diagnostics[0].message, "no place");
        assert_eq!(diagnostics[1].line, Some(1));
        assert_eq!(diagnostics[5].message, "16 more findings are not shown");
    }
}
