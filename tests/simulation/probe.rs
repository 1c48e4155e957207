//! Probes that number their events, and their sessions through the gates.
//!
//! A probe connects to the virtual Service, or to the backup's own Service if it knows that and the first refuses. It sends one event after the
//! other, waits for each acknowledgement, and sends again what was not acknowledged.

use std::time::Duration;

use proxypair::{
    api::Side,
    gate::mode::{ClosedBy, Listening},
};

use super::{
    clock::Time,
    network::{Link, Passage},
    plan::ProbePlan,
    world::{Event, World},
};

/// A probe.
pub struct Probe {
    pub plan: ProbePlan,
    /// What its node knows of the EndpointSlices of the virtual Service, and when it learns what is known by now.
    pub rules: Vec<u64>,
    pub rules_at: Time,
    /// Grows with each connection: older timers are void.
    pub turn: u64,
    pub session: Option<u64>,
    /// The event that is not acknowledged yet.
    pub pending: Option<u64>,
    pub next_event: u64,
    pub acknowledged: Vec<u64>,
}

/// What a probe does next.
#[derive(Clone, Debug)]
pub enum ProbeEvent {
    /// It tries its addresses, beginning with that one.
    Connects(usize),
    /// The attempt arrives at that pod; it may go on with that address.
    Arrives(u64, usize),
    /// It sends its event.
    Sends,
    /// It has waited for an answer for as long as it waits.
    TimesOut(u64),
    /// Its connection is closed.
    Closed,
}

/// A session of a probe at a gate.
pub struct Session {
    pub id: u64,
    pub probe: usize,
    pub pod: u64,
    pub side: Side,
    /// The ObjectServer process at its other end.
    server: u64,
    /// The request that the gate has forwarded and that has no answer, and since when.
    pub outstanding: Option<(u64, Time)>,
    /// When that, or its answer, was last seen not to get through.
    held_at: Option<Time>,
    pub since: Time,
}

/// What happens on a session.
#[derive(Clone, Debug)]
pub enum SessionEvent {
    /// A request reaches the gate.
    Request(u64),
    /// The gate's connection brings it to the ObjectServer.
    Store(u64),
    /// The answer reaches the gate.
    Answer(u64),
    /// The acknowledgement reaches the probe.
    Acknowledged(u64),
}

/// Why a session ended at the gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEnd {
    /// The process is gone.
    GateGone,
    Closed(ClosedBy),
    /// A drain closed it while nothing was outstanding.
    DrainedIdle,
    /// The drain's time was over.
    DrainDeadline,
    /// The ObjectServer has closed it, or could not be reached.
    ServerGone,
    /// The probe has closed it.
    ProbeGone,
}

const WIRE: Duration = Duration::from_millis(1);
/// How soon the kernel sends again what was not acknowledged.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// How long after it was held up a request is answered: it is sent again, and the ObjectServer and a slow link take their time.
const ANSWERED_WITHIN: Duration = Duration::from_millis(500);

impl Session {
    /// Whether its request, or the answer, was held up so lately that the answer need not have come.
    pub fn was_held_up(&self, now: Time) -> bool {
        self.held_at.is_some_and(|at| now.after(at) < ANSWERED_WITHIN)
    }
}

impl Probe {
    pub const fn new(plan: ProbePlan) -> Self {
        Self {
            plan,
            rules: Vec::new(),
            rules_at: Time::ZERO,
            turn: 0,
            session: None,
            pending: None,
            next_event: 1,
            acknowledged: Vec::new(),
        }
    }
}

impl World {
    fn probe_later(&mut self, pair: usize, probe: usize, by: Duration, event: ProbeEvent) {
        let turn = self.pairs[pair].probes[probe].turn;
        self.later(by, Event::Probe(pair, probe, turn, event));
    }

    /// It has no connection, and makes one after a while.
    pub fn probe_rests(&mut self, pair: usize, probe: usize) {
        let found = &mut self.pairs[pair].probes[probe];
        found.turn += 1;
        found.session = None;
        let rest = self.random.millis(50, 1000);
        self.probe_later(pair, probe, rest, ProbeEvent::Connects(0));
    }

