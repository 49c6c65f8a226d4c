//! What people call things: a name, an id, or the beginning of an id.

use super::screen::{clean, short};
use super::session::Session;
use uuid::Uuid;
use zentinel_core::id::TypedId as _;
use zentinel_core::{Error, Result};
use zentinel_http::client::{BundleView, List, NodeFilter, NodeView, RegistrationTokenView, RolloutView};

/// The shortest beginning of an id that is looked up.
const SHORTEST: usize = 4;

/// Follows the pages of a list to its end, or to `limit` items; with how many there are in all.
///
/// # Errors
/// Those of the calls.
pub(super) async fn every<T>(
    limit: Option<usize>,
    page: impl AsyncFn(Option<&str>) -> Result<List<T>>,
) -> Result<(Vec<T>, u64)> {
    let (mut items, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let next = page(cursor.as_deref()).await?;
        items.extend(next.items);
        let enough = limit.is_some_and(|limit| items.len() >= limit);
        if let Some(limit) = limit {
            items.truncate(limit);
        }
        match next.next_cursor {
            Some(further) if !enough => cursor = Some(further),
            _ => return Ok((items, next.total)),
        }
    }
}

/// A node by name, id or beginning of its id.
///
/// # Errors
/// `NotFound`, and `Invalid` for a beginning of several.
pub(super) async fn node(session: &Session, text: &str) -> Result<NodeView> {
    let (client, project) = (&session.client, session.project.as_str());
    if let Ok(id) = text.parse() {
        return client.node(project, id).await;
    }
    let named = NodeFilter { name: Some(text.to_owned()), ..NodeFilter::default() };
    if let Some(found) = client.nodes_where(project, &named, None).await?.items.pop() {
        return Ok(found);
    }
    if !is_prefix(text) {
        return Err(missing("node", text));
    }
    let (all, _) = every(None, async |cursor| client.nodes(project, cursor).await).await?;
    choose("node", text, all, |node| (node.id.uuid(), &node.name))
}

/// A bundle by version, id or beginning of its id.
///
/// # Errors
/// As [`node`].
pub(super) async fn bundle(session: &Session, text: &str) -> Result<BundleView> {
    let (client, project) = (&session.client, session.project.as_str());
    if let Ok(id) = text.parse() {
        return client.bundle(project, id).await;
    }
    let (all, _) = every(None, async |cursor| client.bundles(project, cursor).await).await?;
    choose("bundle", text, all, |bundle| (bundle.id.uuid(), &bundle.version))
}

/// A rollout by id or its beginning; `latest` is the newest.
///
/// # Errors
/// As [`node`].
pub(super) async fn rollout(session: &Session, text: &str) -> Result<RolloutView> {
    let (client, project) = (&session.client, session.project.as_str());
    if let Ok(id) = text.parse() {
        return Ok(client.rollout(project, id).await?.rollout);
    }
    if text == "latest" {
        let newest = client.rollouts(project, None).await?.items.into_iter().next();
        return newest.ok_or_else(|| Error::not_found("there is no rollout yet"));
    }
    let (all, _) = every(None, async |cursor| client.rollouts(project, cursor).await).await?;
    choose("rollout", text, all, |rollout| (rollout.id.uuid(), ""))
}

/// A registration token by name, id or beginning of its id.
///
/// # Errors
/// As [`node`].
pub(super) async fn token(session: &Session, text: &str) -> Result<RegistrationTokenView> {
    let (client, project) = (&session.client, session.project.as_str());
    let (all, _) = every(None, async |cursor| client.registration_tokens(project, cursor).await).await?;
    choose("token", text, all, |token| (token.id.uuid(), &token.name))
}

fn is_prefix(text: &str) -> bool {
    text.len() >= SHORTEST && text.chars().all(|c| c.is_ascii_hexdigit() || c == '-')
}

fn missing(kind: &str, text: &str) -> Error {
    let noun = if kind == "token" { "node token" } else { kind };
    Error::not_found(format!("there is no {kind} `{}`", clean(text))).with_hint(format!(
        "`zentinelctl {noun} list` shows what there is; of an id, {SHORTEST} characters are enough when they are unique"
    ))
}

/// The one item of that name, else the one whose id begins so.
fn choose<T>(kind: &str, text: &str, items: Vec<T>, what: impl Fn(&T) -> (Uuid, &str)) -> Result<T> {
    let id = |item: &T| what(item).0.to_string();
    let (mut named, others): (Vec<T>, Vec<T>) =
        items.into_iter().partition(|item| what(item).1 == text || id(item) == text);
    if named.len() > 1 {
        return Err(ambiguous(kind, text, &named, what));
    }
    if let Some(found) = named.pop() {
        return Ok(found);
    }
    let wanted = text.to_ascii_lowercase();
    let mut found: Vec<T> =
        others.into_iter().filter(|item| is_prefix(text) && id(item).starts_with(&wanted)).collect();
    if found.len() > 1 {
        return Err(ambiguous(kind, text, &found, what));
    }
    found.pop().ok_or_else(|| missing(kind, text))
}

fn ambiguous<T>(kind: &str, text: &str, found: &[T], what: impl Fn(&T) -> (Uuid, &str)) -> Error {
    let some: Vec<String> = found
        .iter()
        .take(5)
        .map(|item| {
            let (id, name) = what(item);
            if name.is_empty() { id.to_string() } else { format!("{id} ({})", clean(name)) }
        })
        .collect();
    Error::invalid(format!("`{}` may be {} {kind}s", clean(text), found.len())).with_hint(format!(
        "give more of the id: {}{}",
        some.join(", "),
        if found.len() > 5 { ", …" } else { "" }
    ))
}

/// `short (name)`, for sentences.
pub(super) fn called(node: &NodeView) -> String {
    format!("{} ({})", clean(&node.name), short(node.id.uuid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zentinel_core::Kind;

    fn pick(text: &str) -> Result<(Uuid, String)> {
        let item = |id: u128, name: &str| (Uuid::from_u128(id << 96), name.to_owned());
        let items = vec![item(0xaaaa_0001, "1.0"), item(0xaaaa_0002, "bbbb0001"), item(0xbbbb_0001, "2.0")];
        choose("bundle", text, items, |(id, name)| (*id, name))
    }

    #[test]
    fn names_win_over_ids_and_beginnings_must_be_unique() {
        assert_eq!(pick("1.0").unwrap().0, Uuid::from_u128(0xaaaa_0001 << 96));
        assert_eq!(pick("bbbb0001").unwrap().1, "bbbb0001", "a name that looks like an id");
        assert_eq!(pick("BBBB").unwrap().1, "2.0");
        let error = pick("aaaa").unwrap_err();
        assert!(error.kind() == Kind::Invalid && error.hint().unwrap().contains("aaaa0002-"), "{error:?}");
        for absent in ["cccc", "aaa", "3.0"] {
            assert_eq!(pick(absent).unwrap_err().kind(), Kind::NotFound, "{absent}");
        }
    }
}
