//! The administration port, for kubelet and Prometheus: `/livez`, `/readyz` and `/metrics` over plain HTTP/1.1.
//!
//! Any pod may reach this port, so its cost is limited: at most [`CONNECTION_LIMIT`] connections at a time, further ones wait in the kernel's
//! backlog. A connection on which no complete request header arrives within [`HEADER_TIMEOUT`] is closed, be it new or idle between two
//! requests, so waiting connections are served soon. No connection lives longer than [`LIFETIME`] and the time of one request.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

/// Media type of `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections served at the same time.
const CONNECTION_LIMIT: usize = 32;

/// Time for a complete request header, counted from the connection or from the end of the previous response.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// Time after which a connection is closed at the end of the current request. Bounds clients that keep a connection busy.
const LIFETIME: Duration = Duration::from_secs(60);

/// Time limit of a request that is still in progress at the end of [`LIFETIME`].
const LAST_REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Time from a failed accept to the next attempt: file descriptors may have run out.
const RETRY: Duration = Duration::from_millis(250);

/// Serves for ever.
///
/// - `/livez`: 200 as long as the process answers.
/// - `/readyz`: 200 if `readiness` is `Ok`, else 503 with the reason in the body.
/// - `/metrics`: `registry` as OpenMetrics text.
pub async fn serve(
    listener: TcpListener,
    registry: Registry,
    readiness: impl Fn() -> Result<(), String> + Clone + Send + Sync + 'static,
) {
    serve_all(listener, router(Arc::new(registry), readiness)).await;
}

/// Where connections come from: a socket, or in tests a script.
trait Accept {
    /// One connection.
    type Connection: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// Waits for the next connection.
    async fn next(&mut self) -> io::Result<Self::Connection>;
}

impl Accept for TcpListener {
    type Connection = TcpStream;

    async fn next(&mut self) -> io::Result<TcpStream> {
        let (stream, _) = self.accept().await?;
        Ok(stream)
    }
}

async fn serve_all(mut listener: impl Accept, router: Router) {
    let slots = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let mut connections = JoinSet::new();
    loop {
        // Taken before the accept, so that connections beyond the limit stay in the backlog.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        match listener.next().await {
            Ok(stream) => {
                let router = router.clone();
                connections.spawn(async move {
                    serve_connection(stream, router).await;
                    drop(slot);
                });
            }
            Err(error) => {
                warn!(%error, "failed to accept a connection on the administration port");
                sleep(RETRY).await;
            }
        }
    }
}

async fn serve_connection(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = sleep(LIFETIME) => {
            connection.as_mut().graceful_shutdown();
            match timeout(LAST_REQUEST_TIMEOUT, connection).await {
                Ok(ended) => ended,
                Err(_) => return debug!("request on the administration port not finished in time"),
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "connection on the administration port failed");
    }
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

#[cfg(test)]
mod tests;
