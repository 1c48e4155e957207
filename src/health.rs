//! One monitor for each pair: sightings in, findings out over a channel. It holds no Kubernetes client, so it cannot write.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
    time::sleep_until,
};

use crate::{
    api::{DrainSpec, Side},
    dial::Address,
    domain::{
        admission::{self, Admission, Occupancy},
        children::{CHECK_PORT, CONTROL_PORT},
        evidence::{Evidence, GateReport, Link, Pod, Timing, Upstream, classify},
        failover::{Decision, Policy, Routing, decide},
        health::SideHealth,
    },
    gate::wire::{self, Request},
    probe::{Eye, Sighting, Steering, watch_gate, watch_objectserver, watch_path},
};

/// What a monitor is to watch, and what has become of the routing. The controller sends a new one whenever any of it changes.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The pods of primary and backup.
    pub pods: [PodAddress; 2],
    /// The ObjectServers of primary and backup.
    pub object_servers: [Address; 2],
    /// How to prove to the gates who asks.
    pub keys: Option<Arc<ClientConfig>>,
    /// The name in the gates' certificate.
    pub gate_name: ServerName<'static>,
    /// Deadlines.
    pub timing: Timing,
    /// Rules of failover and failback.
    pub policy: Policy,
    /// How gates are drained.
    pub drain: DrainSpec,
    /// Where the traffic goes.
    pub routing: Routing,
    /// Grows with each change of `routing`; comes back in [`Finding::epoch`].
    pub epoch: u64,
}

/// The newest pod of a side that is not being deleted, or else the one that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// What the API server says of it.
    pub state: Pod,
    /// `metadata.uid`.
    pub uid: Option<String>,
    /// `metadata.name`.
    pub name: Option<String>,
    /// Its address.
    pub ip: Option<IpAddr>,
}

impl PodAddress {
    /// Nothing was read yet.
    pub const UNKNOWN: Self = Self {
        state: Pod::Unknown,
        uid: None,
        name: None,
        ip: None,
    };
}

/// What a monitor found, with what is to be done about it.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The [`Assignment::epoch`] it was decided on.
    pub epoch: u64,
    /// Primary and backup.
    pub sides: [SideFinding; 2],
    /// What to do.
    pub decision: Decision,
    /// When the sighting that led to it came in.
    pub seen_at: Instant,
}

/// What was found of one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFinding {
    /// Up, down or unknown.
    pub health: SideHealth,
    /// Probe sessions.
    pub sessions: u32,
    /// The pod that these are about.
    pub pod: PodAddress,
}

/// Who the operator is to the gates.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of this process.
    pub holder: String,
    /// Term of its leadership.
    pub term: u64,
}

/// Watches one pair until `assignments` closes.
pub async fn monitor(
    identity: Identity,
    mut assignments: watch::Receiver<Assignment>,
    findings: watch::Sender<Option<Finding>>,
) {
    let (sightings_in, mut sightings) = mpsc::channel(64);
    let assignment = assignments.borrow_and_update().clone();
    let now = Instant::now();
    let mut sides = Side::BOTH.map(|side| Watched::new(side, &assignment, &identity, &sightings_in, now));
    let mut assignment = assignment;
    let mut seen_at = now;
    loop {
        let look_again = evaluate(&assignment, &mut sides, &findings, seen_at);
        let wake = look_again.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
        tokio::select! {
            changed = assignments.changed() => {
                if changed.is_err() {
                    return;
                }
                seen_at = Instant::now();
                let next = assignments.borrow_and_update().clone();
                for side in &mut sides {
                    side.assign(&assignment, &next, &identity, &sightings_in);
                }
                assignment = next;
            }
            sighting = sightings.recv() => {
                let Some((side, generation, sighting)) = sighting else { return };
                seen_at = Instant::now();
                sides[index(side)].see(generation, sighting);
                // One decision for all that has already come in.
                while let Ok((side, generation, sighting)) = sightings.try_recv() {
                    sides[index(side)].see(generation, sighting);
                }
            }
            () = sleep_until(wake.into()) => seen_at = Instant::now(),
        }
    }
}

/// Place of a side in arrays of two.
pub fn index(side: Side) -> usize {
    match side {
        Side::Primary => 0,
        Side::Backup => 1,
    }
}

/// Decides on what is known now. Returns when to look again.
fn evaluate(
    assignment: &Assignment,
    sides: &mut [Watched; 2],
    findings: &watch::Sender<Option<Finding>>,
    seen_at: Instant,
) -> Option<Instant> {
    let now = Instant::now();
    for side in sides.iter_mut() {
        let reading = classify(&side.evidence, &assignment.timing, now);
        side.health = side.health.clone().step(&reading, &assignment.timing, now);
    }
    let [primary, backup] = &*sides;
    let decision = decide(
        &assignment.routing,
        &primary.health,
        &backup.health,
        &assignment.policy,
        now,
    );
    for (this, other) in [(0, 1), (1, 0)] {
        let order = {
            let (this, other) = (&sides[this], &sides[other]);
            admission::order(
                this.side,
                &assignment.routing,
                &this.health,
                &other.health,
                this.occupancy(),
                now,
            )
        };
        sides[this].steer(order, &assignment.drain);
    }
    let mut look_again = match &decision {
        Decision::Stay { look_again, .. } => *look_again,
        _ => None,
    };
    let drain = admission::drains_from(&assignment.routing).filter(|from| *from > now);
    look_again = [look_again, drain].into_iter().flatten().min();
    for side in &*sides {
        let silence = side
            .evidence
            .oldest_silence()
            .map(|since| since + assignment.timing.doubtful_after())
            .filter(|at| *at > now);
        for at in [side.health.look_again, silence].into_iter().flatten() {
            look_again = Some(look_again.map_or(at, |earlier| earlier.min(at)));
        }
    }
    let sides = [sides[0].finding(), sides[1].finding()];
    findings.send_if_modified(|known| {
        let same = known
            .as_ref()
            .is_some_and(|known| known.epoch == assignment.epoch && known.sides == sides && known.decision == decision);
        if !same {
            *known = Some(Finding {
                epoch: assignment.epoch,
                sides,
                decision,
                seen_at,
            });
        }
        !same
    });
    look_again
}

type Sightings = mpsc::Sender<(Side, u64, Sighting)>;

/// One side under watch.
struct Watched {
    side: Side,
    pod: PodAddress,
    evidence: Evidence,
    health: SideHealth,
    sessions: u32,
    last: Option<Admission>,
    steering: watch::Sender<Steering>,
    /// Grows when the eyes are sent elsewhere: what older ones still say is not listened to.
    generation: u64,
    eyes: Vec<AbortHandle>,
}

impl Watched {
    fn new(side: Side, assignment: &Assignment, identity: &Identity, out: &Sightings, now: Instant) -> Self {
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

    fn assign(&mut self, old: &Assignment, new: &Assignment, identity: &Identity, out: &Sightings) {
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

    fn see(&mut self, generation: u64, sighting: Sighting) {
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

    fn occupancy(&self) -> Occupancy {
        Occupancy {
            sessions: self.sessions,
            last: self.last,
        }
    }

    fn steer(&mut self, order: Admission, drain: &DrainSpec) {
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

    fn finding(&self) -> SideFinding {
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
