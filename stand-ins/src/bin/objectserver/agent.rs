//! The process agent: it runs the server as a child and disturbs it on request, as `nco_pad` runs an ObjectServer.
//!
//! | request | effect |
//! |---|---|
//! | `POST /kill` | SIGKILL; stays down until `/start` |
//! | `POST /stop` | SIGTERM; stays down until `/start` |
//! | `POST /start` | starts the server, returns when it listens |
//! | `POST /certificate?directory=/secrets/x` | from the next start on the server shows `tls.crt` there, with the key `tls.key` |
//! | `POST /stall?for=10s` | stops answering, sessions stay open; without `for` until `/resume` |
//! | `POST /resume` | answers again |
//! | `POST /refuse-logins`, `POST /accept-logins` | refuses right logins too, or stops doing so |
//! | `POST /reset` | resets all connections |
//! | `POST /lock?for=10s` | makes requests wait as a long lock does, logins not; without `for` until `/unlock` |
//! | `POST /unlock` | lets them go on |
//! | `POST /property?name=ActingPrimary&value=TRUE` | sets a property |
//! | `GET /status`, `GET /sessions` | how things are, with the logins since the server started |
//! | `GET /sql?q=select …` | reads the tables, also while the server is down |

use std::net::SocketAddr;
use std::path::PathBuf;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Json;
use axum::routing::{get, post};
use rusqlite::types::Value as Stored;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use crate::Options;
use crate::control::Command;
use crate::database::{self, Outcome};
use stand_ins::process::{asked_to_stop, parse_duration};

mod keeper;

use keeper::{Keeper, Order, Status};

type Failure = (StatusCode, Json<Value>);
type Answer = Result<Json<Value>, Failure>;

#[derive(Clone)]
struct Agent {
    orders: mpsc::Sender<(Order, oneshot::Sender<Result<Status, String>>)>,
    name: String,
    data: PathBuf,
}

/// Runs the server as a child and serves the API until told to stop.
pub async fn run(options: &Options, address: SocketAddr) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(name = options.name, address = %listener.local_addr()?, "agent listening");
    let (orders, inbox) = mpsc::channel(16);
    let agent = Agent {
        orders,
        name: options.name.clone(),
        data: options.data.clone(),
    };
    let mut keeper = Keeper::new(options);
    keeper.start().await?;
    let api = axum::serve(listener, router(agent));
    tokio::select! {
        result = api.into_future() => result?,
        () = keeper.obey(inbox) => {}
        () = asked_to_stop() => {}
    }
    keeper.stop().await;
    Ok(())
}

fn router(agent: Agent) -> Router {
    let tell = |command: fn() -> Command| {
        post(move |State(agent): State<Agent>| async move { agent.status_after(Order::Tell(command())).await })
    };
    Router::new()
        .route("/kill", post(kill))
        .route(
            "/stop",
            post(async |State(agent): State<Agent>| agent.status_after(Order::Stop).await),
        )
        .route(
            "/start",
            post(async |State(agent): State<Agent>| agent.status_after(Order::Start).await),
        )
        .route("/certificate", post(set_certificate))
        .route("/stall", post(stall))
        .route("/resume", tell(|| Command::Resume))
        .route("/refuse-logins", tell(|| Command::RefuseLogins))
        .route("/accept-logins", tell(|| Command::AcceptLogins))
        .route("/reset", tell(|| Command::Reset))
        .route("/lock", post(lock))
        .route("/unlock", tell(|| Command::Unlock))
        .route("/property", post(set_property))
        .route(
            "/status",
            get(async |State(agent): State<Agent>| agent.status_after(Order::Look).await),
        )
        .route("/sessions", get(sessions))
        .route("/sql", get(sql))
        .with_state(agent)
}

impl Agent {
    async fn order(&self, order: Order) -> Result<Status, Failure> {
        let (reply, answer) = oneshot::channel();
        let stopping = || failure(StatusCode::SERVICE_UNAVAILABLE, "the agent is stopping");
        self.orders.send((order, reply)).await.map_err(|_| stopping())?;
        let result = answer.await.map_err(|_| stopping())?;
        result.map_err(|reason| failure(StatusCode::CONFLICT, &reason))
    }

