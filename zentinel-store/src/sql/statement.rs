//! Statements and the rows they return, independent of the driver.

use std::future::Future;
use uuid::Uuid;
use zentinel_core::{Result, Timestamp};

/// A bound value.
#[derive(Clone, Debug)]
pub(crate) enum Arg {
    /// Text, or NULL.
    Text(Option<String>),
    /// An id.
    Uuid(Uuid),
    /// A number.
    Int(i64),
    /// An instant.
    Time(Timestamp),
    /// A JSON document.
    Json(String),
}

impl From<&str> for Arg {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<Uuid> for Arg {
    fn from(id: Uuid) -> Self {
        Self::Uuid(id)
    }
}

impl From<i64> for Arg {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<Timestamp> for Arg {
    fn from(at: Timestamp) -> Self {
        Self::Time(at)
    }
}

/// SQL text with its bound values. The text is made of literals and of names from static lists
/// only; every value is bound.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub(crate) text: String,
    pub(crate) args: Vec<Arg>,
}

impl Statement {
    /// A statement that begins with `text`.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), args: Vec::new() }
    }

    /// Binds the next `$n`, which the text already has.
    pub(crate) fn arg(mut self, arg: impl Into<Arg>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Binds the next of `$n`, which the text already has.
    pub(crate) fn args(mut self, args: impl IntoIterator<Item = Arg>) -> Self {
        self.args.extend(args);
        self
    }

    /// Adds text.
    pub(crate) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds text in which every `?` stands for the next of `args`.
    pub(crate) fn push_with(&mut self, text: &str, args: impl IntoIterator<Item = Arg>) {
        let mut args = args.into_iter();
        let mut pieces = text.split('?');
        self.push(pieces.next().unwrap_or_default());
        for piece in pieces {
            self.args.extend(args.next());
            self.text.push_str(&format!("${}{piece}", self.args.len()));
        }
    }
}

/// A row that a statement returned; columns count from 0.
pub(crate) trait Cells: Send + Sync {
    /// Text, or NULL.
    fn text(&self, column: usize) -> Result<Option<String>, sqlx::Error>;
    /// An id, or NULL.
    fn uuid(&self, column: usize) -> Result<Option<Uuid>, sqlx::Error>;
    /// A number, 0 for NULL.
    fn int(&self, column: usize) -> Result<i64, sqlx::Error>;
    /// An instant, or NULL.
    fn time(&self, column: usize) -> Result<Option<Timestamp>, sqlx::Error>;
    /// A JSON document.
    fn json(&self, column: usize) -> Result<String, sqlx::Error>;

    /// A number that is never negative.
    fn count(&self, column: usize) -> Result<u64, sqlx::Error> {
        Ok(u64::try_from(self.int(column)?).unwrap_or_default())
    }
}

/// A connection that carries out statements.
pub(crate) trait Session: Send {
    /// Its rows.
    type Row: Cells;
    /// Carries out a statement and returns its rows.
    fn rows(
        &mut self,
        statement: Statement,
    ) -> impl Future<Output = Result<Vec<Self::Row>, sqlx::Error>> + Send;
    /// Carries out a statement and returns how many rows it touched.
    fn execute(&mut self, statement: Statement) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
}

/// Implements [`Session`] for a driver's connection; `bind` binds one [`Arg`] to its query.
macro_rules! impl_session {
    ($connection:ty, $row:ty, $bind:path) => {
        impl $crate::sql::Session for $connection {
            type Row = $row;
            async fn rows(&mut self, statement: $crate::sql::Statement) -> Result<Vec<$row>, sqlx::Error> {
                let query = sqlx::query(sqlx::AssertSqlSafe(statement.text));
                statement.args.into_iter().fold(query, $bind).fetch_all(self).await
            }
            async fn execute(&mut self, statement: $crate::sql::Statement) -> Result<u64, sqlx::Error> {
                let query = sqlx::query(sqlx::AssertSqlSafe(statement.text));
                let done = statement.args.into_iter().fold(query, $bind).execute(self).await?;
                Ok(done.rows_affected())
            }
        }
    };
}
pub(crate) use impl_session;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn question_marks_become_numbered_parameters() {
        let mut statement = Statement::new("SELECT $1").arg(1);
        statement.push_with(" WHERE a = ? AND b < ?", [Arg::Int(2), Arg::Int(3)]);
        assert_eq!(statement.text, "SELECT $1 WHERE a = $2 AND b < $3");
        assert_eq!(statement.args.len(), 3);
    }
}
