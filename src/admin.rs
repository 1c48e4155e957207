//! The port for machines that look after the process: `/livez`, `/readyz` and `/metrics` over plain HTTP.

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// What `/metrics` is served as.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Serves until `stop`.
///
/// - `/livez`: 200 as long as the process answers.
/// - `/readyz`: 200 when `readiness` is `Ok`, else 503 with the reason in the body.
/// - `/metrics`: `registry` as OpenMetrics text.
///
/// # Errors
///
/// Those of the socket.
pub async fn serve(
    listener: TcpListener,
    registry: Arc<Registry>,
    readiness: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
    stop: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    axum::serve(listener, router(registry, readiness))
        .with_graceful_shutdown(stop)
        .await
}

fn router(
    registry: Arc<Registry>,
    readiness: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(async move || ready(readiness())))
        .route("/metrics", get(async move || metrics(&registry)))
}

fn ready(readiness: Result<(), String>) -> Response {
    match readiness {
        Ok(()) => "ok\n".into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}
