//! The bundles of a project.

mod change;
mod diff;
mod read;

use crate::services::Api;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub(super) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(read::list, change::create))
        .routes(routes!(change::validate))
        .routes(routes!(read::show, change::delete))
        .routes(routes!(read::download))
        .routes(routes!(read::verify))
        .routes(routes!(read::sbom))
        .routes(routes!(read::source))
        .routes(routes!(diff::diff))
        .routes(routes!(change::assign))
        .routes(routes!(change::revoke))
}
