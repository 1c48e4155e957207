//! A gate, and what operators have sent to it. Terms and commands are the product's.

use proxypair::{
    gate::{
        commands::{self, CommandError, Terms},
        mode::{ActiveCommand, Inputs},
    },
    protocol::{Request, Upstream},
};

use super::state::Keyed;

/// A connection from an operator.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct Connection {
    pub candidate: usize,
    pub life: u32,
    pub term: u64,
    /// Its first line has arrived.
    pub is_open: bool,
    /// A command is on its way.
    pub is_commanding: bool,
}

/// What the gate knows, and what is on its way to it.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct Gate {
    pub connections: Vec<Connection>,
    /// The terms of all connections, in the order in which they came.
    met: Vec<(String, u64)>,
    command: Keyed<ActiveCommand>,
    /// A command was rejected because its term was over.
    pub has_rejected: bool,
}

impl Gate {
    pub fn new() -> Self {
        Self {
            connections: Vec::new(),
            met: Vec::new(),
            command: Keyed::new(ActiveCommand::Admit),
            has_rejected: false,
        }
    }

    /// The highest term that it has met.
    pub fn highest(&self) -> u64 {
        self.met.iter().map(|(_, term)| *term).max().unwrap_or_default()
    }

    /// The product's memory of what the gate has met.
    fn terms(&self) -> Terms {
        let terms = Terms::default();
        for (holder, term) in &self.met {
            terms.note(holder, *term, || {});
        }
        terms
    }

    /// The first line of a connection arrives.
    pub fn greet(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        connection.is_open = true;
        self.met.push((holder(connection.candidate), connection.term));
    }

    /// A command arrives. Whether the gate obeys.
    pub fn obey(&mut self, at: usize, now: tokio::time::Instant) -> Result<(), CommandError> {
        self.connections[at].is_commanding = false;
        let Connection { candidate, term, .. } = self.connections[at];
        let inputs = Inputs {
            command: *self.command,
            termination: None,
            upstream: Upstream::Reachable,
            keeps_sessions: false,
            unattended_since: None,
        };
        let obeyed = self.terms().act(&holder(candidate), term, || {
            commands::accept(&inputs, &Request::Drop, now)
        });
        self.has_rejected |= obeyed.is_err();
        self.command = Keyed::new(obeyed?);
        Ok(())
    }
}

fn holder(candidate: usize) -> String {
    format!("operator-{candidate}")
}
