//! Candidates against an API server with one Lease, which checks resourceVersions and fails on request.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use kube::client::Body;
use serde_json::{Value, json};

use super::*;

/// One Lease behind HTTP.
#[derive(Clone, Default)]
struct Server {
    lease: Arc<Mutex<Option<Value>>>,
    /// Answer 500 to everything.
    broken: Arc<AtomicBool>,
    /// Take so many milliseconds for each answer, after having acted.
    slow: Arc<AtomicU64>,
}

impl Server {
    fn act(&self, method: &str, body: &[u8]) -> (u16, Value) {
        let failure = |code: u16, reason: &str| {
            (
                code,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason}),
            )
        };
        if self.broken.load(Ordering::SeqCst) {
            return failure(500, "InternalError");
        }
        let mut lease = self.lease.lock().unwrap();
        let sent: Option<Value> = serde_json::from_slice(body).ok();
        match (method, lease.clone(), sent) {
            ("GET", Some(lease), _) => (200, lease),
            ("GET", None, _) => failure(404, "NotFound"),
            ("POST", Some(_), _) => failure(409, "AlreadyExists"),
            ("POST", None, Some(mut sent)) => {
                sent["metadata"]["resourceVersion"] = json!("1");
                *lease = Some(sent.clone());
                (201, sent)
            }
            ("PUT", Some(current), Some(mut sent)) => {
                let version = |lease: &Value| lease["metadata"]["resourceVersion"].as_str().map(str::to_owned);
                if version(&sent) != version(&current) {
                    return failure(409, "Conflict");
                }
                let next = version(&current).unwrap().parse::<u64>().unwrap() + 1;
                sent["metadata"]["resourceVersion"] = json!(next.to_string());
                *lease = Some(sent.clone());
                (200, sent)
            }
            _ => failure(400, "BadRequest"),
        }
    }

    /// The same Lease over a network of its own.
    fn over_another_network(&self) -> Self {
        Self {
            lease: Arc::clone(&self.lease),
            ..Self::default()
        }
    }

    fn client(&self) -> Client {
        Client::new(self.clone(), "default")
    }

    fn holder(&self) -> Option<String> {
        let lease = self.lease.lock().unwrap();
        lease.as_ref()?["spec"]["holderIdentity"].as_str().map(str::to_owned)
    }
}

impl tower_service::Service<http::Request<Body>> for Server {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let server = self.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await.unwrap();
            let (code, answer) = server.act(head.method.as_str(), &body);
            time::sleep(Duration::from_millis(server.slow.load(Ordering::SeqCst))).await;
            Ok(http::Response::builder()
                .status(code)
                .body(Body::from(answer.to_string().into_bytes()))
                .unwrap())
        })
    }
}

fn candidate(identity: &str, duration: Duration) -> Candidate {
    Candidate {
        namespace: "default".to_owned(),
        lease: "proxypair".to_owned(),
        identity: identity.to_owned(),
        duration,
    }
}

const DURATION: Duration = Duration::from_secs(1);

struct Running {
    standing: watch::Receiver<Standing>,
    task: tokio::task::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

fn run(server: &Server, identity: &str) -> Running {
    let (standing_in, standing) = watch::channel(Standing::Unknown);
    let (stop, mut stopped) = watch::channel(false);
    let stopping = async move {
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let task = tokio::spawn(lead(
        server.client(),
        candidate(identity, DURATION),
        standing_in,
        stopping,
    ));
    Running { standing, task, stop }
}

async fn leads(running: &mut Running) -> Claim {
    let leads = running
        .standing
        .wait_for(|standing| matches!(standing, Standing::Leading(_)));
    let standing = time::timeout(Duration::from_secs(10), leads)
        .await
        .expect("it leads within ten seconds")
        .unwrap();
    match *standing {
        Standing::Leading(claim) => claim,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn takes_a_lease_that_nobody_holds_and_renews_it() {
    let server = Server::default();
    let mut a = run(&server, "a");
    let first = leads(&mut a).await;
    a.standing.changed().await.unwrap();
    let second = leads(&mut a).await;
    assert_eq!((first.term, second.term), (1, 1));
    assert!(second.expires > first.expires);
}

#[tokio::test(start_paused = true)]
async fn leadership_ends_by_itself_when_the_api_server_only_answers_500() {
    let server = Server::default();
    let mut a = run(&server, "a");
    leads(&mut a).await;
    server.broken.store(true, Ordering::SeqCst);
    let claim = leads(&mut a).await;
    time::timeout(DURATION * 3, a.task).await.expect("it gives up").unwrap();
    assert_eq!(*a.standing.borrow(), Standing::Lost);
    assert!(!claim.holds(monotonic()));
}

#[tokio::test(start_paused = true)]
async fn a_claim_is_counted_from_before_the_renewal_was_sent() {
    let server = Server::default();
    server.slow.store(400, Ordering::SeqCst);
    let mut a = run(&server, "a");
    let claim = leads(&mut a).await;
    assert!(claim.expires <= monotonic() + DURATION - Duration::from_millis(350));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_given_back_is_taken_at_once_by_the_next() {
    let server = Server::default();
    let mut a = run(&server, "a");
    leads(&mut a).await;
    let mut b = run(&server, "b");
    let standby = b
        .standing
        .wait_for(|standing| matches!(standing, Standing::Standby { .. }));
    time::timeout(DURATION * 5, standby)
        .await
        .expect("it stands by")
        .unwrap();
    a.stop.send_replace(true);
    a.task.await.unwrap();
    let started = monotonic();
    let claim = leads(&mut b).await;
    assert_eq!(claim.term, 2);
    assert_eq!(server.holder().as_deref(), Some("b"));
    let took = monotonic() - started;
    assert!(took < RETRY * 3, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn two_candidates_never_hold_a_claim_at_the_same_moment() {
    let server = Server::default();
    let networks = [server.over_another_network(), server.over_another_network()];
    let mut led = [0, 0];
    let mut candidates = [run(&networks[0], "a"), run(&networks[1], "b")];
    let until = monotonic() + Duration::from_secs(12);
    let mut step = 0_u64;
    while monotonic() < until {
        let now = monotonic();
        let claims = candidates
            .each_ref()
            .map(|candidate| candidate.standing.borrow().claim(now));
        assert!(!(claims[0].is_some() && claims[1].is_some()), "{claims:?} at {now:?}");
        for (at, claim) in claims.iter().enumerate() {
            led[at] = led[at].max(claim.map_or(0, |claim| claim.term));
        }
        for (at, name) in ["a", "b"].into_iter().enumerate() {
            if candidates[at].task.is_finished() {
                candidates[at] = run(&networks[at], name);
            }
        }
        step += 1;
        // Outages and slow answers in turns that fit neither each other nor the lease's duration.
        networks[0].broken.store(step % 700 > 400, Ordering::SeqCst);
        networks[1].broken.store(step % 900 > 600, Ordering::SeqCst);
        for network in &networks {
            network
                .slow
                .store(if step % 310 < 60 { 250 } else { 0 }, Ordering::SeqCst);
        }
        time::sleep(Duration::from_millis(5)).await;
    }
    assert!(
        led[0] > 0 && led[1] > 0 && led[0].max(led[1]) >= 3,
        "leadership has to have changed hands: {led:?}"
    );
}
