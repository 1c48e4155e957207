//! The watch of a gate over its ObjectServer. It stands for src/gate/upstream.rs.

use std::time::Duration;

use proxypair::protocol::{UnreachableCause, Upstream};

use super::{
    super::{
        clock::Time,
        network::{Link, Passage},
        world::World,
    },
    GateEvent,
};

/// The watch over the ObjectServer.
#[derive(Clone, Copy, Debug)]
pub struct UpstreamWatch {
    state: State,
    /// Dials that have failed since the last that succeeded.
    failures: usize,
    /// When the first of the dials in a row began that nobody answered.
    silent_since: Option<Time>,
    /// The dial of a session has failed: the next look dials anew.
    is_doubted: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A connection to that process is open. If keepalives are unanswered it counts as lost then.
    Held { incarnation: u64, lost_at: Option<Time> },
    /// A connection is being made.
    Dialling { since: Time },
    /// It is made, and has to stay open until then.
    Settling { incarnation: u64, until: Time },
    /// The last attempt has failed.
    Waiting { until: Time },
}

/// Times as in src/gate/upstream.rs.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_TIMEOUTS: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(1), Duration::from_secs(4)];
const SETTLED_AFTER: Duration = Duration::from_millis(100);

impl UpstreamWatch {
    /// That of a gate that has just started.
    pub const fn new(now: Time) -> Self {
        Self {
            state: State::Waiting { until: now },
            failures: 0,
            silent_since: None,
            is_doubted: false,
        }
    }

    /// How long a dial may take. The first may take as long as silence may.
    fn limit(&self, unresponsive: Duration) -> Duration {
        let failures = self.failures.checked_sub(1);
        failures.map_or(unresponsive, |failures| {
            RETRY_TIMEOUTS[failures % RETRY_TIMEOUTS.len()].min(unresponsive)
        })
    }
}

/// The ObjectServer cannot be reached.
pub fn unreachable(cause: UnreachableCause, message: &str) -> Upstream {
    Upstream::Unreachable {
        cause,
        message: message.to_owned(),
    }
}

impl World {
    pub fn watch_upstream(&mut self, pod: u64) {
        let Some((pair, found)) = self.pod(pod) else { return };
        let (side, Some(gate)) = (found.side, found.gate.as_ref()) else {
            return;
        };
        let mut watch = gate.watch;
        let link = Link::GateServer(pair, side);
        let unresponsive = self.plan.pairs[pair].pair.spec.health_check.unresponsive_after.get();
        let server = &self.pairs[pair].servers[side];
        let alive = server.is_alive.then_some(server.incarnation);
        let look = Look {
            pod,
            unresponsive,
            alive,
            old: self.network.at_pod(pod, link, false),
            new: self.network.at_pod(pod, link, true),
        };
        let now = self.now;
        match watch.state {
            State::Held { incarnation, lost_at } => self.hold_upstream(&mut watch, &look, incarnation, lost_at),
            State::Waiting { until } if until <= now => self.dial_upstream(&mut watch, pod),
            State::Waiting { .. } => return,
            State::Settling { incarnation, until } => {
                let is_open = matches!(look.old, Passage::Free(_)) && alive == Some(incarnation);
                if !is_open && !matches!(look.old, Passage::Silent | Passage::OneWay) {
                    self.dial_upstream(&mut watch, pod);
                } else if until <= now {
                    watch.state = State::Held {
                        incarnation,
                        lost_at: None,
                    };
                    self.gate_later(pod, Duration::from_millis(1), GateEvent::Watch);
                    self.upstream_found(pod, Upstream::Reachable, false);
                }
            }
            State::Dialling { since } => self.dialled_upstream(&mut watch, &look, since),
        }
        if let Some(gate) = self.gate_mut(pod) {
            gate.watch = watch;
        }
    }

