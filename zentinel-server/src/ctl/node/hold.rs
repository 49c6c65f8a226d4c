//! Pins, version bounds, cordon and drain.

use crate::ctl::find::{self, called};
use crate::ctl::session::Session;
use zentinel_core::Result;

pub(super) async fn pin(session: &Session, node: &str, bundle: Option<&str>) -> Result<()> {
    let node = find::node(session, node).await?;
    let bundle = match bundle {
        Some(text) => Some(find::bundle(session, text).await?),
        None => None,
    };
    let id = bundle.as_ref().map(|bundle| bundle.id);
    let node = session.client.pin_node(&session.project, node.id, id).await?;
    session.screen.answer(&node, || match &bundle {
        Some(bundle) => format!("{} is pinned to {}", called(&node), bundle.version),
        None => format!("{} is not pinned any more", called(&node)),
    })
}

pub(super) async fn bounds(
    session: &Session,
    node: &str,
    min: Option<&str>,
    max: Option<&str>,
) -> Result<()> {
    let node = find::node(session, node).await?;
    let node = session.client.bound_node(&session.project, node.id, min, max).await?;
    session.screen.answer(&node, || {
        let end = |end: Option<&str>| end.unwrap_or("any").to_owned();
        format!("{} may be given versions {} to {}", called(&node), end(min), end(max))
    })
}

pub(super) async fn hold(session: &Session, node: &str, command: &str, done: &str) -> Result<()> {
    let node = find::node(session, node).await?;
    let node = session.client.hold_node(&session.project, node.id, command).await?;
    session.screen.answer(&node, || format!("{} is {done}", called(&node)))?;
    if command == "drain" {
        session
            .screen
            .note("Its traffic goes away where whatever stands in front follows the node's weight.");
    }
    Ok(())
}
