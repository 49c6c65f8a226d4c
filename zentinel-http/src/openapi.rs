//! The router, and the document that is made from it.

use crate::error::ApiError;
use crate::middleware::serve;
use crate::services::{Api, Services};
use crate::{observe, operator};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::from_fn_with_state;
use bytes::Bytes;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use std::sync::Arc;
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{ServerBuilder, server::Server};
use utoipa::{Modify, OpenApi};
use utoipa_axum::router::OpenApiRouter;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Zentinel control plane",
        description = "Operator and node API of the control plane for fleets of Zentinel reverse proxies.\n\n\
            Every list takes `limit` and `cursor` and returns `total` and `next_cursor`. Errors are \
            `{\"error\": \"<text>\"}`, or `{\"error\": {\"<field>\": [\"<message>\"]}}` with status 422.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    components(schemas(crate::wire::Failure)),
    modifiers(&Schemes),
    tags(
        (name = "Projects", description = "Fleets with their configuration"),
        (name = "Bundles", description = "Compiled, signed configuration"),
        (name = "Rollouts", description = "Bringing a bundle to nodes, step by step, behind health gates"),
        (name = "Approvals", description = "Who agrees to a rollout before it starts"),
        (name = "Freeze windows", description = "Time spans in which no rollout starts"),
        (name = "Rollout templates", description = "Settings of rollouts under a name"),
        (name = "Environments", description = "Where bundles go one after another, and how they get on"),
        (name = "Health checks", description = "Endpoints that rollouts ask before a step is done"),
        (name = "Nodes", description = "Reverse proxies, as operators see them"),
        (name = "Node groups", description = "Named sets of nodes"),
        (name = "Registration tokens", description = "What lets nodes register"),
        (name = "API keys", description = "What lets operators in"),
        (name = "Signing keys", description = "Public keys"),
        (name = "Audit", description = "Who did what"),
        (name = "Events", description = "What happened"),
        (name = "Node API", description = "What nodes call"),
        (name = "Operations", description = "The control plane itself"),
    ),
)]
struct ApiDoc;

/// How callers say who they are.
struct Schemes;

impl Modify for Schemes {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let components = document.components.get_or_insert_default();
        let mut key = Http::new(HttpAuthScheme::Bearer);
        key.description = Some("An operator's API key; each operation names the scope it needs".to_owned());
        let mut token = Http::new(HttpAuthScheme::Bearer);
        token.bearer_format = Some("JWT".to_owned());
        token.description = Some("A node's token".to_owned());
        let node = ApiKeyValue::with_description("X-Zentinel-Node-Key", "A node's static key");
        components.add_security_scheme("api_key", SecurityScheme::Http(key));
        components.add_security_scheme("node_token", SecurityScheme::Http(token));
        components.add_security_scheme("node_key", SecurityScheme::ApiKey(ApiKey::Header(node)));
    }
}

/// The whole HTTP interface. Serve it as it is, nest it, or call it without a socket.
///
/// The connection should put `axum::extract::ConnectInfo<SocketAddr>` into the extensions of
/// requests; without it all callers count as one address.
pub fn router(services: Arc<Services>) -> Router {
    let api = Api::new(services);
    let mut document = ApiDoc::openapi();
    document.servers = Some(vec![server(&api)]);
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    let json = OpenApiRouter::new().merge(operator::routes()).merge(crate::node::routes());
    let (router, document) = OpenApiRouter::with_openapi(document)
        .merge(json)
        .merge(observe::routes())
        .merge(crate::blob::routes())
        .split_for_parts();
    let document = named(document);
    let text = match document.to_json() {
        Ok(text) => Bytes::from(text),
        Err(error) => {
            tracing::error!(%error, "the OpenAPI document could not be written");
            Bytes::from_static(b"{}")
        }
    };
    router
        .route(
            "/api/openapi.json",
            axum::routing::get(move || {
                let text = text.clone();
                async move { ([(CONTENT_TYPE, "application/json; charset=utf-8")], text) }
            }),
        )
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        // The guard counts bytes itself.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(api.clone(), serve))
        .with_state(api)
}

/// Gives each operation a name of its own, such as `bundles.create`, for generated clients: the
/// names of handlers repeat.
fn named(mut document: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    for (path, item) in &mut document.paths.paths {
        let resource = resource(path);
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            let handler = operation.operation_id.take().unwrap_or_default();
            let repeated = resource.rsplit('.').next() == Some(handler.as_str());
            operation.operation_id =
                Some(if repeated { resource.clone() } else { format!("{resource}.{handler}") });
        }
    }
    document
}

/// The fixed segments of a path without the prefix that all share.
fn resource(path: &str) -> String {
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let path = path.strip_prefix("/projects/{project_slug}/").unwrap_or(path);
    let fixed = path.split('/').filter(|segment| !segment.is_empty() && !segment.starts_with('{'));
    fixed.collect::<Vec<_>>().join(".").replace('-', "_")
}

fn server(api: &Api) -> Server {
    let url = api.options.public_url.as_str();
    ServerBuilder::new().url(url.strip_suffix('/').unwrap_or(url)).build()
}

async fn no_route() -> ApiError {
    ApiError::framework(StatusCode::NOT_FOUND)
}

async fn wrong_method(_: Request) -> ApiError {
    ApiError::framework(StatusCode::METHOD_NOT_ALLOWED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_named_by_their_paths() {
        assert_eq!(resource("/api/v1/projects/{project_slug}/node-groups/{id}/nodes"), "node_groups.nodes");
        assert_eq!(resource("/api/v1/projects/{project_slug}"), "projects");
        assert_eq!(resource("/health"), "health");
    }
}
