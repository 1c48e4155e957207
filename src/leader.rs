//! Leadership as a value: one `Lease`, and a [`Claim`] with the time until which this process may write.
//!
//! Expected flow:
//! 1. A standby reads the Lease twice a second. It acquires the Lease if its holder has returned it, or if it has not been renewed for its
//!    duration, counted on the standby's own clock from when it first saw the last renewal.
//! 2. The leader renews three times per duration. A claim expires nine tenths of `duration` after the moment *before* the renewal was sent.
//! 3. If a claim cannot be renewed in time, [`lead`] returns and the process exits, so that it no longer writes when a successor starts.
//! 4. A Lease that was deleted is created again by its holder, whose claim is still valid. A standby that is faster holds the new Lease for
//!    one duration without leading, and leads with the first renewal after that: by then no claim from before can be valid.
//! 5. On `stop` a renewal that is under way is finished, and the Lease is returned.
//!
//! Guarantees, with clocks of which none runs more than a tenth slower than another:
//! - Two claims never overlap, whatever becomes of the Lease. A write carries the resourceVersion that the decision was based on, and a leader
//!   counts from before its renewal while a standby counts from after it.
//! - Each term is higher than those before it. It is at least the previous one plus one, and at least the seconds since 2020-01-01 UTC on the
//!   clock of the new leader. So terms also grow when the Lease is lost, restored from a backup, or has another name after a new
//!   installation, as long as that clock is not behind the clock of the former leader by more than the time since that one began to lead.
//!
//! | module | owns |
//! |---|---|
//! | `election` | all decisions, without clock and client; public for tests/simulation and tests/handover |

pub mod election;

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use futures::FutureExt;
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, api::PostParams};
use tokio::{sync::watch, time};

use self::election::{Answer, Call, Election, Request, Step};

/// The current time, on the clock that tests can pause.
fn monotonic() -> Instant {
    time::Instant::now().into_std()
}

#[cfg(not(test))]
use crate::clock::wall;
#[cfg(test)]
use tests::wall;

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

/// Waits for leadership, then renews it and publishes each renewal on `standing`. Returns when leadership is lost, or when it was released
/// because `stop` resolved.
pub async fn lead(
    client: Client,
    candidate: Candidate,
    standing: watch::Sender<Standing>,
    stop: impl Future<Output = ()>,
) {
    let api: Api<Lease> = Api::namespaced(client, &candidate.namespace);
    let name = candidate.lease.clone();
    let mut election = Election::new(candidate, monotonic());
    let mut stop = pin!(stop.fuse());
    let mut is_failing = false;
    loop {
        if stop.as_mut().now_or_never().is_some() {
            election.stop(monotonic());
        }
        let step = election.step(monotonic(), wall());
        publish(&standing, election.standing(), &name);
        match step {
            Step::Wait(until) => tokio::select! {
                () = &mut stop => election.stop(monotonic()),
                () = time::sleep_until(until.into()) => {}
            },
            Step::Call(call) => {
                let sent = monotonic();
                let answering = make(&api, &name, &call, &mut is_failing);
                // A write is not given up: the Lease could not be returned without its outcome.
                let answer = match call.request {
                    Request::Read => tokio::select! {
                        answer = answering => answer,
                        () = &mut stop => {
                            election.stop(monotonic());
                            continue;
                        }
                    },
                    Request::Create(_) | Request::Replace(_) => answering.await,
                };
                election.answered(&call.request, answer, sent, monotonic());
            }
            Step::End => return,
        }
    }
}

fn publish(standing: &watch::Sender<Standing>, new: Standing, lease: &str) {
    let old = standing.send_replace(new);
    match (old, new) {
        (Standing::Leading(_), Standing::Leading(_)) => {}
        (_, Standing::Leading(claim)) => tracing::info!(lease, term = claim.term, "leading"),
        (Standing::Leading(claim), _) => tracing::info!(lease, term = claim.term, "no longer leading"),
        _ => {}
    }
}

/// Makes a call within its deadline. Of several failures in a row the first is logged as a warning.
async fn make(api: &Api<Lease>, name: &str, call: &Call, is_failing: &mut bool) -> Answer {
    let params = PostParams::default();
    let answering = async {
        match &call.request {
            Request::Read => api.get(name).await,
            Request::Create(lease) => api.create(&params, lease).await,
            Request::Replace(lease) => api.replace(name, &params, lease).await,
        }
    };
    let error = match time::timeout(call.deadline, answering).await {
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Answer::Missing,
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => return Answer::Conflict,
        Ok(Ok(lease)) => {
            *is_failing = false;
            return Answer::Lease(Box::new(lease));
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the API server did not answer in time".to_owned(),
    };
    match std::mem::replace(is_failing, true) {
        false => tracing::warn!(lease = name, error, "failed to read or write the lease"),
        true => tracing::debug!(lease = name, error, "failed again to read or write the lease"),
    }
    Answer::Failed
}

#[cfg(test)]
mod tests;
