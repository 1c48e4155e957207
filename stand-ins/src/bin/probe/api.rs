//! The HTTP API of the fleet.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::response::Json;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::fleet::Fleet;

type Shared = State<Arc<Fleet>>;

/// Serves the API until the fleet has finished and open requests are answered.
pub async fn serve(listener: Option<TcpListener>, fleet: Arc<Fleet>) -> anyhow::Result<()> {
    let Some(listener) = listener else {
        return Ok(());
    };
    tracing::info!(address = %listener.local_addr()?, "listening");
    let router = Router::new()
        .route("/report", get(report))
        .route("/mark", post(mark))
        .route("/pause", post(pause))
        .route("/resume", post(resume))
        .route("/stop", post(stop))
        .with_state(Arc::clone(&fleet));
    let end = async move { fleet.finished().await };
    Ok(axum::serve(listener, router).with_graceful_shutdown(end).await?)
}

async fn report(State(fleet): Shared) -> Json<Value> {
    Json(fleet.report())
}

#[derive(Deserialize)]
struct Mark {
    name: String,
}

async fn mark(State(fleet): Shared, Query(Mark { name }): Query<Mark>) -> Json<Value> {
    fleet.mark(name);
    Json(fleet.report())
}

async fn pause(State(fleet): Shared) -> Json<Value> {
    fleet.pause();
    Json(fleet.report())
}

async fn resume(State(fleet): Shared) -> Json<Value> {
    fleet.resume();
    Json(fleet.report())
}

async fn stop(State(fleet): Shared) -> Json<Value> {
    fleet.end();
    fleet.finished().await;
    Json(fleet.report())
}
