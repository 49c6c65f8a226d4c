//! Reading and trimming logs.

use super::fault::tell;
use super::read::limit_to;
use super::rows::{LOG, log_entry, missing, names};
use super::{Arg, Backend, Cells as _, ColumnType, Fault, Session as _, Statement};
use serde::Serialize;
use uuid::Uuid;
use zentinel_core::log::{LogEntry, LogKind, LogQuery, Retention};
use zentinel_core::{Error, Result, Scope, Timestamp};

/// The most entries of one read.
const MAX_ENTRIES: u32 = 500;
/// How many owners one transaction of a trim handles, so that others get their turn.
const OWNERS_PER_TRIM: usize = 500;
/// How many old entries one transaction of a trim drops.
const ENTRIES_PER_TRIM: i64 = 10_000;

/// Reads a log.
pub(crate) async fn read<B: Backend>(backend: &B, scope: &Scope, query: &LogQuery) -> Result<Vec<LogEntry>> {
    let mut statement =
        Statement::new(format!("SELECT {}, seq FROM {} WHERE 1 = 1", names(&LOG), query.kind.table()));
    limit_to::<B>(&mut statement, scope, query.owner.is_some());
    if let Some(owner) = query.owner {
        statement.push_with(" AND owner = ?", [owner.into()]);
    }
    if let Some(place) = query.beyond {
        let text = if query.newest_first { " AND seq < ?" } else { " AND seq > ?" };
        statement.push_with(text, [Arg::Int(i64::try_from(place).unwrap_or(i64::MAX))]);
    }
    statement.push(if query.newest_first { " ORDER BY seq DESC" } else { " ORDER BY seq" });
    statement.push_with(" LIMIT ?", [Arg::Int(query.limit.clamp(1, MAX_ENTRIES).into())]);
    let entries = async {
        let rows = backend.readers().acquire().await?.rows(statement).await?;
        rows.iter().map(|cells| log_entry(query.kind, cells)).collect::<Result<_, Fault>>()
    };
    tell::<B, _>(entries.await)
}

/// How many entries of a log the scope shows.
pub(crate) async fn count<B: Backend>(
    backend: &B,
    scope: &Scope,
    kind: LogKind,
    owner: Option<Uuid>,
) -> Result<u64> {
    let mut statement = Statement::new(format!("SELECT count(*) FROM {} WHERE 1 = 1", kind.table()));
    limit_to::<B>(&mut statement, scope, owner.is_some());
    if let Some(owner) = owner {
        statement.push_with(" AND owner = ?", [owner.into()]);
    }
    let count = async {
        let rows = backend.readers().acquire().await?.rows(statement).await?;
        Ok(rows.first().map_or(Ok(0), |cells| cells.count(0))?)
    };
    tell::<B, _>(count.await)
}

/// Drops what a retention does not keep; returns how many entries went.
pub(crate) async fn trim<B: Backend>(backend: &B, kind: LogKind, retention: Retention) -> Result<u64> {
    if kind == LogKind::Audit {
        return Err(Error::invalid("the audit log is never trimmed"));
    }
    let dropped = async {
        let mut dropped = 0;
        // First: what is old still counts among an owner's entries.
        if let Some(keep) = retention.per_owner {
            dropped += trim_surplus(backend, kind, keep).await?;
        }
        if let Some(not_before) = retention.not_before {
            dropped += trim_old(backend, kind, not_before).await?;
        }
        Ok(dropped)
    };
    tell::<B, _>(dropped.await)
}

/// The newest entry of an owner that goes, and with it every older one.
#[derive(Serialize)]
struct Surplus {
    owner: Uuid,
    last: i64,
}

async fn trim_surplus<B: Backend>(backend: &B, kind: LogKind, keep: u32) -> Result<u64, Fault> {
    let table = kind.table();
    let ranked = format!(
        "SELECT owner, seq FROM (SELECT owner, seq, \
         row_number() OVER (PARTITION BY owner ORDER BY seq DESC) AS place FROM {table}) AS ranked \
         WHERE place = $1"
    );
    let statement = Statement::new(ranked).arg(i64::from(keep) + 1);
    let rows = backend.readers().acquire().await?.rows(statement).await?;
    let surplus = rows.iter().map(|cells| {
        Ok(Surplus { owner: cells.uuid(0)?.ok_or_else(|| missing("owner"))?, last: cells.int(1)? })
    });
    let surplus = surplus.collect::<Result<Vec<_>, Fault>>()?;
    drop(rows);

    let delete = format!(
        "DELETE FROM {table} WHERE seq IN (SELECT t.seq FROM {} \
         JOIN {table} AS t ON t.owner = x.owner AND t.seq <= x.last)",
        B::set(1, &[("owner", ColumnType::Uuid), ("last", ColumnType::Int)])
    );
    let mut dropped = 0;
    for owners in surplus.chunks(OWNERS_PER_TRIM) {
        let statement = Statement::new(delete.as_str()).arg(Arg::Json(serde_json::to_string(owners)?));
        dropped += alone(backend, statement).await?;
    }
    Ok(dropped)
}

async fn trim_old<B: Backend>(backend: &B, kind: LogKind, not_before: Timestamp) -> Result<u64, Fault> {
    let table = kind.table();
    let delete = format!("DELETE FROM {table} WHERE seq IN (SELECT seq FROM {table} WHERE at < $1 LIMIT $2)");
    let mut dropped = 0;
    loop {
        let statement = Statement::new(delete.as_str()).arg(not_before).arg(ENTRIES_PER_TRIM);
        let count = alone(backend, statement).await?;
        dropped += count;
        if count < ENTRIES_PER_TRIM.unsigned_abs() {
            return Ok(dropped);
        }
    }
}

/// One statement in a transaction of its own.
async fn alone<B: Backend>(backend: &B, statement: Statement) -> Result<u64, Fault> {
    let mut transaction = backend.begin().await?;
    let count = transaction.execute(statement).await?;
    transaction.commit().await?;
    Ok(count)
}