    fn hold_upstream(&mut self, watch: &mut UpstreamWatch, look: &Look, incarnation: u64, lost_at: Option<Time>) {
        let now = self.now;
        let pod = look.pod;
        match look.old {
            Passage::Silent | Passage::OneWay => match lost_at {
                None => {
                    let after = look.unresponsive + self.random.millis(0, 2000);
                    self.gate_later(pod, after, GateEvent::Watch);
                    watch.state = State::Held {
                        incarnation,
                        lost_at: Some(now + after),
                    };
                }
                Some(at) if at <= now => {
                    self.upstream_found(pod, unreachable(UnreachableCause::TimedOut, "no answer"), false);
                    watch.failures += 1;
                    self.upstream_waits(watch, pod);
                }
                Some(_) => {}
            },
            Passage::Free(_) if look.alive == Some(incarnation) => {
                watch.state = State::Held {
                    incarnation,
                    lost_at: None,
                };
                if watch.is_doubted {
                    self.doubt_upstream(watch, look);
                }
            }
            Passage::Free(_) | Passage::Refused => self.dial_upstream(watch, pod),
        }
    }

    /// Dials anew while the old connection works.
    fn doubt_upstream(&mut self, watch: &mut UpstreamWatch, look: &Look) {
        if matches!(look.new, Passage::Free(_)) {
            watch.is_doubted = false;
            self.upstream_found(look.pod, Upstream::Reachable, false);
        } else {
            let found = unreachable(UnreachableCause::Unresolved, "no new connection");
            self.upstream_found(look.pod, found, true);
            self.gate_later(look.pod, RETRY, GateEvent::Watch);
        }
    }

    fn dialled_upstream(&mut self, watch: &mut UpstreamWatch, look: &Look, since: Time) {
        let (now, limit, pod) = (self.now, watch.limit(look.unresponsive), look.pod);
        match (look.new, look.alive) {
            (Passage::Free(delay), Some(incarnation)) if delay < limit => {
                watch.failures = 0;
                watch.silent_since = None;
                watch.is_doubted = false;
                watch.state = State::Settling {
                    incarnation,
                    until: now + SETTLED_AFTER,
                };
                self.gate_later(pod, SETTLED_AFTER, GateEvent::Watch);
            }
            (Passage::Silent | Passage::OneWay, _) if now < since + limit => {
                self.gate_later(pod, (since + limit).after(now), GateEvent::Watch);
            }
            // The refusal is on its way.
            (Passage::Free(_) | Passage::Refused, _) if now == since => {
                self.gate_later(pod, Duration::from_millis(1), GateEvent::Watch);
            }
            (Passage::Silent | Passage::OneWay, _) => {
                watch.failures += 1;
                let silent_since = *watch.silent_since.get_or_insert(since);
                if now.after(silent_since) >= look.unresponsive {
                    self.upstream_found(
                        pod,
                        unreachable(UnreachableCause::TimedOut, "no answer to a dial"),
                        false,
                    );
                }
                self.upstream_waits(watch, pod);
            }
            (Passage::Free(_) | Passage::Refused, _) => {
                watch.failures += 1;
                watch.silent_since = None;
                self.upstream_found(pod, unreachable(UnreachableCause::Refused, "connection refused"), false);
                self.upstream_waits(watch, pod);
            }
        }
    }

    fn dial_upstream(&mut self, watch: &mut UpstreamWatch, pod: u64) {
        watch.state = State::Dialling { since: self.now };
        self.gate_later(pod, Duration::from_millis(1), GateEvent::Watch);
    }

    fn upstream_waits(&mut self, watch: &mut UpstreamWatch, pod: u64) {
        watch.state = State::Waiting {
            until: self.now + RETRY,
        };
        self.gate_later(pod, RETRY, GateEvent::Watch);
    }

    /// The dial of a session has failed.
    pub fn upstream_doubted(&mut self, pod: u64) {
        if let Some(gate) = self.gate_mut(pod)
            && !std::mem::replace(&mut gate.watch.is_doubted, true)
        {
            self.gate_later(pod, Duration::from_millis(1), GateEvent::Watch);
        }
    }

    fn upstream_found(&mut self, pod: u64, found: Upstream, keeps_sessions: bool) {
        if let Some(gate) = self.gate_mut(pod)
            && (gate.inputs.upstream != found || gate.inputs.keeps_sessions != keeps_sessions)
        {
            gate.inputs.upstream = found;
            gate.inputs.keeps_sessions = keeps_sessions;
            self.gate_changed(pod);
        }
    }
}

/// What the watch meets now.
struct Look {
    pod: u64,
    unresponsive: Duration,
    /// The ObjectServer's process, if it runs.
    alive: Option<u64>,
    /// What happens on an existing connection, and to a new one.
    old: Passage,
    new: Passage,
}
