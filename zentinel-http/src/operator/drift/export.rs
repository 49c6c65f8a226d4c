//! Every drift event as a file, read page by page while it is sent.

use super::with_status;
use crate::error::ApiResult;
use crate::extract::Params;
use crate::operator::auth::{InProject, NodesRead};
use crate::services::Api;
use crate::wire::drift::DriftBody;
use crate::wire::{Refusals, Time};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, SecondsFormat};
use futures_util::stream;
use http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde_json::json;
use std::sync::Arc;
use zentinel_core::entity::{DriftEvent, Project};
use zentinel_core::port::{Query, Store, StoreExt};
use zentinel_core::{PageRequest, Result, Scope, Timestamp};

/// Events per read.
const PAGE: u32 = 500;

const HEADER: &str = "id,node_id,node_name,node_hostname,severity,expected_bundle_id,actual_bundle_id,\
                      detected_at,resolved_at,resolution,duration_seconds\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
}

/// Export drift events
///
/// All that match, newest first, as an attachment. Of cells that a spreadsheet would take for a formula, the CSV
/// form puts an apostrophe in front.
#[utoipa::path(
    get, path = "/api/v1/projects/{project_slug}/drift/export", tag = "Drift",
    params(
        ("project_slug" = String, Path),
        ("format" = Option<String>, Query, description = "`json` (the default) or `csv`"),
        ("since" = Option<String>, Query, description = "Detected at this instant or later, RFC 3339"),
        ("until" = Option<String>, Query, description = "Detected at this instant or before, RFC 3339"),
        ("status" = Option<String>, Query, description = "`active`, `resolved` or `all` (the default)"),
    ),
    responses(
        (status = 200, description = "The events", content((String = "application/json"), (String = "text/csv"))),
        Refusals,
    ),
    security(("api_key" = ["nodes:read"])),
)]
pub(super) async fn export(
    State(api): State<Api>,
    at: InProject<NodesRead>,
    params: Params,
) -> ApiResult<Response> {
    let format = if params.get("format") == Some("csv") { Format::Csv } else { Format::Json };
    let query = with_status(&params).created(instant(&params, "since"), instant(&params, "until"));
    let now = api.now();
    let (extension, kind) = match format {
        Format::Json => ("json", "application/json; charset=utf-8"),
        Format::Csv => ("csv", "text/csv; charset=utf-8"),
    };
    let name = format!("drift-events-{}-{}.{extension}", at.project.slug, now.format("%Y-%m-%d"));
    let mut writer = Writer {
        store: Arc::clone(&api.store),
        scope: at.scope(),
        query: query.uncounted(),
        format,
        next: Next::Page(None),
        first: true,
        head: String::new(),
    };
    writer.head = match format {
        Format::Csv => HEADER.to_owned(),
        Format::Json => head(&at.project, now, writer.total().await?),
    };
    let body = Body::from_stream(stream::try_unfold(writer, Writer::next));
    let disposition = format!("attachment; filename=\"{name}\"");
    Ok(([(CONTENT_TYPE, kind.to_owned()), (CONTENT_DISPOSITION, disposition)], body).into_response())
}

/// What is no instant is ignored.
fn instant(params: &Params, name: &str) -> Option<Timestamp> {
    let at = DateTime::parse_from_rfc3339(params.get(name)?).ok()?;
    Some(at.to_utc())
}

fn head(project: &Project, now: Timestamp, total: u64) -> String {
    let project = json!({"id": project.id, "name": project.name, "slug": project.slug});
    let at = now.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("{{\"exported_at\":\"{at}\",\"project\":{project},\"total\":{total},\"drift_events\":[")
}

/// Where an export stands.
enum Next {
    Page(Option<String>),
    Tail,
    Done,
}

struct Writer {
    store: Arc<dyn Store>,
    scope: Scope,
    query: Query,
    format: Format,
    next: Next,
    first: bool,
    head: String,
}

impl Writer {
    async fn total(&self) -> Result<u64> {
        let mut query = self.query.clone().page(PageRequest { limit: 1, cursor: None });
        query.counted = true;
        Ok(self.store.query(&self.scope, &query).await?.total)
    }

    /// The next piece of the file. An error cuts the answer off, so that nobody takes a part for the whole.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        let mut text = std::mem::take(&mut self.head);
        match std::mem::replace(&mut self.next, Next::Done) {
            Next::Done => return Ok(None),
            Next::Tail => text.push_str(if self.format == Format::Json { "]}" } else { "" }),
            Next::Page(cursor) => {
                let query = self.query.clone().page(PageRequest { limit: PAGE, cursor });
                let page = self.store.list::<DriftEvent>(&self.scope, query).await?;
                for event in &page.items {
                    match self.format {
                        Format::Csv => text.push_str(&row(event)),
                        Format::Json => {
                            if !std::mem::take(&mut self.first) {
                                text.push(',');
                            }
                            text.push_str(&serde_json::to_string(&DriftBody::from(&event.value))?);
                        }
                    }
                }
                self.next = page.next_cursor.map_or(Next::Tail, |cursor| Next::Page(Some(cursor)));
            }
        }
        Ok(Some((Bytes::from(text), self)))
    }
}

fn row(event: &DriftEvent) -> String {
    let time = |at: Timestamp| Time(at).0.to_rfc3339_opts(SecondsFormat::Secs, true);
    let cells = [
        event.id.to_string(),
        event.node_id.to_string(),
        event.node_name.clone(),
        event.node_hostname.clone().unwrap_or_default(),
        event.severity.as_str().to_owned(),
        event.expected_bundle_id.to_string(),
        event.actual_bundle_id.map(|id| id.to_string()).unwrap_or_default(),
        time(event.detected_at),
        event.resolved_at.map(time).unwrap_or_default(),
        event.resolution.map(|resolution| resolution.as_str().to_owned()).unwrap_or_default(),
        event.duration_seconds().map(|seconds| seconds.to_string()).unwrap_or_default(),
    ];
    let cells: Vec<String> = cells.iter().map(|text| cell(text)).collect();
    cells.join(",") + "\r\n"
}

/// A cell by RFC 4180 that no spreadsheet takes for a formula.
fn cell(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let guarded = if formula { format!("'{text}") } else { text.to_owned() };
    if guarded.contains([',', '"', '\n', '\r']) {
        return format!("\"{}\"", guarded.replace('"', "\"\""));
    }
    guarded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cells_are_quoted_and_no_formula() {
        assert_eq!(cell("edge-1"), "edge-1");
        assert_eq!(cell("a,\"b\"\nc"), "\"a,\"\"b\"\"\nc\"");
        for formula in ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"] {
            assert_eq!(cell(formula), format!("'{formula}"));
        }
        assert_eq!(cell("=HYPERLINK(\"http://x\",\"y\")"), "\"'=HYPERLINK(\"\"http://x\"\",\"\"y\"\")\"");
    }

    proptest! {
        /// Whatever a node calls itself stays in its cell.
        #[test]
        fn a_cell_stays_one_cell(text in "[=+@,\"\n\ra-c -]{0,12}") {
            let cell = cell(&text);
            let inner = match cell.strip_prefix('"') {
                Some(rest) => rest.strip_suffix('"').unwrap().replace("\"\"", "\u{1}"),
                None => {
                    prop_assert!(!cell.contains([',', '\n', '\r']));
                    cell.clone()
                }
            };
            prop_assert!(!inner.contains('"'));
            prop_assert!(!inner.starts_with(['=', '+', '-', '@']));
        }
    }
}