    pub fn probe_event(&mut self, pair: usize, probe: usize, event: ProbeEvent) {
        match event {
            ProbeEvent::Connects(address) => self.probe_connects(pair, probe, address),
            ProbeEvent::Arrives(pod, address) => self.probe_arrives(pair, probe, pod, address),
            ProbeEvent::Sends => self.probe_sends(pair, probe),
            ProbeEvent::TimesOut(event) => {
                if self.pairs[pair].probes[probe].pending == Some(event) {
                    self.note(
                        format_args!("probe {probe} of {pair}"),
                        format_args!("has no answer to event {event}"),
                    );
                    if let Some(session) = self.pairs[pair].probes[probe].session {
                        self.end_session(pair, session, SessionEnd::ProbeGone);
                    }
                    self.probe_rests(pair, probe);
                }
            }
            ProbeEvent::Closed => self.probe_rests(pair, probe),
        }
    }

    fn probe_connects(&mut self, pair: usize, probe: usize, address: usize) {
        let found = &self.pairs[pair].probes[probe];
        let pods = match address {
            0 => found.rules.clone(),
            1 if found.plan.knows_backup => {
                let backup = self.pods_of(pair, Side::Backup).filter(|pod| pod.ip.is_some());
                backup.map(|pod| pod.id).collect()
            }
            _ => return self.probe_rests(pair, probe),
        };
        if pods.is_empty() {
            return self.probe_later(pair, probe, WIRE, ProbeEvent::Connects(address + 1));
        }
        let pod = self.random.pick(&pods);
        let timeout = self.pairs[pair].probes[probe].plan.network_timeout;
        let Some((_, found)) = self.pod(pod) else {
            // The address leads nowhere: a kernel on the way says so.
            return self.probe_later(pair, probe, WIRE, ProbeEvent::Connects(address + 1));
        };
        match self.network.at_pod(pod, Link::ProbeGate(pair, found.side), true) {
            Passage::Free(delay) => self.probe_later(pair, probe, WIRE + delay, ProbeEvent::Arrives(pod, address)),
            Passage::Refused => self.probe_later(pair, probe, WIRE, ProbeEvent::Connects(address + 1)),
            Passage::Silent | Passage::OneWay => {
                self.probe_later(pair, probe, timeout, ProbeEvent::Connects(address + 1));
            }
        }
    }

    fn probe_arrives(&mut self, pair: usize, probe: usize, pod: u64, address: usize) {
        let timeout = self.pairs[pair].probes[probe].plan.network_timeout;
        let Some(gate) = self.gate(pod) else {
            return self.probe_later(pair, probe, WIRE, ProbeEvent::Connects(address + 1));
        };
        if gate.listening != Listening::Yes {
            return self.probe_later(pair, probe, WIRE, ProbeEvent::Connects(address + 1));
        }
        if gate.is_frozen {
            return self.probe_later(pair, probe, timeout, ProbeEvent::Connects(address + 1));
        }
        self.guarantee_03_refuses_without_its_objectserver(pair, pod);
        let Some((_, found)) = self.pod(pod) else { return };
        let side = found.side;
        let server = &self.pairs[pair].servers[side];
        let dialled = self.network.at_pod(pod, Link::GateServer(pair, side), true);
        if !server.is_alive || !matches!(dialled, Passage::Free(_)) {
            // It is accepted and closed.
            self.upstream_doubted(pod);
            return self.probe_later(pair, probe, 2 * WIRE, ProbeEvent::Connects(address + 1));
        }
        let (server, id, now) = (server.incarnation, self.new_id(), self.now);
        self.pairs[pair].sessions.push(Session {
            id,
            probe,
            pod,
            side,
            server,
            outstanding: None,
            held_at: None,
            since: now,
        });
        self.pairs[pair].probes[probe].session = Some(id);
        self.note(
            format_args!("probe {probe} of {pair}"),
            format_args!("connects to pod {pod} of the {}", side.label()),
        );
        self.sessions_changed(pod);
        self.probe_sends(pair, probe);
    }

