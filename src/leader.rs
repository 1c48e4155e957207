//! Leadership as a value: one `Lease`, and a [`Claim`] with the time until which this process may write.
//!
//! Expected flow:
//! 1. A standby reads the Lease every [`RETRY`]. It acquires the Lease if it is free, or if it has not been renewed for its duration, counted
//!    on the standby's own clock from when it first saw the last renewal.
//! 2. The leader renews three times per duration. A claim expires `duration` after the moment *before* the renewal was sent.
//! 3. If a claim cannot be renewed in time, [`lead`] returns and the process exits, so that it no longer writes when a successor starts.
//!
//! Guarantee: with clocks that run at the same rate, two claims never overlap. A write of the Lease carries the resourceVersion that the
//! decision was based on, and a leader counts from before its renewal while a standby counts from after it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::watch, time};

/// How often a standby reads the Lease.
const RETRY: Duration = Duration::from_millis(500);

/// The current time, on the clock that tests can pause.
fn monotonic() -> Instant {
    time::Instant::now().into_std()
}

/// The right to write, for a limited time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Grows with each change of leader.
    pub term: u64,
    /// When the right expires, unless it is renewed.
    pub expires: Instant,
}

impl Claim {
    /// Whether the right still holds at `now`.
    pub fn holds(&self, now: Instant) -> bool {
        now < self.expires
    }
}

/// Whether this process leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The API server has not answered yet.
    Unknown,
    /// Another replica leads.
    Standby {
        /// When the Lease was last read.
        seen: Instant,
    },
    /// This process leads, as long as the claim holds.
    Leading(Claim),
    /// This process has lost leadership.
    Lost,
}

impl Standing {
    /// The claim, if it holds at `now`.
    pub fn claim(&self, now: Instant) -> Option<Claim> {
        match self {
            Self::Leading(claim) if claim.holds(now) => Some(*claim),
            _ => None,
        }
    }
}

/// What a process needs to apply for leadership.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// Identity of this process, such as the name of its pod.
    pub identity: String,
    /// How long a claim lasts without a renewal, in whole seconds.
    pub duration: Duration,
}

/// The Lease could not be read or written.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("the API server did not answer in time")]
    Deadline,
    #[error(transparent)]
    Api(#[from] kube::Error),
}

/// Waits for leadership, then renews it and publishes each renewal on `standing`. Returns when leadership is lost, or when it was released
/// because `stop` resolved.
pub async fn lead(
    client: Client,
    candidate: Candidate,
    standing: watch::Sender<Standing>,
    stop: impl Future<Output = ()>,
) {
    let api: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    tokio::pin!(stop);
    let mut held = tokio::select! {
        held = acquire(&api, &candidate, &standing) => held,
        () = &mut stop => return,
    };
    tracing::info!(lease = candidate.lease, term = held.1.term, "leading");
    loop {
        standing.send_replace(Standing::Leading(held.1));
        let next = tokio::select! {
            next = keep(&api, &candidate, held.clone()) => next,
            () = &mut stop => break,
        };
        match next {
            Some(next) => held = next,
            None => {
                tracing::warn!(
                    lease = candidate.lease,
                    "leadership lost: the lease could not be renewed in time"
                );
                standing.send_replace(Standing::Lost);
                return;
            }
        }
    }
    standing.send_replace(Standing::Lost);
    let (mut lease, _) = held;
    lease.spec.get_or_insert_default().holder_identity = None;
    if let Err(error) = write(&api, &candidate, &lease, candidate.duration).await {
        tracing::warn!(%error, "failed to release the lease");
    }
}

async fn acquire(api: &Api<Lease>, candidate: &Candidate, standing: &watch::Sender<Standing>) -> (Lease, Claim) {
    let mut seen: Seen = None;
    loop {
        match attempt(api, candidate, &mut seen).await {
            Ok(Some(held)) => return held,
            Ok(None) => {
                standing.send_replace(Standing::Standby { seen: monotonic() });
            }
            Err(error) => tracing::debug!(%error, "failed to read the lease"),
        }
        time::sleep(RETRY).await;
    }
}

