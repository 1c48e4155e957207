//! One monitor for each pair: sightings in, findings out over a channel. It holds no Kubernetes client, so it cannot write.

mod watched;

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    sync::{mpsc, watch},
    time::sleep_until,
};

use self::watched::Watched;
use crate::{
    api::{DrainSpec, ResyncSpec, Side},
    check::Credentials,
    dial::{Address, Dialer},
    domain::{
        admission,
        evidence::{Pod, Timing, classify},
        expiry::Expiry,
        failover::{Decision, Policy, Routing, decide},
        health::SideHealth,
        resync,
    },
    tls::{BundleError, ObjectServerTls},
};

/// What a monitor is to watch, and what has become of the routing. The controller sends a new one whenever any of it changes.
#[derive(Clone, Debug)]
pub struct Assignment {
    /// The pods of primary and backup.
    pub pods: [PodAddress; 2],
    /// The ObjectServers of primary and backup.
    pub servers: [Server; 2],
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
    /// How to log in to the ObjectServers, if that is declared.
    pub login: Option<Credentials>,
    /// When the ObjectServers count as in step, if that matters.
    pub resync: Option<ResyncSpec>,
    /// Where the traffic goes.
    pub routing: Routing,
    /// Grows with each change of `routing`; comes back in [`Finding::epoch`].
    pub epoch: u64,
}

impl Assignment {
    /// Whether it asks for anything else than `other`, apart from pods, keys and routing.
    pub fn asks_otherwise_than(&self, other: &Self) -> bool {
        let asked = |of: &Self| {
            (
                of.servers.clone(),
                of.timing,
                of.policy,
                of.drain.clone(),
                of.login.clone(),
                of.resync.clone(),
            )
        };
        asked(self) != asked(other)
    }
}

/// How to reach an ObjectServer, and what it must prove.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it is.
    pub address: Address,
    /// Its name, which it says and has in its certificate.
    pub name: String,
    /// Who may have issued its certificate, in PEM, if it speaks TLS.
    pub authorities: Option<Arc<Vec<u8>>>,
    /// The user lets a password travel to it in the clear.
    pub allow_plaintext: bool,
    /// The name of the proxy server that stands between the gate and it, if there is one.
    pub proxy: Option<String>,
}

impl Server {
    /// A dialer that takes silence for absence after `unresponsive_after`. Authorities that cannot be used are as good as none that
    /// would accept: the dial fails.
    fn dialer(&self, unresponsive_after: Duration) -> Result<Dialer, BundleError> {
        let dialer = Dialer::new(self.address.clone(), unresponsive_after);
        match &self.authorities {
            None => Ok(dialer),
            Some(authorities) => Ok(dialer.with_tls(ObjectServerTls::new(authorities, &self.name)?)),
        }
    }
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
    /// What keeps it from running, in words.
    pub trouble: Option<String>,
}

impl PodAddress {
    /// Nothing was read yet.
    pub const UNKNOWN: Self = Self {
        state: Pod::Unknown,
        uid: None,
        name: None,
        ip: None,
        trouble: None,
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
    /// What the ObjectServer says of its `ActingPrimary`.
    pub acting_primary: Option<bool>,
    /// When certificates end to be valid.
    pub expiry: Expiry,
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
                    side.assign(&assignment, &next, &sightings_in);
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
    for side in sides.iter_mut() {
        side.ask_for_gateways(assignment.resync.is_some() && assignment.routing.serving == Side::Backup);
    }
    let [primary, backup] = &*sides;
    let missing = assignment.resync.as_ref().map_or_else(Vec::new, |resync| {
        resync::missing(
            primary.evidence.word.as_ref(),
            backup.evidence.word.as_ref(),
            &resync.gateway_description,
            assignment.timing.word_lasts(),
            now,
        )
    });
    let decision = decide(
        &assignment.routing,
        &primary.health,
        &backup.health,
        &missing,
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