    fn probe_sends(&mut self, pair: usize, probe: usize) {
        let found = &mut self.pairs[pair].probes[probe];
        let Some(session) = found.session else { return };
        let event = *found.pending.get_or_insert(found.next_event);
        let timeout = found.plan.network_timeout;
        self.later(WIRE, Event::Session(pair, session, SessionEvent::Request(event)));
        self.probe_later(pair, probe, timeout, ProbeEvent::TimesOut(event));
    }

    fn session(&self, pair: usize, id: u64) -> Option<&Session> {
        self.pairs[pair].sessions.iter().find(|session| session.id == id)
    }

    fn session_mut(&mut self, pair: usize, id: u64) -> Option<&mut Session> {
        self.pairs[pair].sessions.iter_mut().find(|session| session.id == id)
    }

    pub fn sessions_on(&self, pod: u64) -> u32 {
        let sessions = self.pairs.iter().flat_map(|pair| &pair.sessions);
        u32::try_from(sessions.filter(|session| session.pod == pod).count()).unwrap_or(u32::MAX)
    }

    pub fn session_event(&mut self, pair: usize, id: u64, event: SessionEvent) {
        if let SessionEvent::Acknowledged(number) = event {
            return self.acknowledged(pair, id, number);
        }
        let Some(session) = self.session(pair, id) else { return };
        let (pod, side, probe, server) = (session.pod, session.side, session.probe, session.server);
        let Some(gate) = self.gate(pod) else { return };
        let probe_link = self.network.at_pod(pod, Link::ProbeGate(pair, side), false);
        let server_link = self.network.at_pod(pod, Link::GateServer(pair, side), false);
        let (link, is_held) = match event {
            SessionEvent::Request(_) => (probe_link, gate.is_frozen),
            SessionEvent::Store(_) => (server_link, self.pairs[pair].servers[side].is_stalled),
            SessionEvent::Answer(_) | SessionEvent::Acknowledged(_) => (server_link, gate.is_frozen),
        };
        let delay = match link {
            Passage::Free(delay) if !is_held => delay,
            // A request gets through in one direction only; its answer does not.
            Passage::OneWay if !is_held && !matches!(event, SessionEvent::Answer(_)) => Duration::ZERO,
            Passage::Refused => return self.end_session(pair, id, SessionEnd::ServerGone),
            Passage::Free(_) | Passage::Silent | Passage::OneWay => {
                let now = self.now;
                if let Some(session) = self.session_mut(pair, id) {
                    session.held_at = Some(now);
                }
                return self.later(RETRANSMIT, Event::Session(pair, id, event));
            }
        };
        match event {
            SessionEvent::Request(number) => {
                let now = self.now;
                if let Some(session) = self.session_mut(pair, id) {
                    session.outstanding = Some((number, now));
                }
                self.later(WIRE + delay, Event::Session(pair, id, SessionEvent::Store(number)));
            }
            SessionEvent::Store(number) => {
                let found = &mut self.pairs[pair].servers[side];
                if !found.is_alive || found.incarnation != server {
                    return self.end_session(pair, id, SessionEnd::ServerGone);
                }
                *found.stored.entry((probe, number)).or_default() += 1;
                let takes = self.random.mostly_short(Duration::from_millis(80));
                self.later(takes + delay, Event::Session(pair, id, SessionEvent::Answer(number)));
            }
            SessionEvent::Answer(number) => {
                if let Some(session) = self.session_mut(pair, id) {
                    session.outstanding = None;
                    session.held_at = None;
                }
                self.later(
                    Duration::ZERO,
                    Event::Session(pair, id, SessionEvent::Acknowledged(number)),
                );
                self.close_idle_sessions(pod);
            }
            SessionEvent::Acknowledged(_) => {}
        }
    }

