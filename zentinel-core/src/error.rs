//! One error type for every crate.

use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// Result with the control plane's error.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as a caller decides on it. Each kind maps to one HTTP status and one exit
/// code, see [`Kind::status`] and [`Kind::exit_code`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// The request could not be read at all (400).
    Malformed,
    /// No credential, or one that is not accepted (401).
    Unauthenticated,
    /// The credential is fine but may not do this (403).
    Forbidden,
    /// There is no such thing, or the caller may not know of it (404).
    NotFound,
    /// The thing is in a state that does not allow this (409).
    Conflict,
    /// Somebody else changed the record since it was read: read again and retry (409).
    Stale,
    /// The input is larger than allowed (413).
    TooLarge,
    /// Fields are wrong; see [`Error::fields`] (422).
    Invalid,
    /// Too many requests (429).
    RateLimited,
    /// A dependency is away; try again later (503).
    Unavailable,
    /// It took longer than allowed (503).
    Timeout,
    /// A defect or an impossible state (500).
    Internal,
}

impl Kind {
    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> u16 {
        match self {
            Self::Malformed => 400,
            Self::Unauthenticated => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict | Self::Stale => 409,
            Self::TooLarge => 413,
            Self::Invalid => 422,
            Self::RateLimited => 429,
            Self::Unavailable | Self::Timeout => 503,
            Self::Internal => 500,
        }
    }

    /// The exit code of a command-line tool (`sysexits.h` where it has one).
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Malformed | Self::Invalid | Self::TooLarge => 65,
            Self::Unauthenticated | Self::Forbidden => 77,
            Self::NotFound => 66,
            Self::Conflict | Self::Stale => 73,
            Self::RateLimited | Self::Unavailable | Self::Timeout => 75,
            Self::Internal => 70,
        }
    }

    /// Whether trying the same call again, later, may succeed.
    #[must_use]
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Stale | Self::RateLimited | Self::Unavailable | Self::Timeout)
    }
}

/// Messages by field, in field order.
pub type FieldErrors = BTreeMap<String, Vec<String>>;

struct Inner {
    kind: Kind,
    message: Cow<'static, str>,
    fields: FieldErrors,
    details: Option<Value>,
    hint: Option<Cow<'static, str>>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// An error: a [`Kind`] to decide on, a message for a person, and machine-readable details.
pub struct Error(Box<Inner>);

impl Error {
    /// An error of a kind.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            message: message.into(),
            fields: FieldErrors::new(),
            details: None,
            hint: None,
            source: None,
        }))
    }

    /// [`Kind::Malformed`].
    #[must_use]
    pub fn malformed(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Malformed, message)
    }

    /// [`Kind::Unauthenticated`].
    #[must_use]
    pub fn unauthenticated(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unauthenticated, message)
    }

    /// [`Kind::Forbidden`].
    #[must_use]
    pub fn forbidden(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Forbidden, message)
    }

    /// [`Kind::NotFound`].
    #[must_use]
    pub fn not_found(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// [`Kind::Conflict`].
    #[must_use]
    pub fn conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// [`Kind::Stale`]: a lost race on `what`.
    #[must_use]
    pub fn stale(what: impl fmt::Display) -> Self {
        Self::new(Kind::Stale, format!("{what} was changed by somebody else; read it again and retry"))
    }

    /// [`Kind::Invalid`] without a field.
    #[must_use]
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// [`Kind::Invalid`] on one field.
    #[must_use]
    pub fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        let text = format!("{field} {message}");
        Self::new(Kind::Invalid, text).with_field(field, message)
    }

    /// [`Kind::Invalid`] on several fields.
    #[must_use]
    pub fn invalid_fields(fields: FieldErrors) -> Self {
        let text = fields
            .iter()
            .flat_map(|(field, messages)| messages.iter().map(move |message| format!("{field} {message}")))
            .collect::<Vec<_>>()
            .join("; ");
        let mut error = Self::new(Kind::Invalid, text);
        error.0.fields = fields;
        error
    }

    /// [`Kind::Unavailable`].
    #[must_use]
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// [`Kind::Internal`].
    #[must_use]
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// Adds a message on a field.
    #[must_use]
    pub fn with_field(mut self, field: impl Into<String>, message: impl Into<String>) -> Self {
        self.0.fields.entry(field.into()).or_default().push(message.into());
        self
    }

    /// Adds machine-readable details.
    #[must_use]
    pub fn with_details(mut self, details: Value) -> Self {
        self.0.details = Some(details);
        self
    }

    /// Says what to do next.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Keeps the cause for the log. It is not shown to callers of the API.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.0.source = Some(Arc::from(source.into()));
        self
    }

    /// What to decide on.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// The message for a person.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// Messages by field; empty unless the kind is [`Kind::Invalid`].
    #[must_use]
    pub fn fields(&self) -> &FieldErrors {
        &self.0.fields
    }

    /// Machine-readable details.
    #[must_use]
    pub fn details(&self) -> Option<&Value> {
        self.0.details.as_ref()
    }

    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind).field("message", &self.0.message);
        if !self.0.fields.is_empty() {
            out.field("fields", &self.0.fields);
        }
        if let Some(details) = &self.0.details {
            out.field("details", details);
        }
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::internal("a stored value could not be read or written").with_source(error)
    }
}

/// Collects field errors while checking an input, then turns them into one error.
///
/// ```
/// use zentinel_core::error::Checks;
/// let mut checks = Checks::new();
/// checks.that("name", false, "can't be blank");
/// assert_eq!(checks.finish().unwrap_err().fields()["name"], ["can't be blank"]);
/// ```
#[derive(Debug, Default)]
pub struct Checks(FieldErrors);

impl Checks {
    /// No complaints yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Complains about `field` unless `ok`.
    pub fn that(&mut self, field: &str, ok: bool, message: impl Into<String>) {
        if !ok {
            self.0.entry(field.to_owned()).or_default().push(message.into());
        }
    }

    /// Checks a required text of 1 to `max` characters.
    pub fn text(&mut self, field: &str, text: &str, max: usize) {
        self.that(field, !text.trim().is_empty(), "can't be blank");
        self.that(field, text.chars().count() <= max, format!("should be at most {max} character(s)"));
        self.that(field, !text.contains('\0'), "is invalid");
    }

    /// Takes over the field errors of a nested check.
    ///
    /// # Errors
    /// Passes on errors that are not about fields.
    pub fn absorb<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) if !error.fields().is_empty() => {
                for (field, messages) in error.fields() {
                    self.0.entry(field.clone()).or_default().extend(messages.iter().cloned());
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ends the check.
    ///
    /// # Errors
    /// [`Kind::Invalid`] with every complaint.
    pub fn finish(self) -> Result<()> {
        if self.0.is_empty() { Ok(()) } else { Err(Error::invalid_fields(self.0)) }
    }
}
