//! Notices over `LISTEN`/`NOTIFY`.

use crate::sql::notices::Notices;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use std::time::Duration;
use uuid::Uuid;
use zentinel_core::RecordKind;
use zentinel_core::id::ProjectId;
use zentinel_core::port::Notice;

/// Where notices are sent.
pub(super) const CHANNEL: &str = "zentinel_store";
/// Ids in one payload: PostgreSQL refuses payloads of 8,000 bytes, and an id takes 22.
const IDS: usize = 340;
/// How long a listener waits before it connects again.
const PAUSE: Duration = Duration::from_millis(250);
/// After so long a silence a listener asks whether the database is still there.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the database may take to answer a listener.
const ANSWER: Duration = Duration::from_secs(5);

/// A notice on the wire.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Records {
        kind: RecordKind,
        project_id: Option<ProjectId>,
        ids: String,
        #[serde(default)]
        renewed: bool,
    },
    Events,
    Jobs,
}

/// The payloads of some notices.
pub(super) fn payloads(notices: &[Notice]) -> zentinel_core::Result<Vec<String>> {
    let mut payloads = Vec::new();
    for notice in notices {
        match notice {
            Notice::Records { kind, project_id, ids, renewed } => {
                for ids in ids.chunks(IDS) {
                    let bytes: Vec<u8> = ids.iter().flat_map(|id| *id.as_bytes()).collect();
                    let ids = STANDARD_NO_PAD.encode(bytes);
                    let (kind, project_id, renewed) = (*kind, *project_id, *renewed);
                    let message = Message::Records { kind, project_id, ids, renewed };
                    payloads.push(serde_json::to_string(&message)?);
                }
            }
            Notice::Events => payloads.push(serde_json::to_string(&Message::Events)?),
            Notice::Jobs => payloads.push(serde_json::to_string(&Message::Jobs)?),
            Notice::Lagged => {}
        }
    }
    Ok(payloads)
}

/// The notice of a payload. One that cannot be read came from another version, so something
/// happened that we do not know.
fn notice(payload: &str) -> Notice {
    match serde_json::from_str(payload) {
        Ok(Message::Records { kind, project_id, ids, renewed }) => match STANDARD_NO_PAD.decode(ids) {
            Ok(bytes) if bytes.len() % 16 == 0 => {
                let ids = bytes.chunks_exact(16).filter_map(|id| Uuid::from_slice(id).ok());
                Notice::Records { kind, project_id, ids: ids.collect(), renewed }
            }
            _ => Notice::Lagged,
        },
        Ok(Message::Events) => Notice::Events,
        Ok(Message::Jobs) => Notice::Jobs,
        Err(_) => Notice::Lagged,
    }
}

/// A connection that listens.
pub(super) async fn listen(options: &PgConnectOptions) -> Result<PgListener, sqlx::Error> {
    let pool =
        PgPoolOptions::new().max_connections(1).acquire_timeout(ANSWER).max_lifetime(None).idle_timeout(None);
    let mut listener = PgListener::connect_with(&pool.connect_with(options.clone()).await?).await?;
    listener.eager_reconnect(false);
    listener.listen(CHANNEL).await?;
    Ok(listener)
}

/// Passes on what is heard, for as long as the store lives.
pub(super) async fn run(mut listener: PgListener, options: PgConnectOptions, notices: Notices) {
    loop {
        let lost = hear(&mut listener, &notices).await;
        tracing::warn!(error = lost.map(tracing::field::display), "the listening connection was lost");
        listener = loop {
            match listen(&options).await {
                Ok(listener) => break listener,
                Err(error) => tracing::debug!(%error, "the database cannot be listened to"),
            }
            tokio::time::sleep(PAUSE).await;
        };
        tracing::info!("the database is listened to again");
        // What happened meanwhile was not heard.
        notices.tell(Notice::Lagged);
    }
}

/// Passes on what is heard until the connection is lost.
async fn hear(listener: &mut PgListener, notices: &Notices) -> Option<sqlx::Error> {
    loop {
        match tokio::time::timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(heard))) => notices.tell(notice(heard.payload())),
            Ok(Ok(None)) => return None,
            Ok(Err(error)) => return Some(error),
            // Nothing happened, or the other side is gone without a farewell.
            Err(_) => {
                match tokio::time::timeout(ANSWER, sqlx::raw_sql("SELECT 1").execute(&mut *listener)).await {
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Some(error),
                    Err(_) => return None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_core::id::TypedId as _;

    #[test]
    fn notices_fit_and_survive_the_wire() {
        let ids: Vec<Uuid> = (0..1_000).map(|_| Uuid::new_v4()).collect();
        let project_id = Some(ProjectId::from_uuid(Uuid::new_v4()));
        let kind = RecordKind::RegistrationToken;
        let renewed = true;
        let records = Notice::Records { kind, project_id, ids: ids.clone(), renewed };
        let sent = [records, Notice::Events, Notice::Jobs];
        let payloads = payloads(&sent).unwrap();
        assert!(payloads.iter().all(|payload| payload.len() < 8_000));
        let mut heard = Vec::new();
        for payload in &payloads[..payloads.len() - 2] {
            match notice(payload) {
                Notice::Records { kind: its, project_id: project, ids, renewed: again } => {
                    assert_eq!((its, project, again), (kind, project_id, renewed));
                    heard.extend(ids);
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(heard, ids);
        assert_eq!(notice(&payloads[payloads.len() - 2]), Notice::Events);
        assert_eq!(notice(&payloads[payloads.len() - 1]), Notice::Jobs);
    }

    #[test]
    fn an_unknown_payload_means_that_something_was_missed() {
        for payload in ["", "x", "{}", r#"{"records":{"kind":"comet","project_id":null,"ids":""}}"#] {
            assert_eq!(notice(payload), Notice::Lagged);
        }
    }
}