    fn acknowledged(&mut self, pair: usize, id: u64, number: u64) {
        let Some(probe) = self.pairs[pair]
            .probes
            .iter()
            .position(|probe| probe.session == Some(id))
        else {
            return;
        };
        let found = &mut self.pairs[pair].probes[probe];
        if found.pending != Some(number) {
            return;
        }
        found.pending = None;
        found.next_event = number + 1;
        found.acknowledged.push(number);
        let every = found.plan.every;
        self.probe_later(pair, probe, every, ProbeEvent::Sends);
    }

    /// Has the drain close what it may.
    pub fn close_idle_sessions(&mut self, pod: u64) {
        let sessions: Vec<_> = self
            .pairs
            .iter()
            .enumerate()
            .flat_map(|(pair, world)| {
                let idle = world
                    .sessions
                    .iter()
                    .filter(|session| session.pod == pod && session.outstanding.is_none());
                idle.map(move |session| (pair, session.id)).collect::<Vec<_>>()
            })
            .collect();
        for (pair, id) in sessions {
            if !self.take_permit(pod) {
                return;
            }
            self.end_session(pair, id, SessionEnd::DrainedIdle);
        }
    }

    pub fn end_sessions_of(&mut self, pod: u64, end: SessionEnd) {
        for pair in 0..self.pairs.len() {
            let on_it = self.pairs[pair].sessions.iter().filter(|session| session.pod == pod);
            let ids: Vec<_> = on_it.map(|session| session.id).collect();
            for id in ids {
                self.end_session(pair, id, end);
            }
        }
    }

    /// ObjectServers that are gone close their sessions, and a gate that can be reached again learns which probes have gone.
    pub fn end_orphaned_sessions(&mut self, pair: usize) {
        let world = &self.pairs[pair];
        let end_of = |session: &Session| {
            let server = &world.servers[session.side];
            if !server.is_alive || server.incarnation != session.server {
                Some(SessionEnd::ServerGone)
            } else if world.probes[session.probe].session != Some(session.id) {
                Some(SessionEnd::ProbeGone)
            } else {
                None
            }
        };
        let sessions = world.sessions.iter();
        let ended: Vec<_> = sessions
            .filter_map(|session| Some((session.id, session.pod, end_of(session)?)))
            .collect();
        for (id, pod, end) in ended {
            let is_frozen = self.gate(pod).is_some_and(|gate| gate.is_frozen);
            if !is_frozen && !self.network.is_lost(pod) {
                self.end_session(pair, id, end);
            }
        }
    }

    pub fn end_session(&mut self, pair: usize, id: u64, end: SessionEnd) {
        let Some(at) = self.pairs[pair].sessions.iter().position(|session| session.id == id) else {
            return;
        };
        let session = &self.pairs[pair].sessions[at];
        let (pod, side, probe) = (session.pod, session.side, session.probe);
        let link = self.network.at_pod(pod, Link::ProbeGate(pair, side), false);
        let is_deaf = self.gate(pod).is_some_and(|gate| gate.is_frozen) || !matches!(link, Passage::Free(_));
        if end == SessionEnd::ProbeGone && is_deaf {
            // The gate does not learn of it. Its kernel does when it sends something.
            let known = &mut self.pairs[pair].probes[probe].session;
            *known = known.filter(|known| *known != id);
            return;
        }
        self.guarantee_09_no_request_is_cut(pair, at, end);
        self.guarantee_13_the_serving_side_keeps_its_sessions(pair, at, end);
        self.pairs[pair].sessions.remove(at);
        self.note(
            format_args!("probe {probe} of {pair}"),
            format_args!("its session on pod {pod} ends: {end:?}"),
        );
        if self.pairs[pair].probes[probe].session == Some(id)
            && end != SessionEnd::ProbeGone
            && let Passage::Free(delay) = link
        {
            self.probe_later(pair, probe, WIRE + delay, ProbeEvent::Closed);
        }
        self.sessions_changed(pod);
    }

    fn sessions_changed(&mut self, pod: u64) {
        if let Some(gate) = self.pod_mut(pod).and_then(|pod| pod.gate.as_mut()) {
            gate.version += 1;
        }
        self.reports_are_due(pod);
        self.exit_if_done(pod);
    }
}
