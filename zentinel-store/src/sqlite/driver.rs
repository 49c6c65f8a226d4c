//! How values travel: UUIDs as lower-case text, instants as microseconds, JSON as text.

use crate::sql::statement::impl_session;
use crate::sql::{Arg, Cells};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row as _, Sqlite, SqliteConnection};
use uuid::Uuid;
use zentinel_core::Timestamp;

type Prepared<'q> = Query<'q, Sqlite, SqliteArguments>;

fn bind(query: Prepared<'_>, arg: Arg) -> Prepared<'_> {
    match arg {
        Arg::Text(text) => query.bind(text),
        Arg::Uuid(id) => query.bind(id.to_string()),
        Arg::Int(number) => query.bind(number),
        Arg::Time(at) => query.bind(at.timestamp_micros()),
        Arg::Json(text) => query.bind(text),
    }
}

impl_session!(SqliteConnection, SqliteRow, bind);

impl Cells for SqliteRow {
    fn text(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
        self.try_get(column)
    }

    fn uuid(&self, column: usize) -> Result<Option<Uuid>, sqlx::Error> {
        let text: Option<&str> = self.try_get(column)?;
        let id = text.map(Uuid::parse_str).transpose();
        id.map_err(|error| sqlx::Error::Decode(error.into()))
    }

    fn int(&self, column: usize) -> Result<i64, sqlx::Error> {
        Ok(self.try_get::<Option<i64>, _>(column)?.unwrap_or_default())
    }

    fn time(&self, column: usize) -> Result<Option<Timestamp>, sqlx::Error> {
        let micros: Option<i64> = self.try_get(column)?;
        Ok(micros.and_then(Timestamp::from_timestamp_micros))
    }

    fn json(&self, column: usize) -> Result<String, sqlx::Error> {
        self.try_get(column)
    }
}
