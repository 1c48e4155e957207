//! The administration port, for kubelet and Prometheus: `/livez`, `/readyz` and `/metrics` over plain HTTP/1.1.
//!
//! Any pod may be able to reach this port, so what clients can cost is limited:
//!
//! - At most [`CONNECTION_LIMIT`] connections are served at a time, further ones wait in the kernel's backlog.
//! - A connection without a complete request header within [`HEADER_TIMEOUT`] is closed, be it new or idle between two requests. No connection
//!   lives longer than [`LIFETIME`] and the time of one request.
//! - At the limit, the oldest connection that has been idle for [`ACTIVE_TIME`] is closed when another one arrives. Otherwise a client that
//!   opens connections faster than they time out could keep kubelet waiting until it restarts the container.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep, timeout},
};
use tracing::{debug, warn};

use crate::net::{TcpListener, TcpStream};

/// Media type of `/metrics`.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections served at the same time.
const CONNECTION_LIMIT: usize = 32;

/// Time for a complete request header, counted from the connection or from the end of the previous response.
const HEADER_TIMEOUT: Duration = Duration::from_secs(2);

/// Time from its accept and from each complete request header during which a connection is not closed to make room for another: enough for
/// the header to arrive and for the answer to be written.
const ACTIVE_TIME: Duration = Duration::from_millis(50);

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
    let mut connections = Connections::default();
    loop {
        match listener.next().await {
            Ok(stream) => {
                connections.make_room().await;
                let activity = Activity::now();
                let task = serve_connection(stream, router.clone(), activity.clone());
                connections.spawn(task, activity);
            }
            Err(error) => {
                warn!(%error, "failed to accept a connection on the administration port");
                sleep(RETRY).await;
            }
        }
    }
}

/// The connections that are served, oldest first.
#[derive(Default)]
struct Connections {
    tasks: JoinSet<()>,
    open: VecDeque<(AbortHandle, Activity)>,
}

impl Connections {
    fn spawn(&mut self, task: impl Future<Output = ()> + Send + 'static, activity: Activity) {
        self.open.push_back((self.tasks.spawn(task), activity));
    }

    /// Waits until one more connection can be served. Closes the oldest idle one if there is no room.
    async fn make_room(&mut self) {
        loop {
            while self.tasks.try_join_next().is_some() {}
            self.open.retain(|(task, _)| !task.is_finished());
            if self.open.len() < CONNECTION_LIMIT {
                return;
            }
            if let Some(idle) = self.open.iter().position(|(_, activity)| activity.is_over()) {
                debug!("connection limit of the administration port reached, closing an idle connection");
                if let Some((task, _)) = self.open.remove(idle) {
                    task.abort();
                }
                return;
            }
            let _ended = timeout(ACTIVE_TIME, self.tasks.join_next()).await;
        }
    }
}

/// When a connection was accepted, or its last complete request header arrived.
#[derive(Clone)]
struct Activity(Arc<Mutex<Instant>>);

impl Activity {
    fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    fn renew(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn is_over(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= ACTIVE_TIME
    }
}

async fn serve_connection<S>(stream: S, router: Router, activity: Activity)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |request| {
        activity.renew();
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
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
