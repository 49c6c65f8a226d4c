//! `zentinelctl promotion-rule`, and promoting bundles.

use super::environment;
use super::find::{self, every};
use super::screen::{clean, instant, short, table};
use super::session::Session;
use serde_json::json;
use std::collections::BTreeMap;
use zentinel_core::entity::{PromotionConditions, RiskLevel};
use zentinel_core::id::{EnvironmentId, TypedId as _};
use zentinel_core::{Error, Result};
use zentinel_http::client::{NewPromotionRule, PromotionRuleView};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List promotion rules, newest first, with what each last did.
    List,
    /// Create a rule that carries bundles from one environment to another.
    Create {
        /// Where a bundle must have been rolled out.
        source: String,
        /// Where it goes next.
        target: String,
        /// Create the rollout there without anybody's doing.
        #[arg(long)]
        auto: bool,
        /// How long after the completion, in minutes.
        #[arg(long, value_name = "MINUTES", default_value_t = 0)]
        delay: u32,
        /// For how many minutes the nodes of the source must be healthy without a break.
        #[arg(long, value_name = "MINUTES")]
        min_healthy: Option<u32>,
        /// Highest error rate of any node of the source, in percent.
        #[arg(long, value_name = "PERCENT")]
        max_error_rate: Option<f64>,
        /// Highest risk level of the bundle: low, medium or high.
        #[arg(long, value_name = "LEVEL", value_parser = risk)]
        max_risk: Option<RiskLevel>,
    },
    /// Put a rule in force.
    Enable(Which),
    /// Put a rule out of force.
    Disable(Which),
    /// Delete a rule.
    Delete {
        #[command(flatten)]
        which: Which,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// A rule, by its two environments.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The environment it leads from.
    source: String,
    /// The environment it leads to.
    target: String,
}

fn risk(text: &str) -> Result<RiskLevel, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected low, medium or high".to_owned())
}

pub(super) async fn run(session: &Session, command: Command) -> Result<()> {
    let (client, project) = (&session.client, session.project.as_str());
    match command {
        Command::List => list(session).await,
        Command::Create { source, target, auto, delay, min_healthy, max_error_rate, max_risk } => {
            let rule = NewPromotionRule {
                source_env_id: environment::named(session, &source).await?.id,
                target_env_id: environment::named(session, &target).await?.id,
                auto_promote: auto,
                delay_minutes: delay,
                conditions: PromotionConditions {
                    min_healthy_minutes: min_healthy,
                    max_error_rate,
                    max_risk_level: max_risk,
                },
            };
            let made = client.create_promotion_rule(project, &rule).await?;
            let how = if auto { "by itself" } else { "by hand" };
            session.screen.answer(&made, || format!("{} → {}: {how}", clean(&source), clean(&target)))
        }
        Command::Enable(which) => enable(session, &which, true).await,
        Command::Disable(which) => enable(session, &which, false).await,
        Command::Delete { which, yes } => {
            let rule = named(session, &which).await?;
            let called = format!("{} → {}", clean(&which.source), clean(&which.target));
            session.screen.confirm(&format!("Delete the rule {called}?"), yes)?;
            client.delete_promotion_rule(project, rule.id).await?;
            session.screen.answer(&json!({"deleted": rule.id}), || format!("the rule {called} is gone"))
        }
    }
}

async fn enable(session: &Session, which: &Which, enabled: bool) -> Result<()> {
    let rule = named(session, which).await?;
    let rule = session.client.enable_promotion_rule(&session.project, rule.id, enabled).await?;
    let says = if enabled { "in force" } else { "out of force" };
    session.screen.answer(&rule, || format!("{} → {} is {says}", clean(&which.source), clean(&which.target)))
}

async fn rules(session: &Session) -> Result<(Vec<PromotionRuleView>, u64)> {
    every(None, async |cursor| session.client.promotion_rules(&session.project, cursor).await).await
}

async fn named(session: &Session, which: &Which) -> Result<PromotionRuleView> {
    let source = environment::named(session, &which.source).await?.id;
    let target = environment::named(session, &which.target).await?.id;
    let found = rules(session)
        .await?
        .0
        .into_iter()
        .find(|rule| (rule.source_env_id, rule.target_env_id) == (source, target));
    found.ok_or_else(|| {
        let text = format!("no rule leads from {} to {}", clean(&which.source), clean(&which.target));
        Error::not_found(text).with_hint("`zentinelctl promotion-rule list` shows what there is")
    })
}

