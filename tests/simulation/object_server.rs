//! ObjectServers, and the gateway that copies between the two of a pair.
//!
//! The gateway behaves as docs/failover.md assumes: the backup's `ActingPrimary` is TRUE from when the gateway has lost the primary until its
//! resync has finished.

use std::{collections::BTreeMap, time::Duration};

use proxypair::{
    api::{Side, Sides},
    domain::resync::GatewaySession,
};

use super::{
    clock::Time,
    network::{Link, Passage},
    plan::both,
    world::{Event, World},
};

/// What the product waits for by default.
pub const DESCRIPTION: &str = "failover_gate";

/// One ObjectServer.
pub struct ObjectServer {
    /// Changes with each start of the process.
    pub incarnation: u64,
    pub is_alive: bool,
    /// Its kernel accepts connections, and it answers nothing.
    pub is_stalled: bool,
    pub refuses_login: bool,
    /// Another server answers at its address.
    pub is_other: bool,
    /// When another process has taken its place at once.
    pub replaced: Time,
    pub acting_primary: bool,
    /// How often each event was stored: number of the probe and of the event.
    pub stored: BTreeMap<(usize, u64), u32>,
}

/// The gateway.
pub struct Gateway {
    pub is_running: bool,
    /// Number of its session at each ObjectServer, and the process that it is a session of.
    pub attached: Sides<Option<(u64, u64)>>,
    /// Since when the two ObjectServers may differ.
    pub behind_since: Option<Time>,
    /// Numbers of its former sessions: an ObjectServer gives them out again.
    free: Sides<Option<u64>>,
    resync: Duration,
    resynced_at: Option<Time>,
    /// When the newest resync was finished.
    in_sync_since: Option<Time>,
}

/// How often the gateway looks for an ObjectServer that it has lost.
const POLL: Duration = Duration::from_secs(1);

impl ObjectServer {
    pub const fn new(_: Side) -> Self {
        Self {
            incarnation: 0,
            is_alive: true,
            is_stalled: false,
            refuses_login: false,
            is_other: false,
            replaced: Time::ZERO,
            acting_primary: false,
            stored: BTreeMap::new(),
        }
    }
}

impl Gateway {
    /// Whether the ObjectServers differ, or did until so lately that an answer may still say so.
    pub fn were_behind(&self, lasts: Duration, now: Time) -> bool {
        self.behind_since.is_some() || self.in_sync_since.is_some_and(|at| now.after(at) < lasts)
    }

    pub fn new(resync: Duration) -> Self {
        Self {
            is_running: true,
            attached: both(|_| None),
            behind_since: Some(Time::ZERO),
            free: both(|_| None),
            resync,
            resynced_at: None,
            in_sync_since: None,
        }
    }

    /// What `catalog.connections` shows of it.
    pub fn sessions(&self, side: Side) -> Vec<GatewaySession> {
        let session = |(id, _): (u64, u64)| GatewaySession {
            id: id.to_string(),
            description: DESCRIPTION.to_owned(),
        };
        self.attached[side].map(session).into_iter().collect()
    }
}

impl World {
    pub fn kill_server(&mut self, pair: usize, side: Side) {
        self.pairs[pair].servers[side].is_alive = false;
        self.is_disturbed = true;
    }

    pub fn start_server(&mut self, pair: usize, side: Side) {
        let server = &mut self.pairs[pair].servers[side];
        if !server.is_alive {
            server.is_alive = true;
            server.incarnation += 1;
            self.is_disturbed = true;
        }
    }

    /// The gateway notices what it has lost, and looks for it again when it is its time.
    pub fn gateway_looks(&mut self, pair: usize, is_poll: bool) {
        if is_poll {
            self.later(POLL, Event::Gateway(pair));
        }
        let reachable = both(|side| self.gateway_reaches(pair, side));
        for side in Side::BOTH {
            let incarnation = self.pairs[pair].servers[side].incarnation;
            let gateway = &mut self.pairs[pair].gateway;
            let is_lost = gateway.attached[side].is_some_and(|(_, known)| known != incarnation) || !reachable[side];
            if is_lost && gateway.attached[side].take().is_some() {
                gateway.resynced_at = None;
                gateway.behind_since.get_or_insert(self.now);
                self.note(
                    format_args!("gateway {pair}"),
                    format_args!("has lost the {}", side.label()),
                );
            }
        }
        // A gateway that is told of the loss, or starts without the primary, says so at the backup.
        let gateway = &self.pairs[pair].gateway;
        if gateway.attached.backup.is_some() && gateway.attached.primary.is_none() && gateway.is_running {
            self.pairs[pair].servers.backup.acting_primary = true;
        }
        if is_poll {
            self.gateway_attaches(pair, reachable);
        }
        self.gateway_resyncs(pair);
    }

    fn gateway_attaches(&mut self, pair: usize, reachable: Sides<bool>) {
        // The backup first: what is behind is said before the primary shows the gateway.
        for side in [Side::Backup, Side::Primary] {
            if !reachable[side] || self.pairs[pair].gateway.attached[side].is_some() {
                continue;
            }
            if side == Side::Primary && self.pairs[pair].gateway.attached.backup.is_none() {
                continue;
            }
            if side == Side::Backup && self.pairs[pair].gateway.behind_since.is_some() {
                self.pairs[pair].servers.backup.acting_primary = true;
            }
            let (new, is_reused) = (self.new_id(), self.random.one_in(2));
            let free = &mut self.pairs[pair].gateway.free[side];
            let id = free.filter(|_| is_reused).unwrap_or(new);
            *free = Some(id);
            let incarnation = self.pairs[pair].servers[side].incarnation;
            self.pairs[pair].gateway.attached[side] = Some((id, incarnation));
            self.note(
                format_args!("gateway {pair}"),
                format_args!("attaches to the {}", side.label()),
            );
        }
    }

    fn gateway_resyncs(&mut self, pair: usize) {
        let now = self.now;
        let gateway = &mut self.pairs[pair].gateway;
        let is_attached = gateway.attached.primary.is_some() && gateway.attached.backup.is_some();
        if !is_attached || gateway.behind_since.is_none() {
            return;
        }
        match gateway.resynced_at {
            None => {
                gateway.resynced_at = Some(now + gateway.resync);
                let resync = gateway.resync;
                self.pairs[pair].servers.backup.acting_primary = true;
                self.note(
                    format_args!("gateway {pair}"),
                    format_args!("begins a resync of {resync:?}"),
                );
            }
            Some(at) if at <= now => {
                gateway.resynced_at = None;
                gateway.behind_since = None;
                gateway.in_sync_since = Some(now);
                self.pairs[pair].servers.backup.acting_primary = false;
                self.note(format_args!("gateway {pair}"), format_args!("has finished the resync"));
            }
            Some(_) => {}
        }
    }

    fn gateway_reaches(&self, pair: usize, side: Side) -> bool {
        let server = &self.pairs[pair].servers[side];
        let passage = self.network.message(Link::GatewayServer(pair, side));
        self.pairs[pair].gateway.is_running && server.is_alive && matches!(passage, Passage::Free(_))
    }
}
