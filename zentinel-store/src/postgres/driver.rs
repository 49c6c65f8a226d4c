//! How values travel: as the database's own types.

use super::nul::{hide, hide_json, show, show_json};
use crate::sql::statement::impl_session;
use crate::sql::{Arg, Cells};
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::{PgArgumentBuffer, PgArguments, PgRow, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::query::Query;
use sqlx::types::Json;
use sqlx::{Decode, Encode, PgConnection, Postgres, Row as _, Type};
use std::borrow::Cow;
use uuid::Uuid;
use zentinel_core::Timestamp;

/// A document that is JSON already; saves reading and writing it once more.
struct Document(String);

impl Type<Postgres> for Document {
    fn type_info() -> PgTypeInfo {
        <Json<()> as Type<Postgres>>::type_info()
    }
}

/// The version that begins the binary form of `jsonb`.
const JSONB_VERSION: u8 = 1;

impl Encode<'_, Postgres> for Document {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.push(JSONB_VERSION);
        buffer.extend_from_slice(self.0.as_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Document {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        let bytes = value.as_bytes()?;
        let text = match value.format() {
            PgValueFormat::Binary => {
                bytes.strip_prefix(&[JSONB_VERSION]).ok_or("unknown version of jsonb")?
            }
            PgValueFormat::Text => bytes,
        };
        Ok(Self(std::str::from_utf8(text)?.to_owned()))
    }
}

type Prepared<'q> = Query<'q, Postgres, PgArguments>;

fn bind(query: Prepared<'_>, arg: Arg) -> Prepared<'_> {
    match arg {
        Arg::Text(text) => query.bind(text.map(|text| hide(Cow::Owned(text)).into_owned())),
        Arg::Uuid(id) => query.bind(id),
        Arg::Int(number) => query.bind(number),
        Arg::Time(at) => query.bind(at),
        Arg::Json(text) => query.bind(Document(hide_json(text))),
    }
}

impl_session!(PgConnection, PgRow, bind);

impl Cells for PgRow {
    fn text(&self, column: usize) -> Result<Option<String>, sqlx::Error> {
        Ok(self.try_get::<Option<String>, _>(column)?.map(show))
    }

    fn uuid(&self, column: usize) -> Result<Option<Uuid>, sqlx::Error> {
        self.try_get(column)
    }

    fn int(&self, column: usize) -> Result<i64, sqlx::Error> {
        Ok(self.try_get::<Option<i64>, _>(column)?.unwrap_or_default())
    }

    fn time(&self, column: usize) -> Result<Option<Timestamp>, sqlx::Error> {
        self.try_get(column)
    }

    fn json(&self, column: usize) -> Result<String, sqlx::Error> {
        Ok(show_json(self.try_get::<Document, _>(column)?.0))
    }
}