type Seen = Option<(Option<MicroTime>, Option<String>, Instant)>;

async fn attempt(
    api: &Api<Lease>,
    candidate: &Candidate,
    seen: &mut Seen,
) -> Result<Option<(Lease, Claim)>, LeaseError> {
    let found = time::timeout(candidate.duration, api.get_opt(&candidate.lease))
        .await
        .map_err(|_| LeaseError::Deadline)??;
    let Some(lease) = found else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(candidate.lease.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(claimed(candidate, 1)),
        };
        let sent = monotonic();
        let created = time::timeout(candidate.duration, api.create(&PostParams::default(), &lease)).await;
        let lease = created.map_err(|_| LeaseError::Deadline)??;
        return Ok(Some((
            lease,
            Claim {
                term: 1,
                expires: sent + candidate.duration,
            },
        )));
    };
    let spec = lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.clone().filter(|holder| !holder.is_empty());
    let now = monotonic();
    let unchanged_since = match seen {
        Some((renewed, by, at)) if *renewed == spec.renew_time && *by == holder => *at,
        _ => {
            *seen = Some((spec.renew_time.clone(), holder.clone(), now));
            now
        }
    };
    let duration =
        Duration::from_secs(u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).unwrap_or_default());
    if holder.is_some() && now < unchanged_since + duration {
        return Ok(None);
    }
    let transitions = spec.lease_transitions.unwrap_or_default().saturating_add(1);
    let lease = Lease {
        spec: Some(claimed(candidate, transitions)),
        ..lease
    };
    write(api, candidate, &lease, candidate.duration).await.map(Some)
}

/// Renews the claim, with retries; `None` if it expired or another replica has acquired it.
async fn keep(api: &Api<Lease>, candidate: &Candidate, held: (Lease, Claim)) -> Option<(Lease, Claim)> {
    let (mut lease, claim) = held;
    time::sleep(candidate.duration / 3).await;
    loop {
        let now = monotonic();
        let left = claim
            .expires
            .checked_duration_since(now)
            .filter(|left| !left.is_zero())?;
        let spec = lease.spec.get_or_insert_default();
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        // A third of the duration for each attempt, so that another one on a new connection is possible if this connection is dead.
        match write(api, candidate, &lease, left.min(candidate.duration / 3)).await {
            Ok(held) => return Some(held),
            Err(error) => {
                tracing::warn!(%error, "failed to renew the lease");
                let left = claim.expires.saturating_duration_since(monotonic());
                let current = time::timeout(left, api.get(&candidate.lease)).await.ok()?;
                match current {
                    Ok(current) => {
                        let ours = current.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref())
                            == Some(&candidate.identity);
                        if !ours {
                            return None;
                        }
                        lease = current;
                    }
                    Err(_) => time::sleep((candidate.duration / 20).min(left)).await,
                }
            }
        }
    }
}

fn claimed(candidate: &Candidate, transitions: i32) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    LeaseSpec {
        holder_identity: Some(candidate.identity.clone()),
        acquire_time: Some(now.clone()),
        renew_time: Some(now),
        lease_duration_seconds: i32::try_from(candidate.duration.as_secs()).ok(),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

async fn write(
    api: &Api<Lease>,
    candidate: &Candidate,
    lease: &Lease,
    deadline: Duration,
) -> Result<(Lease, Claim), LeaseError> {
    let sent = monotonic();
    let written = time::timeout(deadline, api.replace(&candidate.lease, &PostParams::default(), lease)).await;
    let written = written.map_err(|_| LeaseError::Deadline)??;
    let transitions = written
        .spec
        .as_ref()
        .and_then(|spec| spec.lease_transitions)
        .unwrap_or_default();
    let claim = Claim {
        term: u64::try_from(transitions).unwrap_or_default(),
        expires: sent + candidate.duration,
    };
    Ok((written, claim))
}

#[cfg(test)]
mod tests;
