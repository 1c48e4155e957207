//! A state of the model: candidates, the API server with its Lease, gates, and what is on its way between them.

use std::{
    fmt::{self, Debug, Write},
    hash::{DefaultHasher, Hash, Hasher},
    ops::Deref,
    sync::Arc,
};

use k8s_openapi::api::coordination::v1::Lease;
use proxypair::leader::election::{Election, Request};

use super::gate::Gate;

/// A value of the product that can neither be hashed nor compared. Its `Debug` text stands for it: all that it holds is in there.
#[derive(Clone)]
pub struct Keyed<T> {
    value: Arc<T>,
    key: u64,
}

impl<T: Debug> Keyed<T> {
    pub fn new(value: T) -> Self {
        let mut text = Text(DefaultHasher::new());
        let _ = write!(text, "{value:?}");
        Self {
            value: Arc::new(value),
            key: text.0.finish(),
        }
    }
}

impl<T> Deref for Keyed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> PartialEq for Keyed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl<T> Hash for Keyed<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.key.hash(hasher);
    }
}

impl<T: Debug> Debug for Keyed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// Hashes what is written to it.
struct Text(DefaultHasher);

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// All that there is at one moment.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct State {
    /// Steps of the clock since the beginning.
    pub now: u32,
    /// When the history began: what was before is the same in all.
    pub begun: u32,
    pub server: Server,
    pub candidates: Vec<Candidate>,
    /// Writes that nobody waits for any more: the API server may still carry them out.
    pub strays: Vec<Keyed<Request>>,
    pub gate: Gate,
    pub faults: Faults,
    /// The term of each leadership, in the order in which they began.
    pub terms: Vec<u64>,
    /// What has been wrong so far.
    pub wrong: Option<Wrong>,
}

/// The API server, with one Lease.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct Server {
    pub lease: Option<Keyed<Lease>>,
    pub version: u64,
}

/// A process that applies for leadership.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct Candidate {
    pub election: Keyed<Election>,
    /// Changes with each process of that identity.
    pub life: u32,
    pub call: Option<Flight>,
    /// When it does something next, if it waits for no answer; in steps of the clock.
    pub wakes: u32,
    /// It does nothing before that: its machine is stopped.
    pub stopped_until: u32,
    /// It has ended and is not started again.
    pub is_gone: bool,
    /// The last term in which it has commanded the gate.
    pub commanded: Option<u64>,
}

/// A call on its way.
#[derive(Clone, Debug, Hash, PartialEq)]
pub struct Flight {
    pub request: Keyed<Request>,
    pub sent: u32,
    /// The first step of the clock at which it is overdue.
    pub overdue: u32,
    /// What the API server has answered. `None` until it has.
    pub answer: Option<Outcome>,
}

/// What the API server answers.
#[derive(Clone, Debug, Hash, PartialEq)]
pub enum Outcome {
    Lease(Keyed<Lease>),
    Missing,
    Conflict,
}

/// How many faults of each kind may still happen.
#[derive(Clone, Copy, Debug, Default, Hash, PartialEq)]
pub struct Faults {
    /// Calls that fail, and nothing is done.
    pub refusals: u8,
    /// Calls that are answered by nobody in time.
    pub timeouts: u8,
    /// The Lease is deleted by a user.
    pub deletions: u8,
    /// A user replaces it by one without a holder.
    pub replacements: u8,
    /// A process dies, and another one starts at once under its identity.
    pub crashes: u8,
    /// A machine is stopped for a while.
    pub stops: u8,
    /// A process receives SIGTERM, and another one starts when it has ended.
    pub retirements: u8,
}

/// What may never happen.
#[derive(Clone, Debug, Hash, PartialEq)]
pub enum Wrong {
    /// Two processes hold a claim at the same moment.
    TwoLeaders,
    /// A leader begins with a term that is not higher than all before.
    OldTerm,
    /// A gate obeys a term after it has met a higher one.
    FormerLeaderObeyed,
    /// A gate rejects a command of the process that holds a claim.
    LeaderRejected,
}
