//! `zentinelctl bundle`.

use super::bundle_create::{self, Create};
use super::find::{self, every};
use super::promotion;
use super::screen::{clean, instant, pairs, state, table};
use super::session::Session;
use serde_json::json;
use zentinel_core::Result;
use zentinel_core::entity::Activation;
use zentinel_core::port::{Diagnostic, Severity};
use zentinel_http::client::BundleView;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List bundles, newest first.
    List {
        /// At most so many.
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
    },
    /// Show a bundle and what the compiler said.
    Show {
        /// Version, id or beginning of the id.
        bundle: String,
    },
    /// Hand in a configuration to compile.
    Create(Create),
    /// Let rollouts bring a bundle to an environment: the named one, or the next one.
    Promote {
        /// Version, id or beginning of the id.
        bundle: String,
        /// Slug, name or id of the environment.
        environment: Option<String>,
    },
    /// Show where a bundle was promoted to.
    Promotions {
        /// Version, id or beginning of the id.
        bundle: String,
    },
    /// Withdraw a bundle: no node gets it any more.
    Revoke {
        /// Version, id or beginning of the id.
        bundle: String,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    match command {
        Command::List { limit } => {
            let page = async |cursor: Option<&str>| client.bundles(project, cursor).await;
            let (bundles, total) = every(Some(limit), page).await?;
            session.screen.answer(&json!({"bundles": bundles, "total": total}), || {
                let rows: Vec<_> = bundles.iter().map(row).collect();
                table(&["ID", "VERSION", "STATUS", "RISK", "SIZE", "CREATED"], &rows).join("\n")
            })
        }
        Command::Show { bundle } => {
            let bundle = find::bundle(session, &bundle).await?;
            session.screen.answer(&bundle, || shown(&bundle))
        }
        Command::Promote { bundle, environment } => {
            promotion::promote(session, &bundle, environment.as_deref()).await
        }
        Command::Promotions { bundle } => promotion::history(session, &bundle).await,
        Command::Create(create) => bundle_create::run(session, create).await,
        Command::Revoke { bundle, yes } => {
            let bundle = find::bundle(session, &bundle).await?;
            session.screen.confirm(&format!("Withdraw bundle {}?", clean(&bundle.version)), yes)?;
            let bundle = client.revoke_bundle(project, bundle.id).await?;
            session.screen.answer(&bundle, || format!("bundle {} is revoked", clean(&bundle.version)))
        }
    }
}

fn row(bundle: &BundleView) -> Vec<String> {
    vec![
        super::screen::short(zentinel_core::id::TypedId::uuid(bundle.id)),
        clean(&bundle.version),
        state(bundle.status.as_str()),
        bundle.risk_level.as_str().to_owned(),
        bundle.size_bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
        instant(bundle.inserted_at),
    ]
}

/// A bundle and every finding about it.
pub(super) fn shown(bundle: &BundleView) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let reasons = bundle.risk_reasons.join(", ");
    let risk = bundle.risk_level.as_str();
    let activation = match bundle.activation {
        Activation::Reload => "reload",
        Activation::Restart => "restart",
    };
    let mut text = pairs(&[
        ("version", clean(&bundle.version)),
        ("id", bundle.id.to_string()),
        ("status", state(bundle.status.as_str())),
        ("risk", if reasons.is_empty() { risk.to_owned() } else { format!("{risk} ({})", clean(&reasons)) }),
        ("activation", activation.to_owned()),
        ("sha-256", or_dash(bundle.checksum.map(|digest| digest.to_string()))),
        ("size", or_dash(bundle.size_bytes.map(|bytes| format!("{bytes} bytes")))),
        ("signed by", or_dash(bundle.signing_key_id.clone().filter(|_| bundle.signed))),
        ("created", instant(bundle.inserted_at)),
    ]);
    for finding in &bundle.diagnostics {
        text.push('\n');
        text.push_str(&diagnostic(finding));
    }
    text
}

/// A finding as compilers write it.
pub(super) fn diagnostic(finding: &Diagnostic) -> String {
    let place = match (finding.line, finding.column) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", finding.file),
        (Some(line), None) => format!("{}:{line}", finding.file),
        _ => finding.file.clone(),
    };
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    };
    let line = clean(&format!("{place}: {severity}: {} [{}]", finding.message, finding.code));
    match &finding.help {
        Some(help) => format!("{line}\n  help: {}", clean(help)),
        None => line,
    }
}
