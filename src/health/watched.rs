//! One side under watch: its eyes, what they have seen, and the order that its gate is given.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use super::{Assignment, Identity, PodAddress, SideFinding, index};
use crate::{
    api::{DrainSpec, Side},
    domain::{
        admission::{Admission, Occupancy},
        children::{CHECK_PORT, CONTROL_PORT},
        evidence::{Evidence, GateReport, Link, Upstream},
        health::SideHealth,
    },
    gate::wire::{self, Request},
    probe::{Eye, Sighting, Steering, watch_gate, watch_objectserver, watch_path},
};

/// Where sightings go, with the side and the generation of the eyes that saw them.
pub(super) type Sightings = mpsc::Sender<(Side, u64, Sighting)>;

/// One side under watch.
pub(super) struct Watched {
    pub(super) side: Side,
    pod: PodAddress,
    pub(super) evidence: Evidence,
    pub(super) health: SideHealth,
    sessions: u32,
    last: Option<Admission>,
    steering: watch::Sender<Steering>,
    /// Grows when the eyes are sent elsewhere: what older ones still say is not listened to.
    generation: u64,
    eyes: Vec<AbortHandle>,
}

impl Watched {
    pub(super) fn new(side: Side, assignment: &Assignment, identity: &Identity, out: &Sightings, now: Instant) -> Self {
        let steering = Steering {
            holder: identity.holder.clone(),
            term: identity.term,
            order: None,
            ask: 0,
        };
        let mut watched = Self {
            side,
            pod: PodAddress::UNKNOWN,
            evidence: Evidence::none(),
            health: SideHealth::unknown(now),
            sessions: 0,
            last: None,
            steering: watch::Sender::new(steering),
            generation: 0,
            eyes: Vec::new(),
        };
        watched.look_at(assignment, identity, out);
        watched
    }

    pub(super) fn assign(&mut self, old: &Assignment, new: &Assignment, identity: &Identity, out: &Sightings) {
        let at = index(self.side);
        let same_place = (&self.pod.uid, self.pod.ip) == (&new.pods[at].uid, new.pods[at].ip)
            && old.object_servers[at] == new.object_servers[at]
            && old.timing == new.timing;
        let same_keys = match (&old.keys, &new.keys) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if same_place && same_keys {
            self.pod = new.pods[at].clone();
            self.evidence.pod = self.pod.state;
            return;
        }
        if self.pod.uid != new.pods[at].uid {
            self.last = None;
            self.sessions = 0;
        }
        let direct = self.evidence.direct.clone();
        self.look_at(new, identity, out);
        if old.object_servers[at] == new.object_servers[at] {
            self.evidence.direct = direct;
        }
        tracing::debug!(side = self.side.label(), pod = self.pod.name, "watching another pod");
    }

    /// Sends the eyes where `assignment` says.
    fn look_at(&mut self, assignment: &Assignment, identity: &Identity, out: &Sightings) {
        for eye in self.eyes.drain(..) {
            eye.abort();
        }
        self.generation += 1;
        let at = index(self.side);
        self.pod = assignment.pods[at].clone();
        self.evidence = Evidence {
            pod: self.pod.state,
            ..Evidence::none()
        };
        self.steering.send_modify(|steering| steering.term = identity.term);
        let timing = assignment.timing;
        let object_server = assignment.object_servers[at].clone();
        let relayed = self.relay(out);
        self.eyes
            .push(tokio::spawn(watch_objectserver(object_server, timing, relayed)).abort_handle());
        let (Some(ip), Some(keys)) = (self.pod.ip, &assignment.keys) else {
            return;
        };
        let name = &assignment.gate_name;
        let (relayed, steering) = (self.relay(out), self.steering.subscribe());
        let control = watch_gate(
            SocketAddr::new(ip, CONTROL_PORT),
            name.clone(),
            Arc::clone(keys),
            timing,
            steering,
            relayed,
        );
        self.eyes.push(tokio::spawn(control).abort_handle());
        let relayed = self.relay(out);
        let path = watch_path(
            SocketAddr::new(ip, CHECK_PORT),
            name.clone(),
            Arc::clone(keys),
            timing,
            relayed,
        );
        self.eyes.push(tokio::spawn(path).abort_handle());
    }

    /// A channel whose sightings arrive with this side and generation on them.
    fn relay(&mut self, out: &Sightings) -> mpsc::Sender<Sighting> {
        let (sender, mut receiver) = mpsc::channel(16);
        let (side, generation, out) = (self.side, self.generation, out.clone());
        let relay = async move {
            while let Some(sighting) = receiver.recv().await {
                if out.send((side, generation, sighting)).await.is_err() {
                    return;
                }
            }
        };
        self.eyes.push(tokio::spawn(relay).abort_handle());
        sender
    }

    pub(super) fn see(&mut self, generation: u64, sighting: Sighting) {
        if generation != self.generation {
            return;
        }
        tracing::trace!(side = self.side.label(), ?sighting, "seen");
        match sighting {
            Sighting::Link(Eye::Control, link) => self.evidence.control = link,
            Sighting::Link(Eye::Path, link) => {
                if matches!(link, Link::Failed { .. }) && !matches!(self.evidence.path, Link::Failed { .. }) {
                    self.steering.send_modify(|steering| steering.ask += 1);
                }
                self.evidence.path = link;
            }
            Sighting::Link(Eye::Direct, link) => self.evidence.direct = link,
            Sighting::Report { at, report } => {
                self.sessions = report.sessions;
                self.evidence.report = Some(self.understood(at, report));
            }
        }
    }

    fn understood(&self, at: Instant, report: wire::Report) -> GateReport {
        let upstream = match report.upstream {
            wire::Upstream::Reachable => Upstream::Reachable,
            wire::Upstream::Unreachable {
                cause: wire::UnreachableCause::TimedOut,
                message,
            } => Upstream::Unresponsive { message },
            wire::Upstream::Unreachable { message, .. } => {
                let since = match self.evidence.report.as_ref().map(|report| &report.upstream) {
                    Some(Upstream::Unreachable { since, .. }) => *since,
                    _ => at,
                };
                Upstream::Unreachable { since, message }
            }
        };
        GateReport {
            at,
            upstream,
            leaving: report.leaving,
            sessions: report.sessions,
        }
    }

    pub(super) fn occupancy(&self) -> Occupancy {
        Occupancy {
            sessions: self.sessions,
            last: self.last,
        }
    }

    pub(super) fn steer(&mut self, order: Admission, drain: &DrainSpec) {
        if self.last == Some(order) {
            return;
        }
        tracing::info!(
            side = self.side.label(),
            ?order,
            sessions = self.sessions,
            "ordering the gate"
        );
        self.last = Some(order);
        let request = match order {
            Admission::Admit => Request::Admit,
            Admission::Drop => Request::Drop,
            Admission::Drain => Request::Drain {
                grace_period_ms: u64::try_from(drain.grace_period.get().as_millis()).unwrap_or(u64::MAX),
                connections_per_second: u32::try_from(drain.connections_per_second).unwrap_or(1),
            },
        };
        self.steering.send_modify(|steering| steering.order = Some(request));
    }

    pub(super) fn finding(&self) -> SideFinding {
        SideFinding {
            health: self.health.clone(),
            sessions: self.sessions,
            pod: self.pod.clone(),
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        for eye in &self.eyes {
            eye.abort();
        }
    }
}
