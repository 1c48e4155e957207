//! The HTTP API.
//!
//! | request | effect |
//! |---|---|
//! | `GET /status` | attached to what, resyncing or copying since when, rows copied |
//! | `POST /detach?from=AGG_P` | leaves that ObjectServer, or both without `from`, and stays away |
//! | `POST /attach?to=AGG_P` | goes back |
//! | `POST /resync-at-least?time=20s` | shortest time of the resyncs from now on |

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::status::Shared;
use stand_ins::process::parse_duration;

type Answer = Result<Json<Value>, (StatusCode, Json<Value>)>;

/// Serves the API for ever, if there is a listener.
pub async fn serve(listener: Option<TcpListener>, shared: Shared) -> std::io::Result<()> {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let router = Router::new()
        .route("/status", get(async |State(shared): State<Shared>| status(&shared)))
        .route("/attach", post(attach))
        .route("/detach", post(detach))
        .route("/resync-at-least", post(resync_at_least))
        .with_state(shared);
    axum::serve(listener, router).await
}

fn status(shared: &Shared) -> Answer {
    Ok(Json(json!(shared.status())))
}

#[derive(Deserialize)]
struct Which {
    #[serde(alias = "from", alias = "to")]
    server: Option<String>,
}

async fn attach(State(shared): State<Shared>, Query(which): Query<Which>) -> Answer {
    set_attached(&shared, which, true)
}

async fn detach(State(shared): State<Shared>, Query(which): Query<Which>) -> Answer {
    set_attached(&shared, which, false)
}

fn set_attached(shared: &Shared, Which { server }: Which, wanted: bool) -> Answer {
    if let Some(name) = server
        .as_ref()
        .filter(|name| !shared.status().attached.contains_key(*name))
    {
        return Err(bad_request(&format!("there is no {name}")));
    }
    shared.wish(|wishes| {
        let chosen = |name: &String| server.as_ref().is_none_or(|server| server == name);
        for (_, attach) in wishes.attach.iter_mut().filter(|(name, _)| chosen(name)) {
            *attach = wanted;
        }
    });
    status(shared)
}

#[derive(Deserialize)]
struct Time {
    time: String,
}

async fn resync_at_least(State(shared): State<Shared>, Query(Time { time }): Query<Time>) -> Answer {
    let time = parse_duration(&time).map_err(|reason| bad_request(&reason))?;
    shared.wish(|wishes| wishes.resync_at_least = time);
    status(&shared)
}

fn bad_request(reason: &str) -> (StatusCode, Json<Value>) {
    (StatusCode::BAD_REQUEST, Json(json!({ "error": reason })))
}
