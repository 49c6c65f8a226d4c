//! What can go wrong inside, and what the caller is told.

use super::Backend;
use zentinel_core::{Error, Result};

/// What an error code of a database means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The database is away or out of room, locks or time.
    Away,
    /// Two transactions got in each other's way: the same work may succeed at once.
    Collision,
    /// A value that the database cannot hold.
    Value,
    /// Anything else.
    Defect,
}

/// Why a unit of work stopped.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The store's contract says no.
    Refused(Error),
    /// A unique key is taken; the error is what the caller is told.
    Taken(Error),
    /// The database says no.
    Database(sqlx::Error),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<serde_json::Error> for Fault {
    fn from(error: serde_json::Error) -> Self {
        Self::Refused(error.into())
    }
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl Fault {
    /// Whether the same work may succeed when it is tried again at once.
    pub(crate) fn is_collision<B: Backend>(&self) -> bool {
        matches!(self, Self::Database(error) if class::<B>(error) == Class::Collision)
    }

    /// Gives a broken unique key its meaning.
    pub(crate) fn on_taken(self, taken: impl FnOnce() -> Error) -> Self {
        match self {
            Self::Database(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                Self::Taken(taken().with_source(sqlx::Error::Database(error)))
            }
            other => other,
        }
    }

    /// What the caller is told.
    pub(crate) fn into_error<B: Backend>(self) -> Error {
        match self {
            Self::Refused(error) | Self::Taken(error) => error,
            Self::Database(error) => {
                let told = match class::<B>(&error) {
                    Class::Away => Error::unavailable("the database is not available"),
                    Class::Collision => Error::unavailable("the database is too busy"),
                    Class::Value => Error::invalid("a value cannot be stored"),
                    Class::Defect => Error::internal("the database refused a statement"),
                };
                told.with_source(error)
            }
        }
    }
}

fn class<B: Backend>(error: &sqlx::Error) -> Class {
    match error {
        sqlx::Error::Database(error) => error.code().map_or(Class::Defect, |code| B::classify(&code)),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => Class::Away,
        _ => Class::Defect,
    }
}

/// Turns the inner result into the caller's.
pub(crate) fn tell<B: Backend, T>(result: Result<T, Fault>) -> Result<T> {
    result.map_err(Fault::into_error::<B>)
}