    async fn status_after(&self, order: Order) -> Answer {
        let status = self.order(order).await?;
        let report = status.report.as_ref();
        Ok(Json(json!({
            "name": self.name,
            "running": status.pid.is_some(),
            "pid": status.pid,
            "since": status.since.to_string(),
            "sessions": report.map_or(0, |report| report.sessions.len()),
            "stalled": report.is_some_and(|report| report.stalled),
            "refusing_logins": report.is_some_and(|report| report.refusing_logins),
            "locked": report.is_some_and(|report| report.locked),
            "logins": report.map(|report| &report.counts.logins),
            "refused_logins": report.map(|report| &report.counts.refused_logins),
            "disconnects": report.map(|report| &report.counts.disconnects),
            "properties": report.map(|report| &report.properties),
        })))
    }
}

#[derive(Deserialize)]
struct KillQuery {
    after: Option<String>,
}

/// At once, or later than the answer, for a time in which nobody can ask.
async fn kill(State(agent): State<Agent>, Query(query): Query<KillQuery>) -> Answer {
    let Some(after) = query.after else {
        return agent.status_after(Order::Kill).await;
    };
    let after = parse_duration(&after).map_err(|reason| failure(StatusCode::BAD_REQUEST, &reason))?;
    let later = agent.clone();
    tokio::spawn(async move {
        tokio::time::sleep(after).await;
        later.order(Order::Kill).await
    });
    agent.status_after(Order::Look).await
}

#[derive(Deserialize)]
struct TimeQuery {
    r#for: Option<String>,
}

impl TimeQuery {
    fn millis(&self) -> Result<Option<u64>, Failure> {
        let time = self.r#for.as_deref().map(parse_duration).transpose();
        let time = time.map_err(|reason| failure(StatusCode::BAD_REQUEST, &reason))?;
        Ok(time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
    }
}

async fn stall(State(agent): State<Agent>, Query(query): Query<TimeQuery>) -> Answer {
    let millis = query.millis()?;
    agent.status_after(Order::Tell(Command::Stall { millis })).await
}

async fn lock(State(agent): State<Agent>, Query(query): Query<TimeQuery>) -> Answer {
    let millis = query.millis()?;
    agent.status_after(Order::Tell(Command::Lock { millis })).await
}

#[derive(Deserialize)]
struct CertificateQuery {
    directory: PathBuf,
}

async fn set_certificate(State(agent): State<Agent>, Query(query): Query<CertificateQuery>) -> Answer {
    agent.status_after(Order::Certificate(query.directory)).await
}

#[derive(Deserialize)]
struct PropertyQuery {
    name: String,
    value: String,
}

async fn set_property(State(agent): State<Agent>, Query(query): Query<PropertyQuery>) -> Answer {
    let PropertyQuery { name, value } = query;
    agent
        .status_after(Order::Tell(Command::SetProperty { name, value }))
        .await
}

async fn sessions(State(agent): State<Agent>) -> Answer {
    let status = agent.order(Order::Look).await?;
    Ok(Json(json!(
        status.report.map(|report| report.sessions).unwrap_or_default()
    )))
}

#[derive(Deserialize)]
struct SqlQuery {
    q: String,
}

async fn sql(State(agent): State<Agent>, Query(query): Query<SqlQuery>) -> Answer {
    let rows = tokio::task::spawn_blocking(move || rows(&agent.data, &query.q)).await;
    let rows = rows.map_err(|error| failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()))?;
    rows.map(Json)
        .map_err(|reason| failure(StatusCode::BAD_REQUEST, &reason))
}

fn rows(data: &std::path::Path, sql: &str) -> Result<Value, String> {
    let connection = database::open_reading(data).map_err(|error| error.to_string())?;
    let table = match database::select(&connection, sql) {
        Outcome::Table(table) => table,
        Outcome::Failed(reason) => return Err(reason),
        Outcome::Written(_) | Outcome::Done => return Err("only reading is possible here".to_owned()),
    };
    let rows = table.rows.into_iter().map(|row| {
        let names = table.columns.iter().map(|(name, _)| name.clone());
        Value::Object(names.zip(row.into_iter().map(json_value)).collect())
    });
    Ok(Value::Array(rows.collect()))
}

fn json_value(stored: Stored) -> Value {
    match stored {
        Stored::Null => Value::Null,
        Stored::Integer(value) => value.into(),
        Stored::Real(value) => value.into(),
        Stored::Text(text) => text.into(),
        Stored::Blob(bytes) => String::from_utf8_lossy(&bytes).into(),
    }
}

fn failure(code: StatusCode, reason: &str) -> Failure {
    (code, Json(json!({ "error": reason })))
}