async fn list(session: &Session) -> Result<()> {
    let (all, total) = rules(session).await?;
    if session.screen.is_json() {
        return session.screen.object(&json!({"promotion_rules": all, "total": total}));
    }
    let slugs = slugs(session).await?;
    let of = |id: EnvironmentId| slugs.get(&id).cloned().unwrap_or_else(|| short(id.uuid()));
    let rows: Vec<_> = all
        .iter()
        .map(|rule| {
            let how = match (rule.enabled, rule.auto_promote) {
                (false, _) => "off",
                (true, true) => "by itself",
                (true, false) => "by hand",
            };
            let last = rule.last_attempt.as_ref().map(|last| match (&last.error, last.rollout_id) {
                (Some(error), _) => format!("{}: {}", instant(last.at), clean(error)),
                (None, Some(rollout)) => format!("{}: rollout {}", instant(last.at), short(rollout.uuid())),
                (None, None) => instant(last.at),
            });
            vec![
                of(rule.source_env_id),
                of(rule.target_env_id),
                how.to_owned(),
                conditions(rule),
                last.unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    for line in table(&["FROM", "TO", "HOW", "WHEN", "LAST"], &rows) {
        session.screen.line(&line);
    }
    Ok(())
}

fn conditions(rule: &PromotionRuleView) -> String {
    let asked = &rule.conditions;
    let delay = (rule.delay_minutes > 0).then(|| format!("after {} min", rule.delay_minutes));
    let healthy = asked.min_healthy_minutes.map(|minutes| format!("healthy {minutes} min"));
    let errors = asked.max_error_rate.map(|rate| format!("errors ≤ {rate} %"));
    let risk = asked.max_risk_level.map(|risk| format!("risk ≤ {}", risk.as_str()));
    let all: Vec<String> = [delay, healthy, errors, risk].into_iter().flatten().collect();
    if all.is_empty() { "at once".to_owned() } else { all.join(", ") }
}

async fn slugs(session: &Session) -> Result<BTreeMap<EnvironmentId, String>> {
    Ok(environment::all(session).await?.into_iter().map(|one| (one.id, one.slug)).collect())
}

/// `zentinelctl bundle promote`.
///
/// # Errors
/// Those of the calls.
pub(super) async fn promote(session: &Session, bundle: &str, to: Option<&str>) -> Result<()> {
    let bundle = find::bundle(session, bundle).await?;
    let target = match to {
        Some(text) => Some(environment::named(session, text).await?.id),
        None => None,
    };
    let made = session.client.promote_bundle(&session.project, bundle.id, target).await?;
    let slugs = slugs(session).await?;
    session.screen.answer(&made, || {
        let slug =
            slugs.get(&made.environment_id).cloned().unwrap_or_else(|| made.environment_id.to_string());
        format!("bundle {} may be rolled out to {slug}", clean(&bundle.version))
    })
}

/// `zentinelctl bundle promotions`.
///
/// # Errors
/// Those of the calls.
pub(super) async fn history(session: &Session, bundle: &str) -> Result<()> {
    let bundle = find::bundle(session, bundle).await?;
    let (client, project) = (&session.client, session.project.as_str());
    let (all, total) =
        every(None, async |cursor| client.promotions(project, bundle.id, cursor).await).await?;
    if session.screen.is_json() {
        return session.screen.object(&json!({"promotions": all, "total": total}));
    }
    let slugs = slugs(session).await?;
    let rows: Vec<_> = all
        .iter()
        .map(|one| {
            let slug = slugs.get(&one.environment_id).cloned();
            let by = if one.promotion_rule_id.is_some() { "a rule" } else { "an operator" };
            vec![
                slug.unwrap_or_else(|| short(one.environment_id.uuid())),
                instant(one.promoted_at),
                by.to_owned(),
            ]
        })
        .collect();
    for line in table(&["ENVIRONMENT", "PROMOTED", "BY"], &rows) {
        session.screen.line(&line);
    }
    Ok(())
}
